// Attention equals its plain reference to the last bit, on every instruction set, for any batch and thread
// count, and is close to the exact result.
#include "compute/attention.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "base/memory.h"
#include "compute/kv_codes.h"
#include "simd_targets_for_test.h"

namespace larder {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A page of one lane in memory that begins as garbage: NaN everywhere.
class PageMemory {
 public:
  PageMemory(KvType type, int head_dim) : type_(type), head_dim_(head_dim) {
    buffer_ = AlignedBuffer::Allocate(PageBytes(type, head_dim)).value();
    std::memset(buffer_.data(), 0xFF, buffer_.size());
  }
  void Put(int slot, std::mt19937& random) {
    std::normal_distribution<float> normal;
    std::vector<float> k(static_cast<size_t>(head_dim_)), v(static_cast<size_t>(head_dim_));
    for (float& x : k) x = normal(random);
    for (float& x : v) x = normal(random);
    StoreKvRow(type_, head_dim_, k.data(), v.data(), buffer_.data(), slot);
  }
  const std::byte* data() const { return buffer_.data(); }

 private:
  KvType type_;
  int head_dim_;
  AlignedBuffer buffer_;
};

// A sequence: pages per lane, some shared with another sequence, some perhaps absent or made on the way.
class Sequence : public TileProvider {
 public:
  struct Slot {
    std::shared_ptr<PageMemory> memory;
    std::vector<int32_t> positions;
    std::vector<float> bias;
    int entries = 0;
    std::shared_ptr<AlignedBuffer> coded;  // read instead
  };

  Sequence(KvType type, int kv_heads, int head_dim) : type_(type), head_dim_(head_dim), lanes(kv_heads) {}

  void Append(int64_t count, std::mt19937& random) {
    for (auto& lane : lanes) {
      for (int64_t i = 0; i < count; ++i) {
        if (lane.empty() || lane.back().entries == kPageTokens) {
          lane.push_back({std::make_shared<PageMemory>(type_, head_dim_), {}, {}, 0});
        }
        lane.back().memory->Put(lane.back().entries++, random);
      }
    }
  }
  // A sequence that shares all full pages.
  Sequence Branch() const {
    Sequence other(type_, static_cast<int>(lanes.size()), head_dim_);
    for (size_t h = 0; h < lanes.size(); ++h) {
      for (const Slot& slot : lanes[h]) {
        if (slot.entries == kPageTokens) other.lanes[h].push_back(slot);
      }
    }
    return other;
  }

  // Full pages become codes, of kT4 as attention may read them.
  void Encode() {
    made_on_the_way = true;
    for (auto& lane : lanes) {
      for (Slot& slot : lane) {
        if (slot.entries < kPageTokens || !slot.memory) continue;
        slot.coded = std::make_shared<AlignedBuffer>(
            AlignedBuffer::Allocate(CodedPageBytes(KvCodes::kT4, head_dim_)).value());
        EncodePage(KvCodes::kT4, head_dim_, slot.memory->data(), slot.coded->data());
      }
    }
  }
  TileSource Source(int, int kv_head, int64_t page) const override {
    const Slot& slot = lanes[static_cast<size_t>(kv_head)][static_cast<size_t>(page)];
    if (slot.coded != nullptr) return {slot.coded->data(), true, static_cast<int32_t>(page * kPageTokens)};
    return {slot.memory ? slot.memory->data() : nullptr, false};
  }

  int64_t Entries(int, int kv_head) const override {
    int64_t n = 0;
    for (const Slot& slot : lanes[static_cast<size_t>(kv_head)])
      n += slot.memory ? slot.entries : kPageTokens;
    return n;
  }
  bool MakesTiles() const override { return made_on_the_way; }
  KvPage Page(int, int kv_head, int64_t page, std::byte* scratch) const override {
    const Slot& slot = lanes[static_cast<size_t>(kv_head)][static_cast<size_t>(page)];
    if (!slot.memory)
      return {.first_position = static_cast<int32_t>(page * kPageTokens), .entries = kPageTokens};
    const std::byte* data = slot.memory->data();
    if (slot.coded != nullptr) {
      DecodePage(KvCodes::kT4, head_dim_, slot.coded->data(), scratch);
      data = scratch;
    } else if (made_on_the_way) {
      std::memcpy(scratch, data, PageBytes(type_, head_dim_));
      data = scratch;
    }
    KvPage out = StoredPage(type_, head_dim_, data);
    out.positions = slot.positions.empty() ? nullptr : slot.positions.data();
    out.first_position = static_cast<int32_t>(page * kPageTokens);
    out.entries = slot.entries;
    out.logit_bias = slot.bias.empty() ? nullptr : slot.bias.data();
    return out;
  }

  KvType type_;
  int head_dim_;
  std::vector<std::vector<Slot>> lanes;
  bool made_on_the_way = false;
};

struct Batch {
  AttentionShape shape;
  std::vector<const Sequence*> sequences;
  std::vector<int32_t> positions;

  size_t width() const { return static_cast<size_t>(shape.heads) * static_cast<size_t>(shape.head_dim); }
  void AddRow(const Sequence& sequence, int64_t position) {
    sequences.push_back(&sequence);
    positions.push_back(static_cast<int32_t>(position));
  }
};

struct Outputs {
  std::vector<float> out, lse;
};

std::vector<float> QueriesFor(const Batch& batch) {
  std::vector<float> q(batch.width() * batch.sequences.size());
  std::mt19937 random(77);
  std::normal_distribution<float> normal;
  for (float& x : q) x = normal(random);
  return q;
}

template <class Call>
Outputs RunRows(const Batch& batch, const std::vector<float>& q, Call call) {
  const size_t n = batch.sequences.size();
  Outputs result{std::vector<float>(n * batch.width(), kNan),
                 std::vector<float>(n * static_cast<size_t>(batch.shape.heads), kNan)};
  std::vector<AttentionRow> rows;
  for (size_t r = 0; r < n; ++r) {
    rows.push_back({q.data() + r * batch.width(), result.out.data() + r * batch.width(),
                    result.lse.data() + r * static_cast<size_t>(batch.shape.heads), batch.sequences[r],
                    batch.positions[r]});
  }
  call(std::span<const AttentionRow>(rows));
  return result;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// The whole contract for one batch: reference, all targets, thread counts 1-4, and every row on its own.
Outputs ExpectEqualsReference(const Batch& batch) {
  const std::vector<float> q = QueriesFor(batch);
  const Outputs expected =
      RunRows(batch, q, [&](std::span<const AttentionRow> rows) { AttentionReference(batch.shape, rows); });
  for (float x : expected.out) EXPECT_TRUE(std::isfinite(x));
  ForEachSimdTarget([&] {
    for (int threads = 1; threads <= 4; ++threads) {
      ThreadPool pool(threads);
      AttentionScratch scratch;
      const Outputs got = RunRows(
          batch, q, [&](std::span<const AttentionRow> rows) { Attention(pool, scratch, batch.shape, rows); });
      ASSERT_TRUE(SameBits(got.out, expected.out)) << threads << " threads";
      ASSERT_TRUE(SameBits(got.lse, expected.lse)) << threads << " threads";
    }
    ThreadPool pool(2);
    AttentionScratch scratch;
    const Outputs alone = RunRows(batch, q, [&](std::span<const AttentionRow> rows) {
      for (const AttentionRow& row : rows) Attention(pool, scratch, batch.shape, {&row, 1});
    });
    ASSERT_TRUE(SameBits(alone.out, expected.out)) << "row by row";
  });
  return expected;
}

AttentionShape Shape(KvType type, int heads, int kv_heads, int head_dim, int window = 0) {
  return {3, heads, kv_heads, head_dim, 1.0f / std::sqrt(static_cast<float>(head_dim)), window, type};
}

TEST(Attention, EqualsReferenceForEveryHeadDimensionAndType) {
  std::mt19937 random(1);
  for (KvType type : {KvType::kI16, KvType::kF32}) {
    for (int head_dim : {1, 8, 16, 31, 32, 64, 80, 96, 128, 256}) {
      SCOPED_TRACE(head_dim);
      Sequence sequence(type, 2, head_dim);
      sequence.Append(150, random);
      Batch batch{Shape(type, 6, 2, head_dim), {}, {}};
      for (int64_t position : {0, 5, 63, 64, 130, 149}) batch.AddRow(sequence, position);
      ExpectEqualsReference(batch);
    }
  }
}

TEST(Attention, EveryNumberOfQueryHeadsPerKvHead) {
  std::mt19937 random(2);
  for (int shared : {1, 2, 3, 4, 5, 7, 8, 13}) {
    SCOPED_TRACE(shared);
    Sequence sequence(KvType::kI16, 2, 32);
    sequence.Append(100, random);
    Batch batch{Shape(KvType::kI16, 2 * shared, 2, 32), {}, {}};
    for (int64_t position : {99, 40, 64}) batch.AddRow(sequence, position);
    ExpectEqualsReference(batch);
  }
}

TEST(Attention, PrefillOfAChunkAcrossPagesAndSpans) {
  std::mt19937 random(3);
  Sequence sequence(KvType::kI16, 1, 32);
  sequence.Append(1100, random);
  Batch batch{Shape(KvType::kI16, 3, 1, 32), {}, {}};
  for (int64_t position = 960; position < 1100; ++position) batch.AddRow(sequence, position);
  ExpectEqualsReference(batch);
}

TEST(Attention, WindowsOfAllWidths) {
  std::mt19937 random(4);
  Sequence sequence(KvType::kI16, 1, 16);
  sequence.Append(700, random);
  for (int window : {1, 7, 63, 64, 65, 200, 512, 5000}) {
    SCOPED_TRACE(window);
    Batch batch{Shape(KvType::kI16, 2, 1, 16, window), {}, {}};
    for (int64_t position : {0, 62, 63, 64, 65, 300, 511, 512, 513, 699}) batch.AddRow(sequence, position);
    ExpectEqualsReference(batch);
  }
}

TEST(Attention, PagesOutsideTheWindowMayBeAbsent) {
  std::mt19937 random(5);
  Sequence whole(KvType::kI16, 2, 32);
  whole.Append(900, random);
  Sequence holey = whole;
  for (auto& lane : holey.lanes) {
    for (size_t page = 0; page < 9; ++page) lane[page].memory = nullptr;  // up to entry 575
  }
  Batch batch{Shape(KvType::kI16, 4, 2, 32, 100), {}, {}};
  for (int64_t position = 675; position < 690; ++position) batch.AddRow(whole, position);
  Batch absent = batch;
  for (auto& sequence : absent.sequences) sequence = &holey;
  EXPECT_TRUE(SameBits(ExpectEqualsReference(batch).out, ExpectEqualsReference(absent).out));
}

TEST(Attention, EntriesWithPositionsAndBiasesOfTheirOwn) {
  std::mt19937 random(6);
  Sequence sequence(KvType::kF32, 2, 48);
  sequence.Append(300, random);
  for (auto& lane : sequence.lanes) {
    for (auto& slot : lane) {
      slot.positions.assign(kPageTokens, -12345);
      slot.bias.assign(kPageTokens, kNan);
      for (int i = 0; i < slot.entries; ++i) {
        slot.positions[static_cast<size_t>(i)] = static_cast<int32_t>(random() % 500);
        slot.bias[static_cast<size_t>(i)] = random() % 8 == 0 ? -std::numeric_limits<float>::infinity()
                                                              : static_cast<float>(random() % 100) / 50;
      }
    }
  }
  for (int window : {0, 90}) {
    Batch batch{Shape(KvType::kF32, 6, 2, 48, window), {}, {}};
    for (int i = 0; i < 20; ++i) batch.AddRow(sequence, static_cast<int64_t>(random() % 500));
    ExpectEqualsReference(batch);
  }
}

// A value that one row of a tile sees must not reach its neighbour, not even as zero times NaN.
void ExpectPoisonStaysWhereItIsSeen(KvType type) {
  std::mt19937 random(16);
  Sequence clean(type, 1, 32);
  clean.Append(40, random);
  Sequence poisoned(type, 1, 32);
  poisoned.lanes[0].push_back({std::make_shared<PageMemory>(type, 32), {}, {}, 40});
  std::byte* page = const_cast<std::byte*>(poisoned.lanes[0][0].memory->data());
  CopyKvRows(type, 32, clean.lanes[0][0].memory->data(), 0, page, 0, 40);
  const std::vector<float> nan(32, kNan);
  StoreKvRow(type, 32, nan.data(), nan.data(), page, 10);
  Batch batch{Shape(type, 2, 1, 32), {}, {}};
  for (int64_t position = 6; position < 14; ++position) batch.AddRow(clean, position);
  const Outputs expected = ExpectEqualsReference(batch);
  for (auto& sequence : batch.sequences) sequence = &poisoned;
  ForEachSimdTarget([&] {
    ThreadPool pool(1);
    AttentionScratch scratch;
    const Outputs got = RunRows(batch, QueriesFor(batch), [&](std::span<const AttentionRow> rows) {
      Attention(pool, scratch, batch.shape, rows);
    });
    for (size_t i = 0; i < got.out.size(); ++i) {
      if (i < 4 * batch.width()) {  // positions 6 to 9
        EXPECT_EQ(got.out[i], expected.out[i]);
      } else {
        EXPECT_TRUE(std::isnan(got.out[i]));
      }
    }
  });
}

TEST(Attention, WhatARowDoesNotSeeCannotReachIt) {
  ExpectPoisonStaysWhereItIsSeen(KvType::kF32);
  ExpectPoisonStaysWhereItIsSeen(KvType::kI16);
}

TEST(Attention, BiasOfMinusInfinityRemovesAnEntry) {
  std::mt19937 random(7);
  Sequence all(KvType::kF32, 1, 16);
  all.Append(64, random);
  Sequence biased = all;
  biased.lanes[0][0].bias.assign(kPageTokens, -std::numeric_limits<float>::infinity());
  for (int i = 0; i <= 20; ++i) biased.lanes[0][0].bias[static_cast<size_t>(i)] = 0;
  Batch a{Shape(KvType::kF32, 2, 1, 16), {}, {}}, b = a;
  a.AddRow(all, 20);
  b.AddRow(biased, 63);
  EXPECT_TRUE(SameBits(ExpectEqualsReference(a).out, ExpectEqualsReference(b).out));
}

TEST(Attention, ARowThatSeesNothingGivesZeros) {
  std::mt19937 random(8);
  Sequence sequence(KvType::kI16, 1, 16), empty(KvType::kI16, 1, 16);
  sequence.Append(10, random);
  Sequence hidden = sequence;
  hidden.lanes[0][0].bias.assign(kPageTokens, -std::numeric_limits<float>::infinity());
  Batch batch{Shape(KvType::kI16, 2, 1, 16), {}, {}};
  batch.AddRow(sequence, -1);
  batch.AddRow(empty, 5);
  batch.AddRow(hidden, 5);
  const Outputs result = ExpectEqualsReference(batch);
  for (float x : result.out) EXPECT_EQ(x, 0.0f);
  for (float x : result.lse) EXPECT_EQ(x, -std::numeric_limits<float>::infinity());
}

uint64_t PagesRead(const Batch& batch, int threads) {
  ThreadPool pool(threads);
  AttentionScratch scratch;
  RunRows(batch, QueriesFor(batch),
          [&](std::span<const AttentionRow> rows) { Attention(pool, scratch, batch.shape, rows); });
  return scratch.pages_read();
}

TEST(Attention, SharedPagesAreReadOnceForAllBranches) {
  std::mt19937 random(9);
  const int branches = 32;
  Sequence prefix(KvType::kI16, 3, 16);
  prefix.Append(2048, random);
  std::vector<Sequence> sequences;
  for (int i = 0; i < branches; ++i) {
    sequences.push_back(prefix.Branch());
    sequences.back().Append(1 + i % 5, random);
  }
  Batch batch{Shape(KvType::kI16, 9, 3, 16), {}, {}};
  for (const Sequence& sequence : sequences) batch.AddRow(sequence, sequence.Entries(0, 0) - 1);
  ExpectEqualsReference(batch);
  for (int threads = 1; threads <= 4; ++threads)
    EXPECT_EQ(PagesRead(batch, threads), 3u * (2048 / kPageTokens + branches));
}

// Rows of strangers may be spread over the threads one by one; those with pages in common stay together, in
// whatever order they come.
TEST(Attention, BranchesOfTwoPrefixesInTurnsReadEachOnce) {
  std::mt19937 random(19);
  std::vector<Sequence> prefixes;
  for (int p = 0; p < 2; ++p) {
    prefixes.emplace_back(KvType::kI16, 1, 16);
    prefixes.back().Append(256, random);
  }
  std::vector<Sequence> branches;
  for (int i = 0; i < 16; ++i) branches.push_back(prefixes[i % 2].Branch());
  Batch batch{Shape(KvType::kI16, 3, 1, 16), {}, {}};
  for (const Sequence& branch : branches) batch.AddRow(branch, 255);
  ExpectEqualsReference(batch);
  // Items of four rows at least: two branches of each prefix.
  EXPECT_LE(PagesRead(batch, 2), 2u * (256 / kPageTokens) * (16 / 4));
}

TEST(Attention, OnlyPagesWithAVisibleEntryAreRead) {
  std::mt19937 random(10);
  Sequence sequence(KvType::kI16, 1, 16);
  sequence.Append(640, random);
  const auto pages_read = [&](int window, std::vector<int64_t> positions) {
    Batch batch{Shape(KvType::kI16, 1, 1, 16, window), {}, {}};
    for (int64_t position : positions) batch.AddRow(sequence, position);
    return PagesRead(batch, 1);
  };
  EXPECT_EQ(pages_read(0, {0}), 1u);
  EXPECT_EQ(pages_read(0, {63}), 1u);
  EXPECT_EQ(pages_read(0, {64}), 2u);
  EXPECT_EQ(pages_read(64, {639}), 1u);
  EXPECT_EQ(pages_read(65, {639}), 2u);
  EXPECT_EQ(pages_read(1, {0, 639}), 2u);
}

TEST(Attention, TilesMadeOnTheWayGiveTheSameBits) {
  std::mt19937 random(11);
  Sequence stored(KvType::kI16, 2, 64), other(KvType::kI16, 2, 64);
  stored.Append(700, random);
  other.Append(300, random);
  Sequence made = stored;
  made.made_on_the_way = true;
  Batch a{Shape(KvType::kI16, 6, 2, 64), {}, {}}, b = a;
  for (int i = 0; i < 12; ++i) {
    a.AddRow(i % 3 == 0 ? other : stored, 250 + 3 * i);
    b.AddRow(i % 3 == 0 ? other : made, 250 + 3 * i);
  }
  EXPECT_TRUE(SameBits(ExpectEqualsReference(a).out, ExpectEqualsReference(b).out));
}

// One row reads nibbles, many rows read a page that was decoded for all of them; the reference decodes.
TEST(Attention, CodesGiveTheBitsOfTheirDecodedPages) {
  std::mt19937 random(13);
  for (const int head_dim : {32, 48, 64, 128, 256}) {
    SCOPED_TRACE(head_dim);
    Sequence sequence(KvType::kI16, 2, head_dim);
    sequence.Append(700, random);
    sequence.lanes[1][3].memory = nullptr;  // absent
    Sequence branch = sequence.Branch();
    branch.Append(30, random);
    branch.lanes[1][3].memory = nullptr;
    sequence.Encode();
    sequence.lanes[0][2].coded = nullptr;  // a tile of another kind among them
    for (size_t h = 0; h < 2; ++h) {
      for (size_t i = 0; i < 10; ++i) branch.lanes[h][i] = sequence.lanes[h][i];
    }
    branch.made_on_the_way = true;
    for (const int window : {0, 150}) {
      Batch batch{Shape(KvType::kI16, 6, 2, head_dim, window), {}, {}};
      for (int i = 0; i < 40; ++i) batch.AddRow(i % 5 == 0 ? branch : sequence, 250 + 11 * i);
      ExpectEqualsReference(batch);
      Batch few{Shape(KvType::kI16, 4, 2, head_dim, window), {}, {}};
      few.AddRow(sequence, 699);
      few.AddRow(branch, 650);
      few.AddRow(sequence, 300);
      ExpectEqualsReference(few);
    }
  }
}

// Branches of one prefix of codes share its decoding, and each page counts once.
TEST(Attention, CodesThatAreSharedAreReadOnce) {
  std::mt19937 random(14);
  Sequence prefix(KvType::kI16, 1, 64);
  prefix.Append(1024, random);
  prefix.Encode();
  std::vector<Sequence> branches(32, prefix);
  Batch batch{Shape(KvType::kI16, 3, 1, 64), {}, {}};
  for (const Sequence& branch : branches) batch.AddRow(branch, 1023);
  EXPECT_EQ(PagesRead(batch, 1), 16u);
}

TEST(Attention, RandomBatchesOfStrangersAndBranches) {
  std::mt19937 random(12);
  for (int trial = 0; trial < 6; ++trial) {
    const KvType type = trial % 2 == 0 ? KvType::kI16 : KvType::kF32;
    const int head_dim = 16 * (1 + static_cast<int>(random() % 4));
    Sequence base(type, 2, head_dim);
    base.Append(static_cast<int64_t>(random() % 900), random);
    std::vector<Sequence> sequences(4, base.Branch());
    for (Sequence& sequence : sequences) sequence.Append(static_cast<int64_t>(1 + random() % 200), random);
    Batch batch{Shape(type, 4, 2, head_dim, trial % 3 == 0 ? 130 : 0), {}, {}};
    const int rows = 1 + static_cast<int>(random() % 90);
    for (int r = 0; r < rows; ++r) {
      const Sequence& sequence = sequences[random() % 4];
      batch.AddRow(sequence, static_cast<int64_t>(random() % static_cast<uint64_t>(sequence.Entries(0, 0))));
    }
    ExpectEqualsReference(batch);
  }
}

void ExpectCloseToExact(KvType type, float tolerance) {
  std::mt19937 random(13);
  const int head_dim = 64, heads = 3;
  Sequence sequence(type, 1, head_dim);
  sequence.Append(1500, random);
  Batch batch{Shape(type, heads, 1, head_dim), {}, {}};
  batch.AddRow(sequence, 1499);
  const std::vector<float> q = QueriesFor(batch);
  const Outputs got = ExpectEqualsReference(batch);
  std::vector<float> k(head_dim), v(head_dim);
  for (int head = 0; head < heads; ++head) {
    std::vector<double> values(head_dim);
    double sum = 0;
    for (int i = 0; i < 1500; ++i) {
      LoadKvRow(type, head_dim, sequence.lanes[0][static_cast<size_t>(i / 64)].memory->data(), i % 64,
                k.data(), v.data());
      double score = 0;
      for (int d = 0; d < head_dim; ++d)
        score += double{q[static_cast<size_t>(head * head_dim + d)]} * k[static_cast<size_t>(d)];
      const double weight = std::exp(score * batch.shape.scale);
      sum += weight;
      for (int d = 0; d < head_dim; ++d) values[static_cast<size_t>(d)] += weight * v[static_cast<size_t>(d)];
    }
    for (int d = 0; d < head_dim; ++d) {
      EXPECT_NEAR(got.out[static_cast<size_t>(head * head_dim + d)], values[static_cast<size_t>(d)] / sum,
                  tolerance);
    }
    EXPECT_NEAR(got.lse[static_cast<size_t>(head)], std::log(sum), tolerance);
  }
}

TEST(Attention, IsCloseToTheExactResult) { ExpectCloseToExact(KvType::kF32, 2e-6f); }

// Queries of 13 bits, weights of 12, keys and values of 14: a thousandth of the typical output.
TEST(Attention, OfCodesIsCloseToTheExactResult) { ExpectCloseToExact(KvType::kI16, 2e-4f); }

// Off by half a step of the row's scale at most.
void ExpectRounded(KvType type, const std::vector<float>& stored, const std::vector<float>& read) {
  float largest = 0;
  for (const float x : stored) largest = std::max(largest, std::abs(x));
  const float tolerance = type == KvType::kF32 ? 0.0f : largest / 8191 * 0.5001f;
  for (size_t d = 0; d < stored.size(); ++d) EXPECT_NEAR(read[d], stored[d], tolerance);
}

TEST(KvRows, StoredRowsComeBackRoundedToTheNearestCode) {
  std::mt19937 random(14);
  for (int head_dim : {1, 8, 47, 48, 100, 256}) {
    std::vector<float> k(static_cast<size_t>(head_dim)), v(static_cast<size_t>(head_dim)), k2 = k, v2 = v;
    for (float& x : k)
      x = std::ldexp(static_cast<float>(random()) / 4e9f - 0.5f, static_cast<int>(random() % 36) - 24);
    for (float& x : v) x = std::bit_cast<float>(0x38000000u + static_cast<uint32_t>(random() % 0x10000));
    ForEachSimdTarget([&] {
      for (KvType type : {KvType::kI16, KvType::kF32}) {
        PageMemory page(type, head_dim);
        std::byte* data = const_cast<std::byte*>(page.data());
        StoreKvRow(type, head_dim, k.data(), v.data(), data, 17);
        LoadKvRow(type, head_dim, data, 17, k2.data(), v2.data());
        ExpectRounded(type, k, k2);
        ExpectRounded(type, v, v2);
        // Neighbours are untouched.
        for (int slot : {16, 18}) {
          LoadKvRow(type, head_dim, data, slot, k2.data(), v2.data());
          for (float x : k2) EXPECT_TRUE(std::isnan(x));
          for (float x : v2) EXPECT_TRUE(std::isnan(x));
        }
      }
    });
  }
}

TEST(KvRows, ARowWithANanBecomesNan) {
  std::vector<float> k(64, 1.0f), v(64, 2.0f), k2(64), v2(64);
  k[3] = std::numeric_limits<float>::infinity();
  v[60] = kNan;
  PageMemory page(KvType::kI16, 64);
  std::byte* data = const_cast<std::byte*>(page.data());
  StoreKvRow(KvType::kI16, 64, k.data(), v.data(), data, 5);
  LoadKvRow(KvType::kI16, 64, data, 5, k2.data(), v2.data());
  for (float x : k2) EXPECT_TRUE(std::isnan(x));
  for (float x : v2) EXPECT_TRUE(std::isnan(x));
}

TEST(KvRows, CopyTakesLeadingRowsOnly) {
  std::mt19937 random(15);
  for (KvType type : {KvType::kI16, KvType::kF32}) {
    PageMemory from(type, 32), to(type, 32);
    for (int slot = 0; slot < kPageTokens; ++slot) from.Put(slot, random);
    CopyKvRows(type, 32, from.data(), 0, const_cast<std::byte*>(to.data()), 0, 11);
    std::vector<float> k(32), v(32), k2(32), v2(32);
    for (int slot = 0; slot < kPageTokens; ++slot) {
      LoadKvRow(type, 32, from.data(), slot, k.data(), v.data());
      LoadKvRow(type, 32, to.data(), slot, k2.data(), v2.data());
      EXPECT_EQ(k == k2, slot < 11);
      EXPECT_EQ(v == v2, slot < 11);
    }
  }
}

TEST(KvRows, PageBytesAreAMultipleOf512) {
  EXPECT_EQ(PageBytes(KvType::kI16, 64), 16384u + 512u);
  EXPECT_EQ(PageBytes(KvType::kF32, 64), 32768u);
  EXPECT_EQ(PageBytes(KvType::kI16, 1), 1024u);
  EXPECT_EQ(PageBytes(KvType::kI16, 80) % 512, 0u);
}

}  // namespace
}  // namespace larder
