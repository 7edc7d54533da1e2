// Entries of private lanes as codes: what is demoted is what encoding and decoding makes of its row, nothing
// else changes a bit, bytes are those of whole pages of codes, and attention over mixed pages equals
// attention over the same entries laid out plainly.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "base/memory.h"
#include "compute/column_sums.h"
#include "kv/codec/codec.h"
#include "kv/lanes.h"
#include "kv_fixture.h"
#include "tests/kv/heap_pages.h"
#include "tests/kv/plain_lanes.h"

namespace larder {
namespace {

constexpr int kDim = 32, kKvHeads = 2, kHeads = 4;

std::shared_ptr<const KvCodec> Codec(const std::string& spec) { return *CreateKvCodec(spec, kDim); }

AlignedBuffer NewPage() { return AlignedBuffer::Allocate(PageBytes(KvType::kI16, kDim)).value(); }

// An entry as it must be read: a row somewhere in a page.
struct Entry {
  std::shared_ptr<AlignedBuffer> page;
  int slot = 0;
  float score = 0, bias = 0;
};

// A lane by its positions, and the positions of each page of codes.
struct PlainLane {
  std::map<int32_t, Entry> entries;
  std::vector<std::set<int32_t>> coded;
  bool were_codes = false;

  bool IsCode(int32_t position) const {
    return std::ranges::any_of(coded, [&](const auto& page) { return page.contains(position); });
  }
  int64_t rows() const { return std::ssize(entries) - std::ssize(coded) * kPageTokens; }
  // Pages whose entries are not all there any more are rows.
  void TakeApart() {
    were_codes |= std::erase_if(coded, [&](const auto& page) {
                    return !std::ranges::all_of(page, [&](int32_t p) { return entries.contains(p); });
                  }) > 0;
  }
  // `candidates`: positions, lowest-ranked first; `places`: of all entries, in the lane's order.
  void Demote(const KvCodec& codec, const std::vector<int32_t>& candidates, std::span<const int32_t> places) {
    if (were_codes) return;
    std::vector<int32_t> chosen;
    for (const int32_t position : candidates) {
      if (!IsCode(position) && position >= codec.sinks()) chosen.push_back(position);
    }
    chosen.resize(chosen.size() / kPageTokens * kPageTokens);
    std::ranges::sort(chosen, {}, [&](int32_t p) { return std::ranges::find(places, p) - places.begin(); });
    for (auto first = chosen.begin(); first != chosen.end(); first += kPageTokens) {
      AlignedBuffer rows = NewPage(), codes = AlignedBuffer::Allocate(codec.PageBytes(kDim)).value();
      const auto decoded = std::make_shared<AlignedBuffer>(NewPage());
      for (int i = 0; i < kPageTokens; ++i) {
        const Entry& entry = entries.at(first[i]);
        CopyKvRows(KvType::kI16, kDim, entry.page->data(), entry.slot, rows.data(), i, 1);
      }
      codec.Encode(kDim, rows.data(), codes.data());
      codec.Decode(kDim, codes.data(), decoded->data());
      for (int i = 0; i < kPageTokens; ++i) {
        entries.at(first[i]).page = decoded;
        entries.at(first[i]).slot = i;
      }
      coded.emplace_back(first, first + kPageTokens);
    }
  }
};

// All lanes of one layer, in the order of a table's entries.
PlainLanes LaidOut(const std::vector<PlainLane>& lanes, const LaneTable& table) {
  PlainLanes out(KvType::kI16, kKvHeads, kDim);
  for (int head = 0; head < kKvHeads; ++head) {
    out.BeginLane();
    for (const int32_t position : table.Positions(0, head)) {
      const Entry& entry = lanes[static_cast<size_t>(head)].entries.at(position);
      const auto [page, slot] = out.Append(position, entry.bias);
      CopyKvRows(KvType::kI16, kDim, entry.page->data(), entry.slot, page, slot, 1);
    }
  }
  return out;
}

class LanesCodes : public ::testing::TestWithParam<const char*> {
 protected:
  LanesCodes()
      : shape_(*KvShape::Create({0}, kKvHeads, kDim, KvType::kI16)),
        codec_(Codec(GetParam())),
        pages_(shape_.page_bytes()) {}

  LaneTable NewTable() {
    LaneTable table(&shape_, &pages_, PositionMode::kKeep, {});
    table.SetCodec(codec_);
    return table;
  }
  std::vector<float> Floats(size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = std::normal_distribution<float>()(random_);
    return out;
  }
  void Append(LaneTable& table, int head, int32_t position) {
    const auto k = Floats(kDim), v = Floats(kDim);
    ASSERT_TRUE(table.Append(0, head, k.data(), v.data(), position));
    const auto page = std::make_shared<AlignedBuffer>(NewPage());
    StoreKvRow(KvType::kI16, kDim, k.data(), v.data(), page->data(), 0);
    Entry entry{page};
    entry.score = table.Scores(0, head).back() = Floats(1)[0];
    lanes_[static_cast<size_t>(head)].entries[position] = entry;
  }
  void Fill(LaneTable& table, int64_t entries) {
    for (int head = 0; head < kKvHeads; ++head) {
      for (int32_t i = 0; i < entries; ++i) ASSERT_NO_FATAL_FAILURE(Append(table, head, i));
    }
  }
  // A random part of a lane's entries, ascending.
  std::vector<int32_t> Part(int64_t length, unsigned percent) {
    std::vector<int32_t> part;
    for (int32_t i = 0; i < length; ++i) {
      if (random_() % 100 < percent) part.push_back(i);
    }
    return part;
  }
  static std::vector<int32_t> At(std::span<const int32_t> positions, std::span<const int32_t> entries) {
    std::vector<int32_t> out;
    for (const int32_t i : entries) out.push_back(positions[static_cast<size_t>(i)]);
    return out;
  }
  Status Demote(LaneTable& table, int head, const std::vector<int32_t>& entries) {
    const auto span = table.Positions(0, head);
    const std::vector<int32_t> places(span.begin(), span.end());
    Status status = table.Demote(0, head, entries);
    if (status) lanes_[static_cast<size_t>(head)].Demote(*codec_, At(places, entries), places);
    return status;
  }

  void ExpectEqual(LaneTable& table) {
    std::vector<float> k(kDim), v(kDim), wanted_k(kDim), wanted_v(kDim);
    int64_t coded = 0, rows = 0;
    for (int head = 0; head < kKvHeads; ++head) {
      const PlainLane& lane = lanes_[static_cast<size_t>(head)];
      const auto positions = table.Positions(0, head);
      ASSERT_EQ(positions.size(), lane.entries.size());
      ASSERT_EQ(table.CodedPages(0, head), std::ssize(lane.coded));
      const auto scores = table.Scores(0, head);
      std::set<int32_t> seen;
      for (size_t i = 0; i < positions.size(); ++i) {
        const Entry& entry = lane.entries.at(positions[i]);
        ASSERT_TRUE(seen.insert(positions[i]).second);
        ASSERT_EQ(i < lane.coded.size() * kPageTokens, lane.IsCode(positions[i]));
        ASSERT_EQ(scores[i], entry.score);
        table.Load(0, head, static_cast<int64_t>(i), k.data(), v.data());
        LoadKvRow(KvType::kI16, kDim, entry.page->data(), entry.slot, wanted_k.data(), wanted_v.data());
        ASSERT_EQ(k, wanted_k) << positions[i];
        ASSERT_EQ(v, wanted_v) << positions[i];
      }
      coded += std::ssize(lane.coded);
      rows += (lane.rows() + kPageTokens - 1) / kPageTokens;
    }
    const auto bytes = static_cast<uint64_t>(coded) * codec_->PageBytes(kDim) +
                       static_cast<uint64_t>(rows) * shape_.page_bytes();
    ASSERT_GE(table.bytes(), bytes);
    ASSERT_EQ(pages_.bytes(), bytes);
  }
  // Rows that read codes as they are, and so many that pages are decoded for them.
  void ExpectSameAttention(const LaneTable& table) {
    const PlainLanes plain = LaidOut(lanes_, table);
    const AttentionShape shape{0, kHeads, kKvHeads, kDim, 0.25f, 0, KvType::kI16};
    ThreadPool pool(2);
    AttentionScratch scratch;
    ColumnScratch columns;
    for (const size_t count : {1u, 40u}) {
      const size_t width = kHeads * kDim;
      const auto q = Floats(count * width);
      std::vector<float> out(q.size()), wanted(q.size()), lse(count * kHeads), wanted_lse(lse.size());
      std::vector<AttentionRow> rows, plain_rows;
      std::vector<TapRow> taps;
      for (size_t r = 0; r < count; ++r) {
        const auto position = static_cast<int32_t>(random_() % 700);
        rows.push_back({&q[r * width], &out[r * width], &lse[r * kHeads], &table, position});
        plain_rows.push_back({&q[r * width], &wanted[r * width], &wanted_lse[r * kHeads], &plain, position});
        taps.push_back({&q[r * width], &wanted_lse[r * kHeads], position});
      }
      Attention(pool, scratch, shape, rows);
      AttentionReference(shape, plain_rows);
      ASSERT_EQ(std::memcmp(out.data(), wanted.data(), out.size() * sizeof(float)), 0) << count;
      ASSERT_EQ(std::memcmp(lse.data(), wanted_lse.data(), lse.size() * sizeof(float)), 0) << count;
      std::vector<std::vector<float>> sums(2 * kKvHeads, std::vector<float>(1024));
      std::vector<float*> here, there;
      for (size_t head = 0; head < kKvHeads; ++head) {
        here.push_back(sums[head].data());
        there.push_back(sums[kKvHeads + head].data());
      }
      ColumnSums(pool, columns, shape, table, taps, {here, {}});
      ColumnSumsReference(shape, plain, taps, {there, {}});
      for (size_t head = 0; head < kKvHeads; ++head) ASSERT_EQ(sums[head], sums[kKvHeads + head]);
    }
  }

  const KvShape shape_;
  const std::shared_ptr<const KvCodec> codec_;
  HeapPages pages_;
  std::mt19937 random_{7};
  std::vector<PlainLane> lanes_ = std::vector<PlainLane>(kKvHeads);
};

TEST_P(LanesCodes, WholePagesOfTheLowestBecomeCodes) {
  LaneTable table = NewTable();
  ASSERT_NO_FATAL_FAILURE(Fill(table, 300));
  EXPECT_FALSE(table.MakesTiles());
  std::vector<int32_t> lowest(200);
  std::iota(lowest.begin(), lowest.end(), 50);
  std::ranges::shuffle(lowest, random_);
  ASSERT_TRUE(Demote(table, 1, lowest));
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
  // Three pages of codes; the 8 highest of the 200 stay rows with the other 100.
  EXPECT_EQ(table.CodedPages(0, 1), 3);
  for (const int32_t position : std::span(lowest).last(8)) EXPECT_FALSE(lanes_[1].IsCode(position));
  EXPECT_EQ(table.Pages(0, 1), 3 + 2);
  EXPECT_EQ(pages_.bytes(), 3 * codec_->PageBytes(kDim) + (2 + 5) * shape_.page_bytes());
  EXPECT_TRUE(table.MakesTiles());
  ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(table));
  // What is codes stays what it is, and less than a page of others is too few.
  std::vector<int32_t> all(192 + 63);
  std::iota(all.begin(), all.end(), 0);
  ASSERT_TRUE(Demote(table, 1, all));
  EXPECT_EQ(table.CodedPages(0, 1), 3);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
}

TEST_P(LanesCodes, WhatTheCodecKeepsExactStaysRows) {
  LaneTable table = NewTable();
  ASSERT_NO_FATAL_FAILURE(Fill(table, 128));
  ASSERT_TRUE(table.DemoteFullPages());
  EXPECT_EQ(table.CodedPages(0, 0), codec_->sinks() > 0 ? 1 : 2);
  const auto positions =
      table.Positions(0, 0).first(static_cast<size_t>(table.CodedPages(0, 0)) * kPageTokens);
  EXPECT_EQ(*std::ranges::min_element(positions), codec_->sinks());
  ASSERT_TRUE(table.DemoteFullPages());  // nothing is left to do
  EXPECT_EQ(table.CodedPages(0, 0), codec_->sinks() > 0 ? 1 : 2);
}

TEST_P(LanesCodes, RandomOperationsAgreeWithAPlainLane) {
  int64_t demoted = 0, taken_apart = 0, whole_pages_moved = 0;
  for (int round = 0; round < 10; ++round) {
    lanes_.assign(kKvHeads, {});
    {
      LaneTable table = NewTable();
      ASSERT_NO_FATAL_FAILURE(Fill(table, 250));
      int32_t next = 250;
      for (int step = 0; step < 25; ++step) {
        const int head = static_cast<int>(random_() % kKvHeads);
        PlainLane& lane = lanes_[static_cast<size_t>(head)];
        const int64_t length = table.Length(0, head), coded = std::ssize(lane.coded);
        switch (random_() % 8) {
          case 0:
          case 1:
          case 2:
            for (auto i = random_() % 150; i > 0; --i) ASSERT_NO_FATAL_FAILURE(Append(table, head, next++));
            break;
          case 3:
          case 4: {
            std::vector<int32_t> part = Part(length, 70);
            std::ranges::shuffle(part, random_);
            ASSERT_TRUE(Demote(table, head, part));
            demoted += std::ssize(lane.coded) - coded;
            break;
          }
          case 5:
            if (length == 0) break;
            {
              // Mostly of rows, or no page of codes would live long.
              const int64_t row = coded * kPageTokens;
              const bool of_rows = row < length && random_() % 4 != 0;
              const auto at = static_cast<int64_t>(random_() % static_cast<uint64_t>(length));
              const int64_t entry = of_rows ? row + at % (length - row) : at;
              lane.entries.erase(table.PositionOf(0, head, entry));
              lane.TakeApart();
              ASSERT_TRUE(table.Remove(0, head, entry));
            }
            break;
          case 6: {
            // Most pages whole, some rows gone, and perhaps one entry of the codes.
            std::vector<int32_t> kept = Part(length, 60), rest;
            const auto first = static_cast<int32_t>(random_() % 3 * kPageTokens);
            std::vector<int32_t> list;
            for (int32_t i = first; i < coded * kPageTokens; ++i) list.push_back(i);
            if (!list.empty() && random_() % 5 == 0) list.erase(list.begin() + std::ssize(list) / 2);
            for (const int32_t i : kept) {
              if (i >= coded * kPageTokens) list.push_back(i);
            }
            const auto positions = table.Positions(0, head);
            const std::vector<int32_t> left = At(positions, list);
            std::erase_if(lane.entries, [&](const auto& entry) {
              return std::ranges::find(left, entry.first) == left.end();
            });
            // A page of codes that is dropped altogether takes nothing apart.
            std::erase_if(lane.coded, [&](const auto& page) {
              return std::ranges::none_of(page, [&](int32_t p) { return lane.entries.contains(p); });
            });
            lane.TakeApart();
            whole_pages_moved += first > 0 && !lane.coded.empty();
            ASSERT_TRUE(table.Keep(0, head, list));
            break;
          }
          default: {
            if (length == 0) break;
            const auto entry = static_cast<int64_t>(random_() % static_cast<uint64_t>(length));
            const float bias = lane.entries.at(table.PositionOf(0, head, entry)).bias = Floats(1)[0];
            table.SetLogitBias(0, head, entry, bias);
          }
        }
        taken_apart += lane.were_codes;
        ASSERT_NO_FATAL_FAILURE(ExpectEqual(table)) << "round " << round << " step " << step;
      }
      ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(table));
      ASSERT_TRUE(table.Settle());
      LaneTable copy = NewTable();
      ASSERT_TRUE(copy.CopyFrom(table));
      ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(copy));
      EXPECT_EQ(copy.bytes(), table.bytes());
      LaneTable moved(std::move(table));
      ASSERT_TRUE(copy.Keep(0, 0, {}));
      ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(moved));
    }
    ASSERT_EQ(pages_.taken(), 0u);
  }
  EXPECT_GT(demoted, 10);
  EXPECT_GT(taken_apart, 0);
  EXPECT_GT(whole_pages_moved, 0);
}

TEST_P(LanesCodes, WithoutRoomNothingChanges) {
  LaneTable table = NewTable();
  ASSERT_NO_FATAL_FAILURE(Fill(table, 330));
  std::vector<int32_t> lowest(150);
  std::iota(lowest.begin(), lowest.end(), 10);
  // Two pages of codes are wanted.
  const size_t taken = pages_.taken();
  for (const size_t more : {0u, 1u}) {
    pages_.SetLimit(taken + more);
    const Status status = Demote(table, 0, lowest);
    ASSERT_FALSE(status);
    EXPECT_EQ(status.error().kind, ErrorKind::kExhausted);
    ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
    EXPECT_FALSE(table.MakesTiles());
  }
  pages_.SetLimit(taken + 2);
  ASSERT_TRUE(Demote(table, 0, lowest));
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
  // 202 rows and 63 that were codes take a fifth page.
  pages_.SetLimit(pages_.taken());
  EXPECT_EQ(table.Remove(0, 0, 70).error().kind, ErrorKind::kExhausted);
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
  LaneTable copy = NewTable();
  EXPECT_EQ(copy.CopyFrom(table).error().kind, ErrorKind::kExhausted);
  EXPECT_EQ(copy.Length(0, 0), 0);
  EXPECT_FALSE(copy.MakesTiles());
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
}

// A borrowed prefix is read where it lies, and what stays rows of it is copied.
TEST_P(LanesCodes, BorrowedEntriesMayBeDemoted) {
  LaneTable prefix = NewTable();
  ASSERT_NO_FATAL_FAILURE(Fill(prefix, 256));
  LaneTable table = NewTable();
  ASSERT_TRUE(table.Borrow(&prefix, 256));
  std::vector<int32_t> lowest(100);
  std::iota(lowest.begin(), lowest.end(), 30);
  for (int head = 0; head < kKvHeads; ++head) ASSERT_TRUE(Demote(table, head, lowest));
  EXPECT_FALSE(table.borrows());
  for (PlainLane& lane : lanes_) {
    for (auto& [position, entry] : lane.entries) entry.score = 0;  // the prefix's are its own
  }
  ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(table));
  const size_t of_both = pages_.bytes();
  ASSERT_TRUE(prefix.Keep(0, 0, {}));
  ASSERT_TRUE(prefix.Keep(0, 1, {}));
  EXPECT_EQ(of_both - pages_.bytes(), 8 * shape_.page_bytes());
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
}

TEST_P(LanesCodes, WindowsLetGoOfCodes) {
  LaneTable table = NewTable();
  ASSERT_NO_FATAL_FAILURE(Fill(table, 400));
  ASSERT_TRUE(table.DemoteFullPages());
  for (PlainLane& lane : lanes_) {
    std::vector<int32_t> all(400);
    std::iota(all.begin(), all.end(), 0);
    lane.Demote(*codec_, all, all);
  }
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
  const size_t before = pages_.taken();
  table.DropBefore(0, 140);
  EXPECT_EQ(pages_.taken(), before - 2 * kKvHeads);
  EXPECT_EQ(table.Pages(0, 0), 5);
  // The next encoding forgets them altogether.
  ASSERT_TRUE(table.DemoteFullPages());
  for (PlainLane& lane : lanes_) {
    for (int i = 0; i < 2; ++i) {
      for (const int32_t position : lane.coded.front()) lane.entries.erase(position);
      lane.coded.erase(lane.coded.begin());
    }
  }
  ASSERT_NO_FATAL_FAILURE(ExpectEqual(table));
  ASSERT_NO_FATAL_FAILURE(ExpectSameAttention(table));
}

// Pages of both sizes are paid from the cache's limit, and come back.
TEST_P(LanesCodes, TheCachesBudgetCountsCodes) {
  KvWorld world({.limit_bytes = 16 << 20});
  const uint64_t before = world.cache().used_bytes();
  auto source = world.cache().MakePageSource();
  PageSource& codes = source->OfSize(1024);
  EXPECT_EQ(&source->OfSize(1024), &codes);
  EXPECT_EQ(&source->OfSize(world.cache().shape().page_bytes()), source.get());
  const auto fill = [&](PageSource& from) {
    const uint64_t used = world.cache().used_bytes();
    std::vector<std::byte*> pages;
    for (int i = 0; i < 64; ++i) pages.push_back(*from.Take());
    return std::pair(pages, world.cache().used_bytes() - used);
  };
  const auto [small, small_bytes] = fill(codes);
  const auto [large, large_bytes] = fill(*source);
  EXPECT_EQ(large_bytes - small_bytes, 64 * (world.cache().shape().page_bytes() - 1024));
  EXPECT_TRUE(world.Sound());
  for (std::byte* page : small) codes.Return(page);
  for (std::byte* page : large) source->Return(page);
  EXPECT_EQ(world.cache().used_bytes(), before);
}

INSTANTIATE_TEST_SUITE_P(, LanesCodes, ::testing::Values("t4:center=0", "q8_0", "q4_0"));

}  // namespace
}  // namespace larder
