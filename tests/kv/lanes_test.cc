// Private lane tables: ragged lengths, removal, both position modes; attention over them equals attention
// over the same entries laid out plainly, bit for bit.
#include "kv/lanes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <set>

#include "base/memory.h"
#include "compute/column_sums.h"
#include "compute/ops.h"
#include "kv_fixture.h"
#include "tests/kv/heap_pages.h"
#include "tests/kv/plain_lanes.h"

namespace larder {
namespace {

constexpr int kDim = 16, kKvHeads = 2, kLayers = 2, kPositions = 512;

struct Entry {
  std::vector<float> k, v;
  int32_t position = 0;
  float bias = 0;
};

using PlainEntries = std::vector<std::vector<Entry>>;  // [layer * kKvHeads + head]

// The same entries, laid out plainly; keys as they are to be read.
PlainLanes LaidOut(const PlainEntries& lanes) {
  PlainLanes out(KvType::kF32, kKvHeads, kDim);
  for (const auto& lane : lanes) {
    out.BeginLane();
    for (const Entry& entry : lane) {
      const auto [page, slot] = out.Append(entry.position, entry.bias);
      StoreKvRow(KvType::kF32, kDim, entry.k.data(), entry.v.data(), page, slot);
    }
  }
  return out;
}

class Lanes : public testing::Test {
 protected:
  Lanes() : shape_(*KvShape::Create(std::vector<int>(kLayers, 0), kKvHeads, kDim, KvType::kF32)) {
    for (int p = 0; p < kPositions; ++p) {
      for (int i = 0; i < kDim / 2; ++i) {
        cosines_.push_back(std::cos(0.1f * static_cast<float>(p) / static_cast<float>(i + 1)));
        sines_.push_back(std::sin(0.1f * static_cast<float>(p) / static_cast<float>(i + 1)));
      }
    }
  }

  std::vector<float> Floats(size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = std::normal_distribution<float>()(random_);
    return out;
  }

  // Random appends and removals, uneven over lanes, mirrored in plain vectors.
  PlainEntries Fill(LaneTable& table, PositionMode mode) {
    PlainEntries lanes(kLayers * kKvHeads);
    for (int step = 0; step < 1200; ++step) {
      const size_t index = std::min<size_t>(random_() % 6, lanes.size() - 1);
      const int layer = static_cast<int>(index) / kKvHeads, head = static_cast<int>(index) % kKvHeads;
      auto& lane = lanes[index];
      if (random_() % 4 == 0 && !lane.empty()) {
        const size_t at = random_() % lane.size();
        table.Remove(layer, head, static_cast<int64_t>(at));
        if (mode == PositionMode::kKeep) {
          lane[at] = lane.back();
          lane.pop_back();
        } else {
          lane.erase(lane.begin() + static_cast<ptrdiff_t>(at));
        }
        continue;
      }
      lane.push_back({Floats(kDim), Floats(kDim), step, 0});
      EXPECT_TRUE(table.Append(layer, head, lane.back().k.data(), lane.back().v.data(), step));
      if (random_() % 5 == 0) {
        const size_t at = random_() % lane.size();
        lane[at].bias = static_cast<float>(random_() % 8) / 4;
        table.SetLogitBias(layer, head, static_cast<int64_t>(at), lane[at].bias);
      }
    }
    return lanes;
  }

  // Attention with two query heads per lane, over both providers, must agree in every bit.
  void ExpectSameAttention(const TileProvider& a, const TileProvider& b, int32_t position) {
    constexpr int kHeads = 2 * kKvHeads;
    const auto q = Floats(kHeads * kDim);
    for (int layer = 0; layer < kLayers; ++layer) {
      const AttentionShape shape{layer, kHeads, kKvHeads, kDim, 0.25f, 0, KvType::kF32};
      std::vector<float> out_a(q.size()), out_b(q.size()), lse_a(kHeads), lse_b(kHeads);
      const AttentionRow row_a{q.data(), out_a.data(), lse_a.data(), &a, position};
      const AttentionRow row_b{q.data(), out_b.data(), lse_b.data(), &b, position};
      ThreadPool pool(2);
      AttentionScratch scratch;
      Attention(pool, scratch, shape, std::span(&row_a, 1));
      AttentionReference(shape, std::span(&row_b, 1));
      EXPECT_EQ(out_a, out_b);
      EXPECT_EQ(lse_a, lse_b);
    }
  }

  LaneTable::RopeTables Rope() const { return {cosines_.data(), sines_.data(), kPositions}; }

  KvShape shape_;
  std::mt19937 random_{5};
  std::vector<float> cosines_, sines_;
};

TEST_F(Lanes, KeepModeReadsLikePlainMemory) {
  HeapPages pages(shape_.page_bytes(), 1000);
  {
    LaneTable table(&shape_, &pages, PositionMode::kKeep, {});
    const auto lanes = Fill(table, PositionMode::kKeep);
    std::set<size_t> lengths;
    for (int layer = 0; layer < kLayers; ++layer) {
      for (int head = 0; head < kKvHeads; ++head) {
        const auto& lane = lanes[static_cast<size_t>(layer * kKvHeads + head)];
        lengths.insert(lane.size());
        ASSERT_EQ(table.Length(layer, head), static_cast<int64_t>(lane.size()));
        for (size_t i = 0; i < lane.size(); ++i) {
          ASSERT_EQ(table.PositionOf(layer, head, static_cast<int64_t>(i)), lane[i].position);
        }
      }
    }
    EXPECT_GT(lengths.size(), 2u);
    const PlainLanes plain = LaidOut(lanes);
    ExpectSameAttention(table, plain, 2000);
    ExpectSameAttention(table, plain, 600);  // the mask goes by original positions
    EXPECT_GE(table.bytes(), pages.taken() * shape_.page_bytes());
  }
  EXPECT_EQ(pages.taken(), 0u);
}

TEST_F(Lanes, CompactModeRotatesByRank) {
  HeapPages pages(shape_.page_bytes(), 1000);
  LaneTable table(&shape_, &pages, PositionMode::kCompact, Rope());
  auto lanes = Fill(table, PositionMode::kCompact);
  for (auto& lane : lanes) {
    for (size_t rank = 0; rank < lane.size(); ++rank) {
      Rotate(lane[rank].k.data(), 1, kDim, kDim, cosines_.data() + rank * kDim / 2,
             sines_.data() + rank * kDim / 2);
      lane[rank].position = static_cast<int32_t>(rank);
    }
  }
  const PlainLanes plain = LaidOut(lanes);
  ExpectSameAttention(table, plain, 2000);
  ExpectSameAttention(table, plain, 50);
}

// Models may rotate the first elements of each head only.
TEST_F(Lanes, CompactModeRotatesWhatTheModelRotates) {
  constexpr int kRotary = 6;
  HeapPages pages(shape_.page_bytes(), 1000);
  LaneTable::RopeTables rope = Rope();
  rope.rotary_dim = kRotary;
  LaneTable table(&shape_, &pages, PositionMode::kCompact, rope);
  auto lanes = Fill(table, PositionMode::kCompact);
  for (auto& lane : lanes) {
    for (size_t rank = 0; rank < lane.size(); ++rank) {
      Rotate(lane[rank].k.data(), 1, kDim, kRotary, cosines_.data() + rank * kRotary / 2,
             sines_.data() + rank * kRotary / 2);
      lane[rank].position = static_cast<int32_t>(rank);
    }
  }
  ExpectSameAttention(table, LaidOut(lanes), 2000);
}

// Neither attention nor what it gives to each entry depends on the entries' places.
TEST_F(Lanes, EntriesMayLieInAnyOrder) {
  constexpr int kEntries = 700, kHeads = 2 * kKvHeads, kSeen = 650;
  HeapPages pages(shape_.page_bytes(), 1000);
  LaneTable ordered(&shape_, &pages, PositionMode::kKeep, {}),
      shuffled(&shape_, &pages, PositionMode::kKeep, {});
  for (int head = 0; head < kKvHeads; ++head) {
    std::vector<Entry> entries;
    for (int i = 0; i < kEntries; ++i) entries.push_back({Floats(kDim), Floats(kDim), i, 0});
    for (const Entry& e : entries) ASSERT_TRUE(ordered.Append(0, head, e.k.data(), e.v.data(), e.position));
    std::ranges::shuffle(entries, random_);
    for (const Entry& e : entries) ASSERT_TRUE(shuffled.Append(0, head, e.k.data(), e.v.data(), e.position));
  }
  const AttentionShape shape{0, kHeads, kKvHeads, kDim, 0.25f, 0, KvType::kF32};
  const auto q = Floats(kHeads * kDim);
  ThreadPool pool(2);
  AttentionScratch attention;
  ColumnScratch columns;
  struct Seen {
    std::vector<float> out, lse;
    std::vector<std::vector<float>> sums;  // [KV head][entry]
  };
  const auto look = [&](const LaneTable& table) {
    Seen seen{std::vector<float>(q.size()), std::vector<float>(kHeads),
              std::vector<std::vector<float>>(kKvHeads, std::vector<float>(704))};
    const AttentionRow row{q.data(), seen.out.data(), seen.lse.data(), &table, kSeen};
    Attention(pool, attention, shape, {&row, 1});
    const TapRow tap{q.data(), seen.lse.data(), kSeen};
    std::vector<float*> sums;
    for (auto& head : seen.sums) sums.push_back(head.data());
    ColumnSums(pool, columns, shape, table, {&tap, 1}, {sums, {}});
    return seen;
  };
  const Seen a = look(ordered), b = look(shuffled);
  for (size_t i = 0; i < q.size(); ++i) ASSERT_NEAR(a.out[i], b.out[i], 1e-4);
  for (size_t i = 0; i < kHeads; ++i) ASSERT_NEAR(a.lse[i], b.lse[i], 1e-4);
  for (size_t head = 0; head < kKvHeads; ++head) {
    double all = 0;
    for (int i = 0; i < kEntries; ++i) {
      const auto position = static_cast<size_t>(shuffled.PositionOf(0, static_cast<int>(head), i));
      ASSERT_NEAR(b.sums[head][static_cast<size_t>(i)], a.sums[head][position], 1e-5);
      all += static_cast<double>(a.sums[head][position]);
    }
    EXPECT_NEAR(all, 1, 1e-4);
    EXPECT_FALSE(std::ranges::is_sorted(shuffled.Positions(0, static_cast<int>(head))));
  }
}

TEST_F(Lanes, OriginalPositionsSurviveCompaction) {
  HeapPages pages(shape_.page_bytes(), 10);
  LaneTable table(&shape_, &pages, PositionMode::kCompact, Rope());
  const auto k = Floats(kDim), v = Floats(kDim);
  for (int i = 0; i < 5; ++i) ASSERT_TRUE(table.Append(0, 0, k.data(), v.data(), 10 * i));
  table.Remove(0, 0, 1);
  EXPECT_EQ(table.Length(0, 0), 4);
  for (int i = 0; i < 4; ++i) EXPECT_EQ(table.PositionOf(0, 0, i), std::vector<int>({0, 20, 30, 40})[i]);
}

TEST_F(Lanes, AppendWithoutAPageChangesNothing) {
  HeapPages pages(shape_.page_bytes(), 1);
  LaneTable table(&shape_, &pages, PositionMode::kKeep, {});
  const auto k = Floats(kDim), v = Floats(kDim);
  for (int i = 0; i < kPageTokens; ++i) ASSERT_TRUE(table.Append(0, 0, k.data(), v.data(), i));
  const auto status = table.Append(0, 0, k.data(), v.data(), 64);
  ASSERT_FALSE(status);
  EXPECT_EQ(status.error().kind, ErrorKind::kExhausted);
  EXPECT_EQ(table.Length(0, 0), 64);
  for (int i = 0; i < kPageTokens; ++i) table.Remove(0, 0, 0);
  EXPECT_TRUE(table.Append(1, 1, k.data(), v.data(), 64));  // the page came back
}

TEST_F(Lanes, RanksBeyondTheTablesAreRefused) {
  HeapPages pages(shape_.page_bytes(), 100);
  LaneTable table(&shape_, &pages, PositionMode::kCompact, Rope());
  const auto k = Floats(kDim), v = Floats(kDim);
  for (int i = 0; i < kPositions; ++i) ASSERT_TRUE(table.Append(0, 0, k.data(), v.data(), i));
  EXPECT_FALSE(table.Append(0, 0, k.data(), v.data(), kPositions));
}

TEST_F(Lanes, ACopyIsEqualAndItsOwn) {
  for (const PositionMode mode : {PositionMode::kKeep, PositionMode::kCompact}) {
    HeapPages pages(shape_.page_bytes(), 1000);
    const auto make = [&](PageSource& source) {
      return LaneTable(&shape_, &source, mode,
                       mode == PositionMode::kKeep ? LaneTable::RopeTables{} : Rope());
    };
    LaneTable first = make(pages);
    Fill(first, mode);
    first.Scores(1, 0)[7] = 0.25f;
    ASSERT_TRUE(first.Settle());
    {
      // With a page too few nothing is taken.
      HeapPages few(shape_.page_bytes(), pages.taken() - 1);
      LaneTable none = make(few);
      EXPECT_EQ(none.CopyFrom(first).error().kind, ErrorKind::kExhausted);
      EXPECT_EQ(few.taken(), 0u);
      EXPECT_EQ(none.Length(0, 0), 0);
    }
    LaneTable copy = make(pages);
    ASSERT_TRUE(copy.CopyFrom(first));
    ExpectSameAttention(copy, first, 1200);
    EXPECT_EQ(copy.Scores(1, 0)[7], 0.25f);
    // What happens to one is not seen by the other, wherever it is moved to.
    LaneTable untouched = make(pages);
    ASSERT_TRUE(untouched.CopyFrom(first));
    const LaneTable moved(std::move(first));
    for (int i = 0; i < 10; ++i) ASSERT_TRUE(copy.Remove(0, 0, 5));
    ExpectSameAttention(untouched, moved, 1200);
    EXPECT_EQ(copy.Length(0, 0), moved.Length(0, 0) - 10);
  }
}

TEST_F(Lanes, TheCachesBudgetCountsPrivatePages) {
  const uint64_t limit = 20 * 16384 + 60'000;
  KvWorld world({.limit_bytes = limit});
  world.Run("a", Text(1, 640));
  const uint64_t before = world.cache().used_bytes();
  auto source = world.cache().MakePageSource();
  std::set<std::byte*> pages;
  while (true) {
    auto page = source->Take();
    if (!page) {
      EXPECT_EQ(page.error().kind, ErrorKind::kExhausted);
      break;
    }
    EXPECT_TRUE(pages.insert(*page).second);
    ASSERT_LE(world.cache().used_bytes(), limit);
  }
  EXPECT_EQ(pages.size() % 16, 0u);
  EXPECT_GE(pages.size() * world.cache().shape().page_bytes(), limit / 2);
  EXPECT_LT(world.cache().Probe("a", Text(1, 640)), 640);  // made room by eviction
  EXPECT_TRUE(world.Sound());
  for (std::byte* page : pages) source->Return(page);
  EXPECT_LT(world.cache().used_bytes(), before);
  EXPECT_TRUE(world.Sound());
}

}  // namespace
}  // namespace larder
