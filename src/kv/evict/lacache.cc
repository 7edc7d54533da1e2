// LaCache (LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models,
// 2025). No scores: of the old entries each layer keeps others, in groups along the text, so that the layers
// together hold more of it than any one of them. When all slots are taken, the same pattern is laid over what
// is left, so that the older a token the fewer layers still have it. Positions are ranks: a stream may go on
// without end. Kept: the published code's arithmetic, its interleaved assignment of layers to rungs, the
// number of slots that is raised once. Differs: the paper's drawing (consecutive layers on a rung) is there
// too, and so are random layers on each rung, drawn for every group: what the ladder's order is worth. Where
// a fused sweep's last rung would reach behind its group, it is moved back so that all layers keep the same
// number.
#include <algorithm>
#include <numeric>
#include <random>
#include <utility>

#include "kv/evict/method.h"

namespace larder {
namespace {

struct LaCacheParams : EvictCommon {
  int64_t span = 0, overlap = 0, chunk = 0, seed = 1;
  std::string rungs = "interleaved";
};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

class LaCache final : public EvictMethod {
 public:
  LaCache(LaCacheParams params, int64_t layers) : params_(std::move(params)), layers_(layers) {
    group_ = 1 + CeilDiv(layers_ - params_.span, params_.span - params_.overlap);
    kept_ = std::min(CeilDiv(params_.span, params_.span - params_.overlap), group_);
    freed_ = group_ - kept_;
    cursor_ = params_.sinks;
    random_.seed(static_cast<uint32_t>(7919 * params_.seed + 1));
  }

  int64_t freed() const { return freed_; }
  // The fewest slots with which a sweep frees anything.
  int64_t LeastSlots() const { return params_.sinks + layers_ + std::max(group_, kept_); }

  std::unique_ptr<EvictMethod> Copy() const override { return std::make_unique<LaCache>(*this); }
  EvictNeeds needs() const override {
    return {.positions = PositionMode::kCompact, .every_token = true, .chunk = params_.chunk};
  }
  Status AfterPrompt(EvictView& view) override { return Compact(view); }
  Status AfterChunk(EvictView& view) override { return Compact(view); }
  Status AfterToken(EvictView& view) override { return Compact(view); }

 private:
  // Groups of `width` entries from `start` on; a layer keeps of each `kept_`, `stride` apart, from its rung
  // on.
  struct Sweep {
    int64_t start, groups, width, stride;
  };

  Status Compact(EvictView& view) {
    if (slots_ == 0) {
      slots_ = params_.parsed.Entries(view.shape, view.lane_count(), view.prompt_rows);
      if (slots_ < LeastSlots()) {
        return Fail(ErrorKind::kInvalid,
                    "lacache: {} slots a layer are too few for this model; give at least {}", slots_,
                    LeastSlots());
      }
      view.lanes.KeepRoom(slots_ + (params_.parsed.is_bytes() ? 0 : freed_ / 2) + 1);
    }
    int64_t excess = view.lanes.Length(0, 0) - slots_;
    if (excess <= 0) return {};
    if (!raised_ && !params_.parsed.is_bytes()) {
      raised_ = true;
      slots_ += freed_ / 2;
      excess -= freed_ / 2;
      if (excess <= 0) return {};
    }
    const int64_t groups_left = (slots_ - cursor_ - layers_) / kept_;  // up to the recent window
    if (excess <= groups_left * freed_) {
      const int64_t groups = CeilDiv(excess, freed_);
      LARDER_TRY(Run(view, {cursor_, groups, group_, 1}));
      cursor_ += groups * kept_;
      return {};
    }
    if (groups_left > 0) {
      LARDER_TRY(Run(view, {cursor_, groups_left, group_, 1}));
      excess -= groups_left * freed_;
    }
    return StartOver(view, excess);
  }

  // From the sinks on, over what earlier sweeps left. What needs several sweeps takes one with wider groups.
  Status StartOver(EvictView& view, int64_t excess) {
    const int64_t one = (slots_ - params_.sinks - layers_) / kept_ * freed_;
    const int64_t sweeps = CeilDiv(excess, one);
    const int64_t width = group_ + (sweeps - 1) * (group_ - 1);
    const int64_t groups = CeilDiv(excess, width - kept_);
    LARDER_TRY(Run(view, {params_.sinks, groups, width, sweeps}));
    cursor_ = params_.sinks + groups * kept_;
    return {};
  }

  Status Run(EvictView& view, const Sweep& sweep) {
    const int64_t length = view.lanes.Length(0, 0);
    if (params_.rungs == "random") DrawPlaces(sweep.groups);
    for (int layer = 0; layer < static_cast<int>(layers_); ++layer) {
      keep_.clear();
      const auto take = [&](int64_t entry) { keep_.push_back(static_cast<int32_t>(entry)); };
      for (int64_t i = 0; i < sweep.start; ++i) take(i);
      for (int64_t j = 0; j < sweep.groups; ++j) {
        const int64_t rung = Rung(PlaceOf(j, layer), sweep);
        for (int64_t q = 0; q < kept_; ++q) take(sweep.start + sweep.width * j + rung + sweep.stride * q);
      }
      for (int64_t i = sweep.start + sweep.width * sweep.groups; i < length; ++i) take(i);
      for (int head = 0; head < view.shape.kv_heads(); ++head)
        LARDER_TRY(view.lanes.Keep(layer, head, keep_));
    }
    return {};
  }

  // A layer's place among the layers of a group, from which its rung follows. As many are on a rung whatever
  // the order.
  int64_t PlaceOf(int64_t group, int layer) const {
    return places_.empty() ? layer : places_[static_cast<size_t>(group * layers_ + layer)];
  }

  void DrawPlaces(int64_t groups) {
    places_.resize(static_cast<size_t>(groups * layers_));
    for (auto begin = places_.begin(); begin != places_.end(); begin += layers_) {
      std::iota(begin, begin + layers_, int64_t{0});
      for (uint32_t i = static_cast<uint32_t>(layers_) - 1; i > 0; --i)
        std::swap(begin[i], begin[random_() % (i + 1)]);
    }
  }

  int64_t Rung(int64_t place, const Sweep& sweep) const {
    const int64_t rungs = sweep.width - kept_ + 1;
    const int64_t rung = params_.rungs == "contiguous" ? place * rungs / layers_ : place % rungs;
    return std::min(rung, sweep.width - 1 - sweep.stride * (kept_ - 1));
  }

  const LaCacheParams params_;
  const int64_t layers_;
  int64_t group_, kept_, freed_;  // entries of a group, how many of them a layer keeps, and frees
  int64_t slots_ = 0;             // of each layer; 0: not known yet
  int64_t cursor_;                // entries before it have been swept since the last start
  bool raised_ = false;
  std::minstd_rand random_;
  std::vector<int32_t> keep_;    // scratch, kept from token to token
  std::vector<int64_t> places_;  // of random rungs, [group][layer]
};

Result<std::unique_ptr<EvictMethod>> Create(Params& params, std::string_view parameters,
                                            const EvictModel& model) {
  LaCacheParams p;
  p.budget = "0.5";
  p.sinks = 4;
  params.Int("span", &p.span, 0, 4096, "layers that keep an old token; 0: half of them");
  params.Int("overlap", &p.overlap, 0, 4095, "of the span, in common with the next rung; below it");
  params.Int("chunk", &p.chunk, 0, 1 << 20,
             "compact the prompt at every multiple of this many rows; 0: at its end");
  params.Choice("rungs", &p.rungs, {"interleaved", "contiguous", "random"}, "which layers share a rung");
  params.Int("seed", &p.seed, 0, 65535, "with rungs=random: another seed, other layers");
  LARDER_TRY(ReadEvictParams(params, parameters, p));
  if (model.layers == 0) return std::unique_ptr<EvictMethod>();  // only to describe it
  if (model.windows) {
    return Fail(
        ErrorKind::kUnsupported,
        "lacache lays its ladder over all layers, and this model's window layers are bounded already; use "
        "snapkv or h2o");
  }
  if (model.transformed_keys) {
    return Fail(
        ErrorKind::kUnsupported,
        "lacache rotates keys when they are read, which a cache with a codec has done before; serve with "
        "--kv-type f16");
  }
  if (p.last != 0)
    return Fail(ErrorKind::kInvalid, "lacache keeps the newest tokens by itself; leave 'last' out");
  if (p.span == 0) p.span = std::max(1, model.layers / 2);
  if (p.span <= p.overlap || p.span > model.layers) {
    return Fail(ErrorKind::kInvalid,
                "lacache: span is {} and overlap {}; the span must be above the overlap and at "
                "most {}, the layers of this model",
                p.span, p.overlap, model.layers);
  }
  auto method = std::make_unique<LaCache>(p, model.layers);
  if (method->freed() < 1) {
    return Fail(ErrorKind::kInvalid,
                "lacache: with span {} and overlap {} no layer would free anything; lower one", p.span,
                p.overlap);
  }
  return method;
}

}  // namespace

EvictMethodEntry LaCacheMethod() {
  return {
      {.name = "lacache",
       .help = "a ladder: each layer keeps other old tokens; positions by rank, streams without end",
       .paper =
           "LaCache: Ladder-Shaped KV Caching for Efficient Long-Context Modeling of Large Language Models "
           "(2025)",
       .leaf = "A2 A4",
       .memory = "O(B)",
       .needs = "no window layers; positions by rank, so nothing is read from the cache"},
      Create};
}

}  // namespace larder
