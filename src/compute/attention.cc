// Work items of attention. Rows come in groups; an item is a group's rows, one KV head and either one span or
// all spans. One span for each item spreads a few rows with a long context over all threads, at the price of
// storing the spans' results; all spans needs no such store and is taken where there are rows enough. Both
// merge spans in index order, so the choice changes no bit.
#include <algorithm>
#include <array>

#include "compute/attention_scratch.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/attention.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/attention_kernels-inl.h"
#include "compute/simd_ops-inl.h"

#ifndef LARDER_COMPUTE_ATTENTION_PLAN_
#define LARDER_COMPUTE_ATTENTION_PLAN_
namespace larder {
namespace {

// Rows that read a page together. Their running softmaxes stay in the second-level cache: fewer rows where a
// row is long, but never so few that 32 branches of one prefix would read it twice.
constexpr int kMaxGroupRows = 64;
constexpr int kMinGroupRows = 32;
constexpr int kLongRow = 512;  // elements of a row's queries of one KV head
constexpr size_t kMaxPartialBytes = size_t{64} << 20;
constexpr int kHeader =
    16;  // floats before the values of a running softmax: maximum, sum, padding to a cache line

struct AttentionPlan {
  const AttentionShape& shape;
  std::span<const AttentionRow> rows;
  int queries_per_row;  // heads that share a KV head
  int group_rows;
  int64_t groups;
  int64_t spans;  // of the longest row
  bool item_is_one_span;
  size_t record;  // floats of one running softmax

  std::span<const AttentionRow> Group(int64_t g) const {
    const size_t first = static_cast<size_t>(g * group_rows);
    return rows.subspan(first, std::min<size_t>(static_cast<size_t>(group_rows), rows.size() - first));
  }
};

AttentionPlan MakeAttentionPlan(const AttentionShape& shape, std::span<const AttentionRow> rows,
                                int threads) {
  LARDER_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0);
  AttentionPlan plan{shape, rows, shape.heads / shape.kv_heads, kMaxGroupRows, 0, 0, false, 0};
  if (plan.queries_per_row * shape.head_dim > kLongRow) plan.group_rows = kMinGroupRows;
  plan.group_rows = std::min(plan.group_rows, static_cast<int>(rows.size()));
  plan.record = kHeader + static_cast<size_t>((shape.head_dim + 15) / 16 * 16);
  int64_t entries = 0;
  const TileProvider* previous = nullptr;
  for (const AttentionRow& row : rows) {
    if (row.tiles == previous) continue;
    previous = row.tiles;
    for (int h = 0; h < shape.kv_heads; ++h) entries = std::max(entries, row.tiles->Entries(shape.layer, h));
  }
  constexpr int64_t kSpanEntries = kPageTokens * kSpanPages;
  plan.spans = (entries + kSpanEntries - 1) / kSpanEntries;
  const auto items = [&] { return plan.groups * shape.kv_heads * (plan.item_is_one_span ? plan.spans : 1); };
  const auto cut = [&] {
    plan.groups = (static_cast<int64_t>(rows.size()) + plan.group_rows - 1) / plan.group_rows;
  };
  cut();
  const size_t partial_bytes = rows.size() * static_cast<size_t>(shape.heads) *
                               static_cast<size_t>(plan.spans) * plan.record * sizeof(float);
  plan.item_is_one_span = plan.spans > 1 && items() < 4 * threads && partial_bytes <= kMaxPartialBytes;
  while (items() < threads && plan.group_rows > 4) {
    plan.group_rows /= 2;
    cut();
  }
  return plan;
}

}  // namespace
}  // namespace larder
#endif

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

using Worker = AttentionScratch::Impl::Worker;

// A running softmax in memory.
struct Record {
  float* base;
  float& maximum() const { return base[0]; }
  float& sum() const { return base[1]; }
  float& seen() const { return base[2]; }  // 0: no entry was visible so far
  float* values() const { return base + kHeader; }
  void Clear(int head_dim) const {
    maximum() = kMinusInfinity;
    sum() = 0;
    seen() = 0;
    for (int d = 0; d < head_dim; ++d) values()[d] = 0;
  }
};

void Merge(const Record& span, const Record& total, int head_dim) {
  if (span.seen() == 0) return;
  const MergeWeights w = WeightsOf(total.maximum(), span.maximum());
  total.maximum() = w.maximum;
  total.sum() = std::fma(total.sum(), w.of_total, span.sum() * w.of_addition);
  float* to = total.values();
  const float* from = span.values();
  int d = 0;
  for (; d + kBlock <= head_dim; d += kBlock) {
    Store(Fma(Load(to + d), Splat(w.of_total), Mul(Load(from + d), Splat(w.of_addition))), to + d);
  }
  for (; d < head_dim; ++d) to[d] = std::fma(to[d], w.of_total, from[d] * w.of_addition);
}

void WriteResult(const Record& total, const AttentionRow& row, int head, int head_dim) {
  const float inverse = InverseOfSum(total.sum());
  float* out = row.out + static_cast<int64_t>(head) * head_dim;
  for (int d = 0; d < head_dim; ++d) out[d] = total.values()[d] * inverse;
  if (row.lse != nullptr) row.lse[head] = LogSumExpOf(total.maximum(), total.sum());
}

// One item at work: a group of rows and a KV head.
class Item {
 public:
  Item(const AttentionPlan& plan, Worker& worker, int64_t group, int kv_head)
      : plan_(plan), shape_(plan.shape), worker_(worker), rows_(plan.Group(group)), kv_head_(kv_head) {
    for (size_t r = 0; r < rows_.size(); ++r) {
      int p = 0;
      while (p < providers_ && provider_[p].tiles != rows_[r].tiles) ++p;
      if (p == providers_) {
        provider_[providers_++] = {rows_[r].tiles, rows_[r].tiles->Entries(shape_.layer, kv_head), {}};
      }
      provider_of_row_[r] = static_cast<uint8_t>(p);
    }
  }

  int queries() const { return static_cast<int>(rows_.size()) * plan_.queries_per_row; }
  int head_dim() const { return shape_.head_dim; }
  // The heads of this item's KV head are consecutive.
  int HeadOf(int query) const { return kv_head_ * plan_.queries_per_row + query % plan_.queries_per_row; }
  int RowOf(int query) const { return query / plan_.queries_per_row; }
  uint64_t pages_read() const { return pages_read_; }

  // Adds a span to the running softmaxes, [query] records `stride` floats apart.
  void AddSpan(int64_t span, float* running, size_t stride) {
    running_ = running;
    stride_ = stride;
    for (int q = 0; q < queries(); ++q) Record{running + static_cast<size_t>(q) * stride}.Clear(head_dim());
    for (int64_t page = span * kSpanPages; page < (span + 1) * kSpanPages; ++page) AddPage(page);
  }

 private:
  struct Provider {
    const TileProvider* tiles;
    int64_t entries;
    KvPage page;
  };

  // Asks each provider once. A page in the cache is kept until all have answered, so that providers with the
  // same page share its reading; a tile made on the way is used at once, since the next one takes its place.
  void AddPage(int64_t number) {
    std::byte* tile =
        reinterpret_cast<std::byte*>(worker_.tile.Get(PageBytes(shape_.type, head_dim()) / sizeof(float)));
    const std::byte* tile_end = tile + PageBytes(shape_.type, head_dim());
    bool any = false;
    for (int p = 0; p < providers_; ++p) {
      KvPage& page = provider_[p].page;
      page = {};
      if (number * kPageTokens >= provider_[p].entries) continue;
      page = provider_[p].tiles->Page(shape_.layer, kv_head_, number, tile);
      const std::byte* k = static_cast<const std::byte*>(page.k);
      if (k >= tile && k < tile_end) {
        Process(p, p + 1);
        page = {};
      }
      any = any || page.k != nullptr;
    }
    if (any) Process(0, providers_);
  }

  // Works on the pages of providers [first, end), each distinct page once.
  void Process(int first, int end) {
    for (int p = first; p < end; ++p) {
      const void* k = provider_[p].page.k;
      const void* v = provider_[p].page.v;
      if (k == nullptr) continue;
      uint64_t same = 0;  // providers with this page; they are at most 64
      for (int other = p; other < end; ++other) {
        KvPage& page = provider_[other].page;
        if (page.k == k && page.v == v) same |= uint64_t{1} << other;
      }
      AddDistinctPage(k, v, same);
      for (int other = p; other < end; ++other) {
        if ((same >> other & 1) != 0) provider_[other].page.k = nullptr;
      }
    }
  }

  void AddDistinctPage(const void* k, const void* v, uint64_t providers) {
    std::array<uint64_t, kMaxGroupRows> visible;
    int seeing = 0;
    for (size_t r = 0; r < rows_.size(); ++r) {
      visible[r] = 0;
      const int p = provider_of_row_[r];
      if ((providers >> p & 1) == 0) continue;
      visible[r] = VisibleEntries(provider_[p].page, rows_[r].position, shape_.window);
      seeing += visible[r] != 0;
    }
    if (seeing == 0) return;
    ++pages_read_;
    const int tiles = (seeing * plan_.queries_per_row + kQueryTile - 1) / kQueryTile;
    if (shape_.type == KvType::kF32) {
      return AddTiles(visible.data(), seeing, static_cast<const float*>(k), static_cast<const float*>(v));
    }
    const uint16_t* k_halves = static_cast<const uint16_t*>(k);
    const uint16_t* v_halves = static_cast<const uint16_t*>(v);
    if (tiles == 1) return AddTiles(visible.data(), seeing, k_halves, v_halves);
    const int64_t elements = static_cast<int64_t>(kPageTokens) * head_dim();
    float* k_floats = worker_.k.Get(static_cast<size_t>(elements));
    float* v_floats = worker_.v.Get(static_cast<size_t>(elements));
    ToFloats(k_halves, elements, k_floats);
    ToFloats(v_halves, elements, v_floats);
    AddTiles(visible.data(), seeing, k_floats, v_floats);
  }

  // Cuts the queries that see the page into tiles of nearly equal size.
  template <class T>
  void AddTiles(const uint64_t* visible, int seeing, const T* k, const T* v) {
    const int count = seeing * plan_.queries_per_row;
    const int tiles = (count + kQueryTile - 1) / kQueryTile;
    Query tile[kQueryTile];
    int filled = 0, done = 0;
    for (int q = 0; q < queries(); ++q) {
      const int row = RowOf(q);
      if (visible[row] == 0) continue;
      const Record record{running_ + static_cast<size_t>(q) * stride_};
      record.seen() = 1;
      tile[filled++] = {rows_[static_cast<size_t>(row)].q + static_cast<int64_t>(HeadOf(q)) * head_dim(),
                        provider_[provider_of_row_[row]].page.logit_bias,
                        visible[row],
                        &record.maximum(),
                        &record.sum(),
                        record.values()};
      if (filled < count / tiles + (done < count % tiles ? 1 : 0)) continue;
      PageTimesQueries<T>(filled, tile, k, v, head_dim(), shape_.scale);
      filled = 0;
      ++done;
    }
  }

  const AttentionPlan& plan_;
  const AttentionShape& shape_;
  Worker& worker_;
  std::span<const AttentionRow> rows_;
  int kv_head_;
  int providers_ = 0;
  std::array<Provider, kMaxGroupRows> provider_;
  std::array<uint8_t, kMaxGroupRows> provider_of_row_;
  float* running_ = nullptr;
  size_t stride_ = 0;
  uint64_t pages_read_ = 0;
};

// All spans of a group and KV head, merged as they come.
void AllSpans(const AttentionPlan& plan, AttentionScratch::Impl& scratch, int64_t item, int worker_index) {
  Worker& worker = scratch.workers[static_cast<size_t>(worker_index)];
  const int64_t group = item / plan.shape.kv_heads;
  Item work(plan, worker, group, static_cast<int>(item % plan.shape.kv_heads));
  const size_t floats = static_cast<size_t>(work.queries()) * plan.record;
  float* running = worker.running.Get(floats);
  float* total = worker.total.Get(floats);
  const auto record = [&](float* base, int q)
                          HWY_ATTR { return Record{base + static_cast<size_t>(q) * plan.record}; };
  for (int q = 0; q < work.queries(); ++q) record(total, q).Clear(work.head_dim());
  for (int64_t span = 0; span < plan.spans; ++span) {
    work.AddSpan(span, running, plan.record);
    for (int q = 0; q < work.queries(); ++q) Merge(record(running, q), record(total, q), work.head_dim());
  }
  for (int q = 0; q < work.queries(); ++q) {
    WriteResult(record(total, q), plan.Group(group)[static_cast<size_t>(work.RowOf(q))], work.HeadOf(q),
                work.head_dim());
  }
  scratch.pages_read.fetch_add(work.pages_read(), std::memory_order_relaxed);
}

// One span, left in the partial results: [group][KV head][span][query of the item].
float* PartialsOf(const AttentionPlan& plan, float* partial, int64_t group, int64_t kv_head, int64_t span) {
  const int64_t queries = static_cast<int64_t>(plan.group_rows) * plan.queries_per_row;
  return partial +
         static_cast<size_t>(((group * plan.shape.kv_heads + kv_head) * plan.spans + span) * queries) *
             plan.record;
}

void OneSpan(const AttentionPlan& plan, AttentionScratch::Impl& scratch, float* partial, int64_t item,
             int worker_index) {
  const int64_t span = item % plan.spans;
  const int64_t kv_head = item / plan.spans % plan.shape.kv_heads;
  const int64_t group = item / plan.spans / plan.shape.kv_heads;
  Item work(plan, scratch.workers[static_cast<size_t>(worker_index)], group, static_cast<int>(kv_head));
  work.AddSpan(span, PartialsOf(plan, partial, group, kv_head, span), plan.record);
  scratch.pages_read.fetch_add(work.pages_read(), std::memory_order_relaxed);
}

void MergeRow(const AttentionPlan& plan, AttentionScratch::Impl& scratch, float* partial, int64_t row,
              int worker_index) {
  const Record total{scratch.workers[static_cast<size_t>(worker_index)].total.Get(plan.record)};
  const int64_t group = row / plan.group_rows, row_in_group = row % plan.group_rows;
  for (int head = 0; head < plan.shape.heads; ++head) {
    const int64_t query = row_in_group * plan.queries_per_row + head % plan.queries_per_row;
    total.Clear(plan.shape.head_dim);
    for (int64_t span = 0; span < plan.spans; ++span) {
      float* base = PartialsOf(plan, partial, group, head / plan.queries_per_row, span);
      Merge(Record{base + static_cast<size_t>(query) * plan.record}, total, plan.shape.head_dim);
    }
    WriteResult(total, plan.rows[static_cast<size_t>(row)], head, plan.shape.head_dim);
  }
}

void AttentionOnTarget(ThreadPool& pool, AttentionScratch::Impl& scratch, const AttentionPlan& plan) {
  const int64_t lanes = plan.groups * plan.shape.kv_heads;
  if (!plan.item_is_one_span) {
    pool.Run(lanes, [&](int64_t item, int worker) HWY_ATTR { AllSpans(plan, scratch, item, worker); });
    return;
  }
  float* partial = scratch.partial.Get(static_cast<size_t>(lanes * plan.spans * plan.group_rows) *
                                       static_cast<size_t>(plan.queries_per_row) * plan.record);
  pool.Run(lanes * plan.spans,
           [&](int64_t item, int worker) HWY_ATTR { OneSpan(plan, scratch, partial, item, worker); });
  pool.Run(static_cast<int64_t>(plan.rows.size()),
           [&](int64_t row, int worker) HWY_ATTR { MergeRow(plan, scratch, partial, row, worker); });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(AttentionOnTarget);

AttentionScratch::AttentionScratch() : impl_(std::make_unique<Impl>()) {}
AttentionScratch::~AttentionScratch() = default;
uint64_t AttentionScratch::pages_read() const { return impl_->pages_read.load(std::memory_order_relaxed); }

void Attention(ThreadPool& pool, AttentionScratch& scratch, const AttentionShape& shape,
               std::span<const AttentionRow> rows) {
  if (rows.empty()) return;
  AttentionScratch::Impl& impl = scratch.impl();
  if (impl.workers.size() < static_cast<size_t>(pool.threads()))
    impl.workers.resize(static_cast<size_t>(pool.threads()));
  HWY_DYNAMIC_DISPATCH(AttentionOnTarget)(pool, impl, MakeAttentionPlan(shape, rows, pool.threads()));
}

}  // namespace larder
#endif
