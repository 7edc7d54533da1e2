// MiKV (No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision
// Quantization, 2024). What would be evicted is kept at low precision instead: an entry that is dropped takes
// with it what nothing else says, one that is rounded does not. At the end of the prompt the entries with the
// highest scores stay 16-bit rows, all others become codes. Kept: nothing is ever dropped, the importance of
// an eviction method decides, the choice is each head's own. Differs: the importance is SnapKV's, of the
// prompt's last rows, where the paper takes the sums of H2O, and the choice is made once: rows behind the
// prompt stay rows. Codes have a scale for every 32 dimensions of each entry, without the paper's balancing
// of loud channels between queries and keys. Codes come in pages of 64 entries; those that do not fill one,
// the best of the rest, stay rows.
#include <algorithm>
#include <cmath>
#include <limits>

#include "kv/codec/codec.h"
#include "kv/evict/select.h"

namespace larder {
namespace {

struct MikvParams : EvictCommon {
  WindowScoring scoring;
  std::string codec = "q4_0";
};

class Mikv final : public EvictMethod {
 public:
  Mikv(MikvParams params, std::shared_ptr<const KvCodec> codec)
      : params_(std::move(params)), codec_(std::move(codec)) {}

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<Mikv>(*this); }
  EvictNeeds needs() const override {
    EvictNeeds needs = params_.scoring.needs();
    needs.own_codes = true;
    return needs;
  }

  Status AfterPrompt(EvictView& view) override {
    const int64_t n = view.prompt_rows, window = params_.scoring.window;
    const int64_t budget = params_.parsed.Entries(view.shape, view.lane_count(), n);
    if (n <= budget || n <= window) return {};
    view.lanes.SetCodec(codec_);
    const int64_t newest = n - std::max(window, params_.last);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        const std::vector<float> scores = params_.scoring.Scores(view, layer, head);
        const std::vector<int32_t> kept =
            KeepHighest(scores, view.lanes.Positions(layer, head), budget, params_.sinks, newest);
        LARDER_TRY(view.lanes.Demote(layer, head, Others(scores, kept)));
      }
    }
    return {};
  }

 private:
  // Entries that are not kept, the lowest score first; of equal ones the later, as when it is chosen what
  // stays. Entry i of a lane has position i when the prompt ends.
  static std::vector<int32_t> Others(std::span<const float> scores, std::span<const int32_t> kept) {
    std::vector<int32_t> others;
    for (auto i = static_cast<int32_t>(scores.size()) - 1; i >= 0; --i) {
      if (!std::ranges::binary_search(kept, i)) others.push_back(i);
    }
    std::ranges::stable_sort(others, {}, [&](int32_t i) {
      const float score = scores[static_cast<size_t>(i)];
      return std::isnan(score) ? -std::numeric_limits<float>::infinity() : score;
    });
    return others;
  }

  const MikvParams params_;
  const std::shared_ptr<const KvCodec> codec_;
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters,
                                            const EvictModel& model) {
  MikvParams p;
  p.scoring.Declare(params);
  params.Choice("codec", &p.codec, {"q4_0", "q8_0"}, "of the entries beyond the budget");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  LARDER_TRY(p.scoring.Check(params));
  if (model.layers == 0) return std::unique_ptr<EvictMethod>();  // only to describe it
  if (model.kv_type != KvType::kI16) {
    return Fail(ErrorKind::kUnsupported,
                "mikv makes codes of 16-bit rows, and this cache keeps floats; serve with --kv-type f16");
  }
  LARDER_ASSIGN(std::shared_ptr<const KvCodec> codec, CreateKvCodec(p.codec, model.head_dim));
  return std::make_unique<Mikv>(std::move(p), std::move(codec));
}

}  // namespace

EvictMethodEntry MikvMethod() {
  return {
      {.name = "mikv",
       .help = "nothing is dropped: what snapkv would keep stays 16 bits, the rest becomes codes",
       .paper = "No Token Left Behind: Reliable KV Cache Compression via Importance-Aware Mixed Precision "
                "Quantization (2024)",
       .leaf = "A1 A8",
       .memory = "O(n)",
       .needs = "16-bit rows, heads of a multiple of 16; runs the last rows of the prompt twice"},
      Create};
}

}  // namespace larder
