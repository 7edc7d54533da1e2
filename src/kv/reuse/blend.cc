// CacheBlend (CacheBlend: Fast Large Language Model Serving for RAG with Cached Knowledge Fusion, 2024). Rows
// of stored chunks stand in for most of a prompt, and those whose values in the check layer are furthest from
// true ones are computed in all layers. Kept: the second layer checks, by its values; one choice over all
// chunks. Differs: chunks are found anywhere without separators; keys are stored un-rotated; masks are by
// position, also for rows that are computed alone; a prompt is blended in pieces of at most 2,048 rows at
// fixed places, each with a choice of its own. Gradual filtering (the paper has it, its code does not) is off
// unless `gradual` is above 1.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kv/reuse/method.h"

namespace larder {
namespace {

constexpr int kGradualLayers = 4;  // in which filtering goes from gradual * ratio to ratio

struct BlendParams {
  double ratio = 0.15, gradual = 1;
  int64_t check = 1;
  std::string by = "v", select = "deviation";
  bool reposition = true;
};

// A number of the position that looks random and is the same in every run.
uint64_t Scatter(uint64_t x) {
  x = (x + 1) * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return x ^ (x >> 31);
}

class Blend final : public ReuseMethod {
 public:
  explicit Blend(BlendParams params) : params_(std::move(params)) {}

  ReuseNeeds needs() const override {
    return {
        .chunks = true,
        .check_layer = static_cast<int>(params_.check),
        .last_check_layer = static_cast<int>(params_.check) + (params_.gradual > 1 ? kGradualLayers - 1 : 0),
        .keys = params_.by != "v",
        .values = params_.by != "k",
        .attention = params_.select == "attention",
        .reposition = params_.reposition};
  }

  void Choose(const ReuseView& view, std::span<uint8_t> again) const override {
    const size_t rows = view.positions.size();
    const auto most = static_cast<size_t>(
        std::floor(std::min(1.0, params_.ratio * FactorAt(view.layer)) * static_cast<double>(view.covered)));
    std::vector<size_t> order(rows);
    std::iota(order.begin(), order.end(), size_t{0});
    // Equal ones: the lower position first.
    std::ranges::stable_sort(order, std::greater<>(), [&](size_t row) { return Urgency(view, row); });
    for (size_t i = 0; i < std::min(most, rows); ++i) again[order[i]] = 1;
  }

 private:
  // Of the ratio, how much is left behind a layer: evenly from `gradual` down to 1.
  double FactorAt(int layer) const {
    if (params_.gradual <= 1) return 1;
    const int left = static_cast<int>(params_.check) + kGradualLayers - 1 - layer;
    return 1 + (params_.gradual - 1) * left / (kGradualLayers - 1);
  }

  double Urgency(const ReuseView& view, size_t row) const {
    if (params_.select == "first") return -static_cast<double>(view.in_span[row]);
    if (params_.select == "random")
      return static_cast<double>(Scatter(static_cast<uint64_t>(view.positions[row])) >> 11);
    const float urgency = params_.select == "attention" ? view.attention[row] : view.deviations[row];
    return std::isnan(urgency) ? std::numeric_limits<double>::infinity() : urgency;
  }

  const BlendParams params_;
};

Result<std::unique_ptr<ReuseMethod>> Create(Params& params, std::string_view parameters,
                                            const ReuseModel& model) {
  BlendParams p;
  params.Float("ratio", &p.ratio, 0, 1, "share of the rows from chunks that is computed again");
  params.Int("check", &p.check, 1, 1 << 20, "layer, from 0, whose true rows decide which");
  params.Choice("by", &p.by, {"v", "k", "kv"}, "deviation of values, of keys, or of both");
  params.Float("gradual", &p.gradual, 1, 10,
               "so many times the ratio go on behind the check layer, fewer in each of the next three");
  params.Choice("select", &p.select, {"deviation", "random", "first", "attention"},
                "those that deviate most; to compare: any, the first of every chunk, or those that the layer "
                "before the check gives most attention to");
  params.Bool("reposition", &p.reposition, "rotate keys to where they stand now; false to compare");
  LARDER_TRY(params.ParseList(parameters));
  auto method = std::make_unique<Blend>(std::move(p));
  if (const int last = method->needs().last_check_layer; model.layers > 0 && last >= model.layers) {
    return Fail(ErrorKind::kInvalid, "blend: layer {} is to choose rows, and the model has layers 0..{}",
                last, model.layers - 1);
  }
  return method;
}

}  // namespace

ReuseMethodEntry BlendMethod() {
  return {
      {.name = "blend",
       .help = "rows of stored chunks wherever they stand, those that deviate most computed again",
       .paper = "CacheBlend: Fast Large Language Model Serving for RAG with Cached Knowledge Fusion (2024)",
       .leaf = "C2 C7",
       .memory = "O(n)",
       .needs = "stored chunks (POST /v1/cache/chunks); answers are approximate"},
      Create};
}

}  // namespace larder
