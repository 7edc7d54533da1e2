// Runs of a lane's entries become one each.
#include <algorithm>
#include <numeric>

#include "kv/lane.h"

namespace larder {

// To an own page.
void LaneTable::StoreMean(int layer, int kv_head, const MergedRun& run, std::span<const float> weights,
                          int64_t to) {
  Lane& lane = At(layer, kv_head);
  const auto dim = static_cast<size_t>(shape_->head_dim());
  std::vector<float> k(dim), v(dim), mean_k(dim), mean_v(dim);
  for (int64_t entry = run.first; entry < run.first + run.count; ++entry) {
    Load(layer, kv_head, entry, k.data(), v.data());
    const float weight = weights[static_cast<size_t>(entry)];
    for (size_t d = 0; d < dim; ++d) {
      mean_k[d] += weight * k[d];
      mean_v[d] += weight * v[d];
    }
  }
  const auto at = static_cast<size_t>(to);
  StoreKvRow(shape_->type(), shape_->head_dim(), mean_k.data(), mean_v.data(),
             lane.pages[at / kPageTokens].own, static_cast<int>(at % kPageTokens));
  const auto positions = lane.positions.begin() + run.first;
  lane.positions[at] = *std::max_element(positions, positions + run.count);
  const auto scores = lane.scores.begin() + run.first;
  lane.scores[at] = std::accumulate(scores, scores + run.count, 0.0f);
}

Status LaneTable::Merge(int layer, int kv_head, std::span<const MergedRun> runs,
                        std::span<const float> weights) {
  LARDER_CHECK(mode_ == PositionMode::kKeep && reserved_ == 0);
  Lane& lane = At(layer, kv_head);
  LARDER_CHECK(std::ssize(weights) == lane.length && lane.coded == 0);
  const int64_t kept = std::ssize(runs);
  const auto run_of = [&](int64_t entry) -> const MergedRun& { return runs[static_cast<size_t>(entry)]; };
  int64_t still = 0;  // entries in front of the first that changes
  while (still < kept && run_of(still).count == 1 && run_of(still).first == still) ++still;
  if (still == lane.length) return {};
  for (int64_t page = still / kPageTokens; page * kPageTokens < kept; ++page)
    LARDER_TRY(Own(layer, kv_head, page));
  // What is written lies in front of all that is still to be read.
  int64_t end = still;
  for (int64_t i = still; i < kept; ++i) {
    const MergedRun& run = run_of(i);
    LARDER_CHECK(run.first >= end && run.count > 0);
    end = int64_t{run.first} + run.count;
    LARDER_CHECK(end <= lane.length);
    if (run.count > 1) {
      StoreMean(layer, kv_head, run, weights, i);
    } else {
      Move(layer, kv_head, run.first, i);
    }
  }
  lane.length = kept;
  Shrink(lane, kept);
  for (size_t page = 0; page < lane.pages.size(); ++page) lane.Straighten(page);
  for (int64_t i = still; i < kept; ++i) {
    const bool changes = run_of(i).logit_bias != 0 || !lane.logit_bias.empty();
    if (run_of(i).count > 1 && changes) SetLogitBias(layer, kv_head, i, run_of(i).logit_bias);
  }
  return {};
}

}  // namespace larder
