// A random choice, the baseline of every score: once, at the end of the prompt. Which entries stay depends on
// the seed, the lane and the position only.
#include "kv/evict/select.h"

namespace larder {
namespace {

struct RandomParams : EvictCommon {
  int64_t seed = 1;
};

class Random final : public EvictMethod {
 public:
  explicit Random(RandomParams params) : params_(std::move(params)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Random>(*this); }
  EvictNeeds needs() const override { return {}; }

  Status AfterPrompt(EvictView& view) override {
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (view.lanes.Length(layer, head) <= budget) continue;
        const std::span<const int32_t> positions = view.lanes.Positions(layer, head);
        const auto lane = static_cast<uint64_t>(layer) * static_cast<uint64_t>(view.shape.kv_heads()) +
                          static_cast<uint64_t>(head);
        std::vector<float> scores;
        for (const int32_t position : positions) {
          scores.push_back(Noise((static_cast<uint64_t>(params_.seed) << 48) ^ (lane << 32) ^
                                 static_cast<uint32_t>(position)));
        }
        LARDER_TRY(view.lanes.Keep(
            layer, head, KeepHighest(scores, positions, budget, params_.sinks, view.rows - params_.last)));
      }
    }
    return {};
  }

 private:
  const RandomParams params_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters, const EvictModel&) {
  RandomParams p;
  params.Int("seed", &p.seed, 0, 65535, "another seed, other entries");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  return std::make_unique<Random>(std::move(p));
}

}  // namespace

EvictMethodEntry RandomMethod() {
  return {{.name = "random",
           .help = "a random choice, the baseline of every score",
           .paper = "",
           .leaf = "A1",
           .memory = "O(B)",
           .needs = ""},
          Create};
}

}  // namespace larder
