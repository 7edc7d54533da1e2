// larder bench pool: the object pool (base/pool) beside a ring, a locked stack and malloc, and what large
// pages do for blocks of the cache.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <functional>
#include <map>
#include <random>
#include <thread>

#include "base/memory.h"
#include "base/pool/object_pool.h"
#include "larder/bench_figures.h"
#include "larder/bench_rows.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr int64_t kObjects = 1 << 21;   // taken and put back in one measurement, by all threads together
constexpr size_t kLongestBurst = 300;   // more than a thread's cache holds
constexpr size_t kObjectBytes = 12288;  // a page of a lane
// Of blocks that large pages are measured with: the more where memory has three times as much.
constexpr uint64_t kMostTouchedBytes = uint64_t{4} << 30, kLeastTouchedBytes = uint64_t{1} << 30;
constexpr size_t kLineBytes = 64;

// Each thread's view of where objects come from: Get fills a burst, Put gives one back.
template <class Pool>
struct SharedList {
  explicit SharedList(Pool& source) : pool(source) {}
  bool Get(std::span<uint32_t> out) { return pool.Get(out); }
  void Put(std::span<const uint32_t> objects) { pool.Put(objects); }
  using Item = uint32_t;
  Pool& pool;
};

template <class Pool>
struct ThreadCache {
  explicit ThreadCache(Pool& source) : cache(&source) {}
  bool Get(std::span<uint32_t> out) { return cache.Get(out); }
  void Put(std::span<const uint32_t> objects) { cache.Put(objects); }
  using Item = uint32_t;
  PoolCache<Pool, 256> cache;
};

struct Malloc {
  explicit Malloc(std::nullptr_t) {}
  bool Get(std::span<void*> out) {
    for (void*& p : out) p = std::malloc(kObjectBytes);
    return true;
  }
  void Put(std::span<void* const> objects) {
    for (void* p : objects) std::free(p);
  }
  using Item = void*;
};

// Every thread takes a burst and puts it back.
template <class View, class Source>
void TakeAndPut(Source&& source, int threads, size_t burst) {
  std::vector<std::jthread> workers;
  for (int t = 0; t < threads; ++t) {
    workers.emplace_back([&] {
      View view(source);
      std::vector<typename View::Item> items(burst);
      for (int64_t i = 0; i < kObjects / threads; i += static_cast<int64_t>(burst)) {
        LARDER_CHECK(view.Get(items));
        view.Put(items);
      }
    });
  }
}

// Half of the threads take, the other half puts back what it is handed, a burst at a time.
template <class View, class Source>
void HandOver(Source&& source, int threads, size_t burst) {
  struct alignas(kNoShareBytes) Mailbox {
    std::vector<typename View::Item> items;
    std::atomic<bool> full{false};
  };
  const auto wait = [](std::atomic<bool>& flag, bool wanted) {
    for (int i = 0; flag.load(std::memory_order_acquire) != wanted; ++i)
      if (i > 100) std::this_thread::yield();
  };
  const int pairs = threads / 2;
  std::vector<Mailbox> boxes(static_cast<size_t>(pairs));
  std::vector<std::jthread> workers;
  const int64_t bursts = kObjects / pairs / static_cast<int64_t>(burst);
  for (Mailbox& box : boxes) {
    box.items.resize(burst);
    workers.emplace_back([&] {
      View view(source);
      std::vector<typename View::Item> items(burst);
      for (int64_t i = 0; i < bursts; ++i) {
        while (!view.Get(items)) std::this_thread::yield();
        wait(box.full, false);
        box.items.swap(items);
        box.full.store(true, std::memory_order_release);
      }
    });
    workers.emplace_back([&] {
      View view(source);
      for (int64_t i = 0; i < bursts; ++i) {
        wait(box.full, true);
        view.Put(box.items);
        box.full.store(false, std::memory_order_release);
      }
    });
  }
}

struct Case {
  std::string list, way;
  size_t burst;
  int threads;
  std::function<void()> run;
  TimedWork time;
};

class PoolSpeed {
 public:
  Status Add(const BenchSettings& settings) {
    rounds_ = settings.rounds;
    LARDER_TRY(AddPool<LockFreeList<>>("lock-free", lock_free_));
    LARDER_TRY(AddPool<LockedList<>>("locked", locked_));
    LARDER_TRY(AddPool<RingList<>>("ring", ring_));
    Each([&](size_t burst, int threads) {
      AddCase("malloc", "local", burst, threads, [=] { TakeAndPut<Malloc>(nullptr, threads, burst); });
      if (threads > 1)
        AddCase("malloc", "handed over", burst, threads, [=] { HandOver<Malloc>(nullptr, threads, burst); });
    });
    return {};
  }

  // A round is every case once; round 0 warms.
  void Run(ProgressBar& bar) {
    for (int64_t round = 0; round <= rounds_; ++round) {
      bar.Update(static_cast<double>(round) / static_cast<double>(rounds_ + 1));
      for (Case& c : cases_) AddTimed(c.time, round > 0, c.run);
    }
  }

  void Fill(FigureReport& report) const {
    std::map<std::string, double> ours;  // by everything but the list
    for (const Case& c : cases_) {
      const std::string key = c.way + std::to_string(c.burst) + "/" + std::to_string(c.threads);
      if (c.list == "lock-free") ours[key] = c.time.Median();
      const std::string local = "cached" + key.substr(c.way.size());
      const double own = c.list == "malloc" && c.way == "local" ? ours[local] : ours[key];
      report.rows.push_back({.labels = {{"list", c.list},
                                        {"way", c.way},
                                        {"burst", std::to_string(c.burst)},
                                        {"pool_threads", std::to_string(c.threads)}},
                             .values = {RateOf("mpairs_per_s", c.time.seconds, kObjects * 1e-6),
                                        SingleValue("lock_free_over_it", c.time.Median() / own)},
                             // More threads than cores are meant to be preempted.
                             .warning = {}});
    }
  }

 private:
  template <class Body>
  static void Each(const Body& body) {
    for (const size_t burst : {size_t{1}, size_t{32}, kLongestBurst})
      for (const int threads : {1, 2, 4}) body(burst, threads);
  }

  template <class List>
  Status AddPool(const char* name, std::unique_ptr<ObjectPool<List>>& pool) {
    using Pool = ObjectPool<List>;
    LARDER_ASSIGN(pool, Pool::Create({.object_bytes = kObjectBytes, .max_objects = 1 << 14}));
    // All memory is there before the first measurement.
    std::vector<uint32_t> all(1 << 14);
    if (!pool->Get(all)) return Fail(ErrorKind::kExhausted, "no memory for {} objects", all.size());
    pool->Put(all);
    Each([&](size_t burst, int threads) {
      Pool& source = *pool;
      AddCase(name, "shared", burst, threads,
              [&source, burst, threads] { TakeAndPut<SharedList<Pool>>(source, threads, burst); });
      AddCase(name, "cached", burst, threads,
              [&source, burst, threads] { TakeAndPut<ThreadCache<Pool>>(source, threads, burst); });
      if (threads > 1)
        AddCase(name, "handed over", burst, threads,
                [&source, burst, threads] { HandOver<ThreadCache<Pool>>(source, threads, burst); });
    });
    return {};
  }

  void AddCase(std::string list, std::string way, size_t burst, int threads, std::function<void()> run) {
    cases_.push_back({std::move(list), std::move(way), burst, threads, std::move(run), TimedWork(threads)});
  }

  int64_t rounds_ = 0;
  std::unique_ptr<ObjectPool<LockFreeList<>>> lock_free_;
  std::unique_ptr<ObjectPool<LockedList<>>> locked_;
  std::unique_ptr<ObjectPool<RingList<>>> ring_;
  std::vector<Case> cases_;
};

// A context over blocks in any order, as a cache that has lived for a while has them.
class BlockTable final : public RowStore {
 public:
  BlockTable(const KvShape& shape, std::vector<std::vector<std::byte*>> blocks, int64_t length)
      : shape_(shape), blocks_(std::move(blocks)), length_(length) {}
  int64_t Entries(int, int) const override { return length_; }
  KvPage Page(int layer, int kv_head, int64_t page, std::byte*) const override {
    KvPage out = StoredPage(shape_.type(), shape_.head_dim(), At(layer, kv_head, page));
    out.first_position = static_cast<int32_t>(page * kPageTokens);
    out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, length_ - page * kPageTokens));
    return out;
  }
  std::byte* WritablePage(int layer, int kv_head, int64_t position) override {
    return At(layer, kv_head, position / kPageTokens);
  }

 private:
  std::byte* At(int layer, int kv_head, int64_t page) const {
    return blocks_[static_cast<size_t>(shape_.KindOf(layer))][static_cast<size_t>(page)] +
           shape_.LaneOffset(layer, kv_head);
  }
  const KvShape& shape_;
  const std::vector<std::vector<std::byte*>> blocks_;  // [kind][block]
  const int64_t length_;
};

// Keys of a token in a layer, all heads, in sixteen bits.
size_t RowBytes(const ModelSpec& spec) {
  return static_cast<size_t>(spec.kv_heads) * static_cast<size_t>(spec.head_dim) * sizeof(uint16_t);
}

// Blocks from pools with or without large pages: how long their first touch takes, reads anywhere of a line
// and of a token's row of keys, and attention.
class PageEffect {
 public:
  static Result<std::unique_ptr<PageEffect>> Create(Model& model, LargePages pages, int64_t length,
                                                    uint64_t touched_bytes) {
    auto effect = std::unique_ptr<PageEffect>(new PageEffect(model, length));
    const auto kinds = static_cast<int>(model.kv_shape().kinds().size());
    effect->needed_ = static_cast<size_t>((length + kPageTokens - 1) / kPageTokens);
    for (int kind = 0; kind < kinds; ++kind) {
      const size_t bytes = model.kv_shape().BlockBytes(kind);
      const size_t blocks = std::max(effect->needed_, touched_bytes / static_cast<size_t>(kinds) / bytes);
      LARDER_ASSIGN(auto pool, ObjectPool<>::Create({.object_bytes = bytes,
                                                     .max_objects = static_cast<uint32_t>(blocks),
                                                     .slab_objects = 1,
                                                     .pages = pages}));
      effect->pools_.push_back(std::move(pool));
      effect->taken_.emplace_back(blocks);
    }
    return effect;
  }

  // Nothing is taken before and after, so that two of these need the memory of one.
  void Measure(bool keep) {
    AddTimed(touch_, keep, [&] {
      for (size_t kind = 0; kind < pools_.size(); ++kind) {
        const size_t bytes = BlockBytes(kind);
        for (uint32_t& block : taken_[kind]) {
          block = pools_[kind]->Get();
          LARDER_CHECK(block != kNoObject);
          for (size_t at = 0; at < bytes; at += 4096) pools_[kind]->At(block)[at] = std::byte{1};
        }
      }
    });
    AddTimed(read_line_, keep, [&] { ReadAnywhere(kLineBytes); });
    AddTimed(read_row_, keep, [&] { ReadAnywhere(row_bytes_); });
    std::vector<std::vector<std::byte*>> blocks(pools_.size());
    std::mt19937 random(1);
    for (size_t kind = 0; kind < pools_.size(); ++kind) {
      std::vector<uint32_t> some = taken_[kind];
      std::ranges::shuffle(some, random);
      for (const uint32_t block : std::span(some).first(needed_))
        blocks[kind].push_back(pools_[kind]->At(block));
    }
    BlockTable table(model_.kv_shape(), std::move(blocks), length_);
    WriteNoiseRows(model_, table, 0, length_);
    const TileProvider* const one = &table;
    attention_.Run(std::span(&one, 1), length_);
    AddTimed(attend_, keep, [&] { attention_.Run(std::span(&one, 1), length_); });
    uint64_t large = 0, all = 0;
    for (const auto& pool : pools_) {
      large += pool->LargePageBytes();
      all += pool->committed_bytes();
    }
    bytes_ = static_cast<double>(all);
    large_pct_ = 100 * static_cast<double>(large) / bytes_;
    GiveBack();
  }

  FigureRow Row(const std::string& pages) const {
    const auto scaled = [](const TimedWork& work, double factor) {
      std::vector<double> out = work.seconds;
      for (double& s : out) s *= factor;
      return out;
    };
    return {.labels = {{"large_pages", pages}},
            .values = {SingleValue("large_pct", large_pct_, 0),
                       SpreadValue("touch_ms_per_gib", scaled(touch_, 1e3 * (1u << 30) / bytes_)),
                       SpreadValue("line_ns", scaled(read_line_, 1e9 / kReads)),
                       SpreadValue("row_ns", scaled(read_row_, 1e9 / kReads)),
                       SpreadValue("attention_ms", scaled(attend_, 1e3), 2)},
            .warning = attend_.busy.Warning()};
  }

 private:
  static constexpr int kReads = 1 << 20;

  PageEffect(Model& model, int64_t length)
      : model_(model),
        length_(length),
        row_bytes_(RowBytes(model.spec())),
        attention_(model),
        touch_(1),
        read_line_(1),
        read_row_(1),
        attend_(model.pool().threads()) {}

  size_t BlockBytes(size_t kind) const { return model_.kv_shape().BlockBytes(static_cast<int>(kind)); }

  void GiveBack() {
    for (size_t kind = 0; kind < pools_.size(); ++kind) {
      pools_[kind]->Put(taken_[kind]);
      pools_[kind]->Trim(static_cast<uint32_t>(taken_[kind].size()));
    }
  }

  // So many bytes in a row; each read's place depends on what the one before it read.
  void ReadAnywhere(size_t bytes) {
    uint64_t at = 1;
    const size_t places = BlockBytes(0) / bytes;
    for (int i = 0; i < kReads; ++i) {
      at = at * 6364136223846793005u + 1442695040888963407u;
      const uint32_t block = taken_[0][(at >> 33) % taken_[0].size()];
      const volatile std::byte* const place = pools_[0]->At(block) + (at >> 20) % places * bytes;
      uint64_t sum = 0;
      for (size_t line = 0; line < bytes; line += kLineBytes) sum += static_cast<uint64_t>(place[line]);
      at += sum & 1;
    }
  }

  Model& model_;
  const int64_t length_;
  const size_t row_bytes_;
  DecodeAttention attention_;
  size_t needed_ = 0;                                 // blocks of a context
  std::vector<std::unique_ptr<ObjectPool<>>> pools_;  // by kind
  std::vector<std::vector<uint32_t>> taken_;
  double bytes_ = 1, large_pct_ = 0;
  TimedWork touch_, read_line_, read_row_, attend_;
};

}  // namespace

Status BenchPool(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("end", model->spec().context, 0));
  FigureReport speed = BeginReport("pool", *model, settings);
  speed.threads = model->pool().threads();
  speed.note = fmt::format(
      "millions of objects of {} bytes taken and put back a second, in bursts. shared: straight from the "
      "list; "
      "cached: through a cache of 256 for each thread; handed over: one thread takes, another puts back.\n"
      "lock_free_over_it: our list's speed over this one's; malloc's local beside our cached",
      kObjectBytes);
  {
    ProgressBar bar("measuring");
    PoolSpeed bench;
    LARDER_TRY(bench.Add(settings));
    bench.Run(bar);
    bar.Clear();
    bench.Fill(speed);
  }
  speed.Print(settings.json);

  FigureReport pages = BeginReport("pool-pages", *model, settings);
  pages.threads = model->pool().threads();
  const uint64_t touched = AvailableBytes() >= 3 * kMostTouchedBytes ? kMostTouchedBytes : kLeastTouchedBytes;
  pages.note = fmt::format(
      "touch: taking {} of blocks and writing a byte to every 4 KiB; line, row: {} and {} bytes anywhere in "
      "them, one read\nafter another; attention: all layers for one token over {} tokens in shuffled blocks",
      FormatSize(touched), kLineBytes, RowBytes(model->spec()), lengths.front());
  std::array<std::unique_ptr<PageEffect>, 2> effects;
  LARDER_ASSIGN(effects[0], PageEffect::Create(*model, LargePages::kNo, lengths.front(), touched));
  LARDER_ASSIGN(effects[1], PageEffect::Create(*model, LargePages::kYes, lengths.front(), touched));
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    for (const auto& effect : effects) effect->Measure(round > 0);
  }
  bar.Clear();
  pages.rows = {effects[0]->Row("no"), effects[1]->Row("yes")};
  pages.Print(settings.json);
  return {};
}

}  // namespace larder
