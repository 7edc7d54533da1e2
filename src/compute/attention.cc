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

const void* FirstPageOf(const AttentionRow& row, int layer) {
  const TileProvider& tiles = *row.tiles;
  if (tiles.Entries(layer, 0) == 0) return TileProvider::kNoSource;
  return tiles.MakesTiles() ? tiles.Source(layer, 0, 0).at : tiles.Page(layer, 0, 0, nullptr).k;
}

// Whether rows that would form a group have pages in common, which then begin with the first. Rows of
// strangers gain nothing from each other and are better spread over the threads.
bool RowsShare(std::span<const AttentionRow> rows, int layer) {
  std::array<const void*, kMaxGroupRows> first;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (r > 0 && rows[r].tiles == rows[r - 1].tiles) return true;
    const size_t in_group = r % kMaxGroupRows;
    first[in_group] = FirstPageOf(rows[r], layer);
    if (first[in_group] == TileProvider::kNoSource) continue;
    if (std::find(first.begin(), first.begin() + in_group, first[in_group]) != first.begin() + in_group)
      return true;
  }
  return false;
}

AttentionPlan MakeAttentionPlan(const AttentionShape& shape, std::span<const AttentionRow> rows,
                                int threads) {
  LARDER_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 && shape.head_dim > 0 &&
               shape.head_dim <= kMaxHeadDim);
  AttentionPlan plan{shape, rows, shape.heads / shape.kv_heads, kMaxGroupRows, 0, 0, false, 0};
  if (plan.queries_per_row * shape.head_dim > kLongRow) plan.group_rows = kMinGroupRows;
  plan.group_rows = std::min(plan.group_rows, static_cast<int>(rows.size()));
  plan.record = SoftmaxRecord::Floats(shape.head_dim);
  int64_t entries = 0;
  const TileProvider* previous = nullptr;
  for (const AttentionRow& row : rows) {
    if (row.tiles == previous) continue;
    previous = row.tiles;
    for (int h = 0; h < shape.kv_heads; ++h) entries = std::max(entries, row.tiles->Entries(shape.layer, h));
  }
  plan.spans = (entries + kSpanEntries - 1) / kSpanEntries;
  const auto items = [&] { return plan.groups * shape.kv_heads * (plan.item_is_one_span ? plan.spans : 1); };
  const auto cut = [&] {
    plan.groups = (static_cast<int64_t>(rows.size()) + plan.group_rows - 1) / plan.group_rows;
  };
  const auto halve_until = [&](int64_t enough, int smallest) {
    for (cut(); items() < enough && plan.group_rows > smallest; cut())
      plan.group_rows = (plan.group_rows + 1) / 2;
  };
  halve_until(RowsShare(rows, shape.layer) ? 0 : 8 * threads, 1);
  const size_t partial_bytes = rows.size() * static_cast<size_t>(shape.heads) *
                               static_cast<size_t>(plan.spans) * plan.record * sizeof(float);
  plan.item_is_one_span = plan.spans > 1 && items() < 4 * threads && partial_bytes <= kMaxPartialBytes;
  halve_until(threads, 4);
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

using Record = SoftmaxRecord;

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
  const F16x factor = Splat(inverse);
  int d = 0;
  for (; d + kBlock <= head_dim; d += kBlock) Store(Mul(Load(total.values() + d), factor), out + d);
  for (; d < head_dim; ++d) out[d] = total.values()[d] * inverse;
  if (row.lse != nullptr) row.lse[head] = LogSumExpOf(total.maximum(), total.sum());
}

// From one query's codes to the next one's.
size_t CodeStride(const AttentionShape& shape) {
  return (static_cast<size_t>(shape.head_dim) + 31) / 32 * 32;
}

// One item at work: a group of rows and a KV head.
class Item {
 public:
  Item(const AttentionPlan& plan, Worker& worker, int64_t group, int kv_head)
      : plan_(plan),
        shape_(plan.shape),
        worker_(worker),
        rows_(plan.Group(group)),
        kv_head_(kv_head),
        provider_(worker.providers) {
    for (size_t r = 0; r < rows_.size(); ++r) {
      int p = 0;
      while (p < providers_ && provider_[p].tiles != rows_[r].tiles) ++p;
      if (p == providers_) {
        provider_[providers_].tiles = rows_[r].tiles;
        provider_[providers_++].entries = rows_[r].tiles->Entries(shape_.layer, kv_head);
      }
      provider_of_row_[r] = static_cast<uint8_t>(p);
    }
    PrepareQueries();
  }

  int queries() const { return static_cast<int>(rows_.size()) * plan_.queries_per_row; }
  int head_dim() const { return shape_.head_dim; }
  // The heads of this item's KV head are consecutive.
  int HeadOf(int query) const { return kv_head_ * plan_.queries_per_row + query % plan_.queries_per_row; }
  int RowOf(int query) const { return query / plan_.queries_per_row; }
  uint64_t pages_read() const { return pages_read_; }

  // Fills the softmaxes of a span, [query] records `stride` floats apart. Providers with the same pages share
  // their reading, and the making of tiles.
  void AddSpan(int64_t span, float* running, size_t stride) {
    running_ = running;
    stride_ = stride;
    for (int q = 0; q < queries(); ++q) RecordOf(q).Clear(head_dim());
    for (int p = 0; p < providers_; ++p) {
      provider_[p].done = !HasSpan(p, span);
      if (!provider_[p].done) FindPages(p, span);
    }
    for (int p = 0; p < providers_; ++p) {
      if (provider_[p].done) continue;
      uint64_t same = 0;  // they are at most 64
      for (int other = p; other < providers_; ++other) {
        if (provider_[other].done || (other != p && !SamePages(p, other))) continue;
        same |= uint64_t{1} << other;
        provider_[other].done = true;
      }
      coded_.fill(nullptr);
      if (provider_[p].tiles->MakesTiles()) MakePages(same, p, span);
      AddPages(same, p);
    }
  }

 private:
  Record RecordOf(int query) const { return Record{running_ + static_cast<size_t>(query) * stride_}; }
  const float* QueryOf(int query) const {
    return rows_[static_cast<size_t>(RowOf(query))].q + static_cast<int64_t>(HeadOf(query)) * head_dim();
  }

  void PrepareQueries() {
    if (shape_.type != KvType::kI16) return;
    const size_t n = static_cast<size_t>(queries());
    codes_ = reinterpret_cast<int16_t*>(worker_.query_codes.Get(n * CodeStride(shape_) / 2));
    scales_ = worker_.query_scales.Get(n);
    for (int q = 0; q < queries(); ++q) {
      int16_t* codes = codes_ + static_cast<size_t>(q) * CodeStride(shape_);
      if (head_dim() % 2 != 0) codes[head_dim()] = 0;
      scales_[q] = QuantizeRow16(QueryOf(q), head_dim(), kQueryCodeLimit, codes) * ScaleOfScores(shape_);
    }
  }

  bool HasSpan(int p, int64_t span) const { return span * kSpanEntries < provider_[p].entries; }

  // The pages of a span, or only their sources where they have to be made.
  void FindPages(int p, int64_t span) {
    SpanProvider& provider = provider_[p];
    for (int i = 0; i < kSpanPages; ++i) {
      const int64_t number = span * kSpanPages + i;
      provider.pages[i] = {};
      provider.sources[i] = nullptr;
      provider.t4[i] = false;
      if (number * kPageTokens >= provider.entries) continue;
      if (provider.tiles->MakesTiles()) {
        const TileSource source = provider.tiles->Source(shape_.layer, kv_head_, number);
        provider.sources[i] = source.at;
        provider.t4[i] = source.t4;
      } else {
        provider.pages[i] = provider.tiles->Page(shape_.layer, kv_head_, number, nullptr);
        provider.sources[i] = provider.pages[i].k;
      }
    }
  }

  // Makes the pages of provider `first`, for all of `providers`, or finds that their codes can be read.
  void MakePages(uint64_t providers, int first, int64_t span) {
    const size_t page_bytes = PageBytes(shape_.type, head_dim());
    auto* scratch = reinterpret_cast<std::byte*>(worker_.tiles.Get(kSpanPages * page_bytes / sizeof(float)));
    const bool read_codes = ReadsCodes(providers);
    for (int i = 0; i < kSpanPages; ++i) {
      if (provider_[first].sources[i] == nullptr) continue;
      const int64_t number = span * kSpanPages + i;
      KvPage page;
      if (read_codes && provider_[first].t4[i]) {
        const TileSource source = provider_[first].tiles->Source(shape_.layer, kv_head_, number);
        coded_[i] = static_cast<const std::byte*>(source.at);
        page.k = page.v = coded_[i];
        page.first_position = source.first_position;
        page.positions = source.positions;
        page.entries = kPageTokens;
      } else {
        page = provider_[first].tiles->Page(shape_.layer, kv_head_, number, scratch + i * page_bytes);
      }
      for (int p = first; p < providers_; ++p) {
        if ((providers >> p & 1) == 0) continue;
        provider_[p].pages[i] = page;
        if (p == first) continue;
        provider_[p].pages[i].entries =
            static_cast<int32_t>(std::min<int64_t>(kPageTokens, provider_[p].entries - number * kPageTokens));
      }
    }
    // Pages lie far apart: all that begin a page are asked for before the first is worked on.
    for (const std::byte* coded : coded_) {
      const CodedLayout layout(KvCodes::kT4, head_dim());
      for (size_t at = layout.ScalesAt(0); coded != nullptr && at < layout.bytes(); at += 64)
        __builtin_prefetch(coded + at);
    }
  }

  // Queries that fill one tile read codes as they are; for more, decoding a page once is cheaper.
  bool ReadsCodes(uint64_t providers) const {
    if (shape_.type != KvType::kI16 || head_dim() % 32 != 0) return false;
    int rows = 0;
    for (size_t r = 0; r < rows_.size(); ++r) rows += (providers >> provider_of_row_[r] & 1) != 0;
    return rows * plan_.queries_per_row <= kQueryTile;
  }

  bool SamePages(int a, int b) const {
    const SpanProvider &x = provider_[a], &y = provider_[b];
    if (x.tiles->MakesTiles() != y.tiles->MakesTiles() || x.sources != y.sources) return false;
    if (x.tiles->MakesTiles()) return std::ranges::count(x.sources, TileProvider::kNoSource) == 0;
    return std::ranges::equal(x.pages, y.pages, {}, &KvPage::v, &KvPage::v);
  }

  // The pages of provider `first`, for the rows of all providers that have the same.
  void AddPages(uint64_t providers, int first) {
    int seeing = 0;
    std::array<uint64_t, kSpanPages> any{};
    for (size_t r = 0; r < rows_.size(); ++r) {
      uint64_t sees = 0;
      visible_[r].fill(0);
      const int p = provider_of_row_[r];
      if ((providers >> p & 1) == 0) continue;
      for (int i = 0; i < kSpanPages; ++i) {
        visible_[r][i] = VisibleEntries(provider_[p].pages[i], rows_[r].position, shape_.window);
        any[i] |= visible_[r][i];
        sees |= visible_[r][i];
      }
      seeing += sees != 0;
    }
    if (seeing == 0) return;
    AskForScales(any, first);
    span_.finite = true;
    for (int i = 0; i < kSpanPages; ++i) {
      span_.coded[i] = nullptr;
      if (any[i] != 0) PreparePage(providers, first, i);
    }
    if (shape_.type == KvType::kI16) {
      AddTiles<KvType::kI16>(providers, seeing);
    } else {
      AddTiles<KvType::kF32>(providers, seeing);
    }
  }

  void PreparePage(uint64_t providers, int first, int i) {
    const KvPage& page = provider_[first].pages[i];
    pages_read_ += !WasRead(first, i);
    span_.page[i] = page;
    span_.coded[i] = coded_[i];
    if (shape_.type != KvType::kI16) return;
    if (coded_[i] != nullptr) return ReadCodedScales(i);
    int entries = 0;  // a writer of the page sees more of it than who shares its beginning
    for (int p = 0; p < providers_; ++p) {
      if ((providers >> p & 1) != 0) entries = std::max(entries, provider_[p].pages[i].entries);
    }
    const int at = i * kPageTokens;
    CopyScales(page.scales, entries, span_.k_scales + at);
    span_.finite &= CopyScales(page.scales + kPageTokens, entries, span_.v_scales + at);
  }

  // Scales lie behind a page's values. All of a span's are asked for before the first is read.
  void AskForScales(const std::array<uint64_t, kSpanPages>& any, int first) const {
    if (shape_.type != KvType::kI16) return;
    for (int i = 0; i < kSpanPages; ++i) {
      if (any[i] == 0 || coded_[i] != nullptr) continue;
      const float* scales = provider_[first].pages[i].scales;
      for (int e = 0; e < 2 * kPageTokens; e += kBlock) __builtin_prefetch(scales + e);
    }
  }

  // Of a page's entries, zero behind them; whether all are finite.
  static bool CopyScales(const float* from, int entries, float* to) {
    F16x poison = Zero();
    for (int e = 0; e < kPageTokens; e += kBlock) {
      F16x scales = Zero();
      if (e + kBlock <= entries) {
        scales = Load(from + e);
      } else if (e < entries) {  // what lies behind may be written meanwhile
        alignas(64) float some[kBlock] = {};
        std::copy(from + e, from + entries, some);
        scales = Load(some);
      }
      poison = Add(poison, Sub(scales, scales));
      Store(scales, to + e);
    }
    return SumLanes(poison) == 0.0f;
  }

  void ReadCodedScales(int i) {
    const CodedLayout layout(KvCodes::kT4, head_dim());
    const auto* halves = reinterpret_cast<const uint16_t*>(coded_[i] + layout.ScalesAt(0));
    const F16x unit = Splat(1.0f / kZeroUnit);
    float* k = span_.k_scales + i * kPageTokens;
    float* v = span_.v_scales + i * kPageTokens;
    for (int e = 0; e < kPageTokens; e += kBlock) {
      Store(Mul(LoadHalf(halves + e), unit), k + e);
      Store(Mul(LoadHalf(halves + kPageTokens + e), unit), v + e);
    }
    for (int e = 0; e < kPageTokens; ++e) span_.finite &= std::isfinite(v[e]);
  }

  // Whether an earlier provider's page of this span was the same: read from memory then.
  bool WasRead(int first, int i) const {
    for (int p = 0; p < first; ++p) {
      if (provider_[p].sources[i] == provider_[first].sources[i] &&
          provider_[first].sources[i] != TileProvider::kNoSource && HasRow(p, i)) {
        return true;
      }
    }
    return false;
  }
  bool HasRow(int p, int i) const {
    for (size_t r = 0; r < rows_.size(); ++r) {
      if (provider_of_row_[r] == p &&
          VisibleEntries(provider_[p].pages[i], rows_[r].position, shape_.window) != 0)
        return true;
    }
    return false;
  }

  // Cuts the queries that see something of the span into tiles of nearly equal size.
  template <KvType kType>
  void AddTiles(uint64_t providers, int seeing) {
    const int count = seeing * plan_.queries_per_row;
    const int tiles = (count + kQueryTile - 1) / kQueryTile;
    SpanQuery tile[kQueryTile];
    int filled = 0, done = 0;
    for (int q = 0; q < queries(); ++q) {
      const size_t row = static_cast<size_t>(RowOf(q));
      uint64_t sees = 0;
      for (const uint64_t page : visible_[row]) sees |= page;
      if (sees == 0) continue;
      tile[filled++] = {
          QueryOf(q),
          kType == KvType::kI16 ? codes_ + static_cast<size_t>(q) * CodeStride(shape_) : nullptr,
          kType == KvType::kI16 ? scales_[q] : ScaleOfScores(shape_),
          visible_[row].data(),
          provider_[provider_of_row_[row]].pages.data(),
          RecordOf(q)};
      if (filled < count / tiles + (done < count % tiles ? 1 : 0)) continue;
      SpanTimesQueries<kType>(filled, tile, span_, head_dim());
      filled = 0;
      ++done;
    }
  }

  const AttentionPlan& plan_;
  const AttentionShape& shape_;
  Worker& worker_;
  std::span<const AttentionRow> rows_;
  int kv_head_;
  std::span<SpanProvider> provider_;  // the first providers_ of them
  int providers_ = 0;
  std::array<uint8_t, kMaxGroupRows> provider_of_row_;
  std::array<std::array<uint64_t, kSpanPages>, kMaxGroupRows> visible_;
  int16_t* codes_ = nullptr;  // kI16: of the queries, CodeStride apart
  float* scales_ = nullptr;
  SpanPages span_;
  std::array<const std::byte*, kSpanPages> coded_{};  // pages of the span that are read as codes
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

// Room for whatever item a worker may take, so that later calls of this size take no memory.
void ReserveWorkers(const AttentionPlan& plan, AttentionScratch::Impl& scratch) {
  const size_t queries = static_cast<size_t>(plan.group_rows) * static_cast<size_t>(plan.queries_per_row);
  for (Worker& worker : scratch.workers) {
    worker.query_codes.Get(queries * CodeStride(plan.shape) / 2);
    worker.query_scales.Get(queries);
    worker.running.Get(queries * plan.record);
    worker.total.Get(queries * plan.record);
    worker.providers.resize(kMaxGroupRows);
  }
}

void AttentionOnTarget(ThreadPool& pool, AttentionScratch::Impl& scratch, const AttentionPlan& plan) {
  ReserveWorkers(plan, scratch);
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
