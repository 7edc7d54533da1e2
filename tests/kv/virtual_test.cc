// Contiguous ranges over shared granules: every row read back is the sequence's own, whatever was shared,
// closed and reused meanwhile; memory and mappings stay within their limits.
#include "kv/virtual.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "kv_fixture.h"

namespace larder {
namespace {

constexpr int kDim = 8, kHeads = 2;

KvShape Shape(const std::vector<int>& windows) {
  return *KvShape::Create(windows, kHeads, kDim, KvType::kF32);
}

// A sequence and what its rows must be: each a number that nothing else has.
struct Known {
  std::unique_ptr<VirtualSequence> sequence;
  std::vector<float> rows;
};

float Value(float row, int layer, int head, int i) {
  return row + static_cast<float>(layer * 16 + head * 8 + i) / 64;
}

void Write(VirtualKv& kv, Known& known, int count, float& next) {
  for (int r = 0; r < count; ++r) {
    const int64_t position = known.sequence->length() + r;
    known.rows.push_back(next++);
    for (int layer = 0; layer < kv.shape().layers(); ++layer) {
      for (int head = 0; head < kHeads; ++head) {
        float k[kDim], v[kDim];
        for (int i = 0; i < kDim; ++i) {
          k[i] = Value(known.rows.back(), layer, head, i);
          v[i] = -k[i];
        }
        StoreKvRow(KvType::kF32, kDim, k, v, known.sequence->WritablePage(layer, head, position),
                   static_cast<int>(position % kPageTokens));
      }
    }
  }
  kv.Publish(*known.sequence, count);
}

bool Append(VirtualKv& kv, Known& known, int count, float& next) {
  if (!kv.Reserve(*known.sequence, count)) return false;
  Write(kv, known, count, next);
  return true;
}

testing::AssertionResult Reads(const VirtualKv& kv, const Known& known) {
  if (known.sequence->length() != static_cast<int64_t>(known.rows.size()))
    return testing::AssertionFailure() << known.sequence->length() << " rows";
  for (size_t row = 0; row < known.rows.size(); ++row) {
    for (int layer = 0; layer < kv.shape().layers(); ++layer) {
      for (int head = 0; head < kHeads; ++head) {
        const KvPage page =
            known.sequence->Page(layer, head, static_cast<int64_t>(row) / kPageTokens, nullptr);
        float k[kDim], v[kDim];
        LoadKvRow(KvType::kF32, kDim, static_cast<const std::byte*>(page.k),
                  static_cast<int>(row % kPageTokens), k, v);
        for (int i = 0; i < kDim; ++i) {
          const float want = Value(known.rows[row], layer, head, i);
          if (k[i] != want || v[i] != -want)
            return testing::AssertionFailure() << "row " << row << " has " << k[i] << ", not " << want;
        }
      }
    }
  }
  return testing::AssertionSuccess();
}

TEST(VirtualKv, RandomLivesReadBackTheirOwnRows) {
  for (const uint64_t granule : {4096u, 65536u}) {
    for (const std::vector<int>& windows : {std::vector<int>{0, 0, 0}, std::vector<int>{0, 16, 0}}) {
      auto kv = *VirtualKv::Create(
          Shape(windows),
          {.limit_bytes = 24 * 65536, .max_rows = 1000, .granule_bytes = granule, .poison = true});
      std::mt19937 random(7);
      std::vector<Known> running;
      float next = 1;
      int refused = 0, forks = 0;
      for (int step = 0; step < 1500; ++step) {
        const size_t at = running.empty() ? 0 : random() % running.size();
        switch (random() % 6) {
          case 0:
            running.push_back({*kv->Open(static_cast<int64_t>(random() % 500)), {}});
            break;
          case 1:
            if (running.size() > 3) running.erase(running.begin() + static_cast<ptrdiff_t>(at));
            break;
          case 2: {
            if (running.empty()) break;
            const auto rows = static_cast<int64_t>(random() % (running[at].rows.size() + 1));
            auto fork = kv->Fork(*running[at].sequence, rows);
            if (!fork) break;
            ++forks;
            running.push_back(
                {*std::move(fork), {running[at].rows.begin(), running[at].rows.begin() + rows}});
            ASSERT_TRUE(Reads(*kv, running.back()));
            break;
          }
          default:
            if (running.empty()) break;
            if (!Append(*kv, running[at], 1 + static_cast<int>(random() % 90), next)) {
              ++refused;
              running.erase(running.begin() + static_cast<ptrdiff_t>(random() % running.size()));
            }
        }
        if (step % 20 == 0) {
          for (const Known& known : running) ASSERT_TRUE(Reads(*kv, known)) << step;
        }
        const VirtualKvStats stats = kv->stats();
        ASSERT_LE(stats.used_bytes, stats.limit_bytes);
        ASSERT_LE(stats.active_bytes, stats.used_bytes);
        if (step % 100 == 99) {
          ASSERT_EQ(kv->PhysicalBytes(), stats.used_bytes);
          if (step % 300 == 299) kv->Trim();
        }
      }
      EXPECT_GT(refused, 10);
      EXPECT_GT(forks, 100);
      running.clear();
      kv->Trim();
      EXPECT_EQ(kv->PhysicalBytes(), 0u);
      EXPECT_EQ(kv->stats().used_bytes, 0u);
    }
  }
}

TEST(VirtualKv, AllWhoShareAPrefixUseItsMemoryOnce) {
  auto kv = *VirtualKv::Create(Shape({0, 0}), {.limit_bytes = 64 << 20, .max_rows = 4096});
  float next = 1;
  Known first{*kv->Open(2048), {}};
  ASSERT_TRUE(Append(*kv, first, 2048, next));
  const uint64_t alone = kv->PhysicalBytes();
  std::vector<Known> others;
  for (int i = 0; i < 31; ++i) {
    others.push_back({*kv->Fork(*first.sequence, 2048), first.rows});
    ASSERT_TRUE(Append(*kv, others.back(), 10, next));  // and goes its own way
  }
  // Each has a granule of its own, where the prefix ends, and one more at most.
  EXPECT_LE(kv->PhysicalBytes(), alone + 31 * 2 * (64 << 10));
  EXPECT_EQ(kv->stats().active_bytes, kv->PhysicalBytes());
  kv->Close(std::move(first.sequence));
  for (const Known& known : others) EXPECT_TRUE(Reads(*kv, known));
}

TEST(VirtualKv, AReusedRangeNeedsNoMapping) {
  auto kv = *VirtualKv::Create(Shape({0, 0}), {.limit_bytes = 8 << 20, .max_rows = 4096, .poison = true});
  float next = 1;
  Known small{*kv->Open(100), {}}, large{*kv->Open(1000), {}};
  ASSERT_TRUE(Append(*kv, small, 100, next));
  ASSERT_TRUE(Append(*kv, large, 1000, next));
  kv->Close(std::move(large.sequence));
  kv->Close(std::move(small.sequence));
  const uint64_t calls = kv->stats().map_calls;
  Known again{*kv->Open(900), {}};  // only the large one is large enough
  ASSERT_TRUE(Append(*kv, again, 900, next));
  Known other{*kv->Open(90), {}};
  ASSERT_TRUE(Append(*kv, other, 90, next));
  EXPECT_EQ(kv->stats().map_calls, calls);
  EXPECT_EQ(kv->stats().unmap_calls, 0u);
  EXPECT_TRUE(Reads(*kv, again));
  EXPECT_TRUE(Reads(*kv, other));
}

TEST(VirtualKv, IdleRangesGiveWayAndRunningOnesDoNot) {
  auto kv =
      *VirtualKv::Create(Shape({0}), {.limit_bytes = 16 * 4096, .max_rows = 4096, .granule_bytes = 4096});
  float next = 1;
  Known idle{*kv->Open(0), {}}, running{*kv->Open(0), {}};
  const int half = 8 * kPageTokens / 2;  // a block has two pages of 4 KiB
  ASSERT_TRUE(Append(*kv, idle, half, next));
  ASSERT_TRUE(Append(*kv, running, half, next));
  const Status none = kv->Reserve(*running.sequence, half);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, ErrorKind::kExhausted);
  EXPECT_EQ(running.sequence->capacity(), half);
  kv->Close(std::move(idle.sequence));
  EXPECT_TRUE(Append(*kv, running, half, next));
  EXPECT_TRUE(Reads(*kv, running));
}

TEST(VirtualKv, TooManyMappingsAreAnAnswer) {
  auto kv = *VirtualKv::Create(
      Shape({0}), {.limit_bytes = 8 << 20, .max_rows = 1 << 16, .granule_bytes = 4096, .max_mappings = 20});
  float next = 1;
  std::vector<Known> two;
  for (int i = 0; i < 2; ++i) two.push_back({*kv->Open(0), {}});
  bool refused = false;
  for (int i = 0; i < 200 && !refused; ++i)  // in turns, so that neighbours in the file are not in the range
    refused = !Append(*kv, two[static_cast<size_t>(i % 2)], kPageTokens, next);
  EXPECT_TRUE(refused);
  EXPECT_LE(kv->stats().mappings, 20u);
  for (const Known& known : two) EXPECT_TRUE(Reads(*kv, known));
  two[0].sequence.reset();
  EXPECT_TRUE(Append(*kv, two[1], kPageTokens, next));
}

TEST(VirtualKv, NeighboursInTheFileAreOneMapping) {
  auto kv =
      *VirtualKv::Create(Shape({0}), {.limit_bytes = 8 << 20, .max_rows = 1 << 14, .granule_bytes = 4096});
  float next = 1;
  Known known{*kv->Open(0), {}};
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Append(*kv, known, kPageTokens, next));
  EXPECT_EQ(kv->stats().mappings, 2u);  // it, and the reserved rest
}

TEST(VirtualKv, SensibleSizesOnly) {
  for (const VirtualKvOptions& options :
       {VirtualKvOptions{.granule_bytes = 5000}, VirtualKvOptions{.granule_bytes = 1024},
        VirtualKvOptions{.max_rows = 0}, VirtualKvOptions{.limit_bytes = 100}}) {
    const auto kv = VirtualKv::Create(Shape({0}), options);
    ASSERT_FALSE(kv);
    EXPECT_EQ(kv.error().kind, ErrorKind::kInvalid);
  }
  auto kv = *VirtualKv::Create(Shape({0}), {.max_rows = 100});
  auto sequence = *kv->Open(10);
  EXPECT_EQ(kv->Reserve(*sequence, 101).error().kind, ErrorKind::kInvalid);
  EXPECT_TRUE(kv->Reserve(*sequence, 100));
}

}  // namespace
}  // namespace larder
