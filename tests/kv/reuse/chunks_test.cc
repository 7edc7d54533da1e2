// Stored chunks: found at every offset and nowhere else, whatever their hashes are; kept to their share; the
// choice of rows that are computed again.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <random>

#include "kv/cache.h"
#include "kv/reuse/chunk_record.h"
#include "kv/reuse/chunks.h"
#include "kv/reuse/method.h"

namespace larder {
namespace {

using Tokens = std::vector<int32_t>;

Tokens Text(uint32_t seed, size_t n, uint32_t vocabulary = 50000) {
  std::mt19937 random(seed);
  Tokens out(n);
  for (auto& t : out) t = static_cast<int32_t>(random() % vocabulary);
  return out;
}
Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Digest NameOf(uint64_t chunk) { return FieldHasher().Add("chunk", chunk).Finish(); }

struct Indexed {
  explicit Indexed(std::vector<Tokens> texts, std::function<uint64_t(uint64_t)> weaken = nullptr)
      : tokens(std::move(texts)), index(std::move(weaken)) {
    for (size_t i = 0; i < tokens.size(); ++i) names.push_back(NameOf(i));
    for (size_t i = 0; i < tokens.size(); ++i) index.Add(i, tokens[i], &names[i]);
  }
  // Every match stands where it says, as far as it goes.
  std::vector<ChunkMatch> Find(const Tokens& prompt) const {
    const auto found = index.Find(prompt);
    int64_t end = 0;
    for (const ChunkMatch& match : found) {
      const Tokens& text = tokens[match.chunk];
      EXPECT_GE(match.begin, end);
      EXPECT_GE(match.rows, kChunkWindow);
      end = match.begin + match.rows;
      for (int64_t i = 0; i < match.rows; ++i)
        EXPECT_EQ(prompt.at(static_cast<size_t>(match.begin + i)),
                  text.at(static_cast<size_t>(match.first + i)));
    }
    return found;
  }
  std::vector<Tokens> tokens;
  std::vector<Digest> names;
  ChunkIndex index;
};

void ExpectMatch(const std::vector<ChunkMatch>& found, size_t at, int64_t begin, int64_t rows, uint64_t chunk,
                 int64_t first) {
  ASSERT_LT(at, found.size());
  EXPECT_EQ(found[at].begin, begin);
  EXPECT_EQ(found[at].rows, rows);
  EXPECT_EQ(found[at].chunk, chunk);
  EXPECT_EQ(found[at].first, first);
}

TEST(ChunkIndexTest, FindsChunksAtEveryOffset) {
  const Indexed indexed({Text(1, 64), Text(2, 200), Text(3, 129)});
  for (size_t offset = 0; offset < 140; ++offset) {
    const Tokens before = Text(100, offset), between = Text(101, 3);
    const auto found =
        indexed.Find(before + indexed.tokens[1] + between + indexed.tokens[0] + indexed.tokens[2]);
    ASSERT_EQ(found.size(), 3u) << offset;
    const auto at = static_cast<int64_t>(offset);
    ExpectMatch(found, 0, at, 200, 1, 0);
    ExpectMatch(found, 1, at + 203, 64, 0, 0);
    ExpectMatch(found, 2, at + 267, 129, 2, 0);
  }
  EXPECT_TRUE(indexed.Find(Text(9, 500)).empty());
  EXPECT_TRUE(indexed.Find(Text(1, 63)).empty());
  EXPECT_TRUE(indexed.Find({}).empty());
}

TEST(ChunkIndexTest, PartsOfAChunkMatchAsFarAsTheyGo) {
  const Indexed indexed({Text(1, 300)});
  const Tokens& text = indexed.tokens[0];
  // From the middle of a window to the middle of another one.
  const Tokens part(text.begin() + 30, text.begin() + 250);
  ExpectMatch(indexed.Find(Text(5, 11) + part + Text(6, 11)), 0, 11, 220, 0, 30);
  // A token in the middle is another one.
  Tokens broken = text;
  broken[150] ^= 1;
  const auto found = indexed.Find(broken);
  ASSERT_EQ(found.size(), 2u);
  ExpectMatch(found, 0, 0, 150, 0, 0);
  ExpectMatch(found, 1, 151, 149, 0, 151);
}

TEST(ChunkIndexTest, OverlapsAreResolvedTheSameWayWhateverTheOrder) {
  const Tokens a = Text(1, 128), b = Text(2, 128);
  const std::vector<Tokens> texts = {a + b, a, b, b + a};
  const Tokens prompt = Text(7, 5) + a + b + a;
  const auto expected = Indexed(texts).Find(prompt);
  ASSERT_EQ(expected.size(), 2u);
  ExpectMatch(expected, 0, 5, 256, 0, 0);
  std::vector<uint64_t> order = {0, 1, 2, 3};
  do {
    ChunkIndex index;
    std::vector<Digest> names;
    for (uint64_t i = 0; i < 4; ++i) names.push_back(NameOf(i));
    for (const uint64_t i : order) index.Add(i, texts[i], &names[i]);
    const auto found = index.Find(prompt);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i)
      ExpectMatch(found, i, expected[i].begin, expected[i].rows, expected[i].chunk, expected[i].first);
  } while (std::ranges::next_permutation(order).found);
}

TEST(ChunkIndexTest, CollisionsNeverGiveOtherRows) {
  for (const uint64_t kept : {uint64_t{0}, uint64_t{1}, uint64_t{7}}) {
    const auto weaken = [kept](uint64_t hash) { return hash & kept; };
    // Few different tokens, so that much is alike.
    std::vector<Tokens> texts;
    for (uint32_t i = 0; i < 8; ++i) texts.push_back(Text(i, 64 + 31 * i, 2));
    const Indexed weak(texts, weaken);
    const Indexed strong(texts);
    for (uint32_t seed = 0; seed < 20; ++seed) {
      const Tokens prompt =
          Text(50 + seed, 40, 2) + texts[seed % 8] + Text(90 + seed, 70, 2) + texts[(seed + 3) % 8];
      const auto expected = strong.Find(prompt);
      EXPECT_GE(expected.size(), 2u);
      const auto found = weak.Find(prompt);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i)
        ExpectMatch(found, i, expected[i].begin, expected[i].rows, expected[i].chunk, expected[i].first);
    }
  }
}

TEST(ChunkIndexTest, WhatIsRemovedIsNotFound) {
  Indexed indexed({Text(1, 130), Text(1, 130) + Text(2, 70), Tokens(512, 3)});
  const Tokens prompt = Text(1, 130) + Tokens(300, 3);
  ASSERT_EQ(indexed.Find(prompt).size(), 2u);
  indexed.index.Remove(0);
  ASSERT_EQ(indexed.Find(prompt).size(), 2u);
  EXPECT_EQ(indexed.Find(prompt)[0].chunk, 1u);
  indexed.index.Remove(1);
  indexed.index.Remove(2);
  indexed.index.Remove(2);
  EXPECT_TRUE(indexed.Find(prompt).empty());
  EXPECT_TRUE(indexed.index.empty());
}

TEST(ChunkRecordTest, MetadataComeBackAndDamagedOnesAreRefused) {
  const Digest name = NameOf(7);
  const Tokens tokens = Text(1, 100);
  const auto good = EncodeChunkMetadata(name, 5, tokens);
  EXPECT_EQ(good.size(), 44u + 4 * 100) << "docs/formats/kv-chunks.md";
  const auto read = DecodeChunkMetadata(good);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->name, name);
  EXPECT_EQ(read->prefix_rows, 5);
  EXPECT_EQ(read->tokens, tokens);
  for (size_t bytes = 0; bytes < good.size(); ++bytes)
    EXPECT_EQ(DecodeChunkMetadata(std::span(good).first(bytes)).error().kind, ErrorKind::kCorrupt) << bytes;
  const auto with = [&](size_t at, std::byte value) {
    auto bad = good;
    bad[at] = value;
    return DecodeChunkMetadata(bad).error().kind;
  };
  EXPECT_EQ(with(0, std::byte{2}), ErrorKind::kUnsupported);
  for (const size_t at : {8u, 9u, 10u, 11u}) EXPECT_EQ(with(at, std::byte{0xff}), ErrorKind::kCorrupt) << at;
  EXPECT_FALSE(DecodeChunkMetadata(EncodeChunkMetadata(name, 5, Text(1, 63)))) << "shorter than any match";
}

class ChunkStoreTest : public ::testing::Test {
 protected:
  ChunkStoreTest() {
    cache_ =
        *KvCache::Create(*KvShape::Create({0, 0}, 2, 32, KvType::kI16), {}, {.limit_bytes = kLimit}, &clock_);
    room_ = std::make_unique<DerivedRoom>(cache_->MakeBudget(), kLimit);
    store_ = std::make_unique<ChunkStore>(&cache_->shape(), KvIdentity{}, room_.get());
  }
  std::shared_ptr<StoredChunk> Put(const std::string& tenant, const Tokens& tokens,
                                   const Tokens& prefix = {}) {
    auto chunk = store_->Begin(tenant, prefix, tokens);
    EXPECT_TRUE(chunk) << (chunk ? "" : chunk.error().message);
    if (!chunk) return nullptr;
    store_->Finish(*chunk);
    EXPECT_LE(cache_->used_bytes(), kLimit);
    return *chunk;
  }

  static constexpr uint64_t kLimit = 4 << 20;
  SystemClock clock_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<DerivedRoom> room_;
  std::unique_ptr<ChunkStore> store_;
};

TEST_F(ChunkStoreTest, RowsComeBackAsTheyWereWritten) {
  const auto chunk = Put("t", Text(1, 100));
  float k[32], v[32], got_k[32], got_v[32];
  for (const int64_t row : {0, 63, 64, 99}) {
    for (int i = 0; i < 32; ++i) {
      k[i] = static_cast<float>(row + i);
      v[i] = static_cast<float>(row - i);
    }
    chunk->Write(1, 1, row, k, v);
    chunk->Read(1, 1, row, got_k, got_v);
    for (int i = 0; i < 32; ++i) {
      EXPECT_NEAR(got_k[i], k[i], 0.02);
      EXPECT_NEAR(got_v[i], v[i], 0.02);
    }
  }
}

TEST_F(ChunkStoreTest, ATenantFindsItsOwn) {
  Put("t", Text(1, 100));
  EXPECT_EQ(store_->Match("t", Text(1, 100)).size(), 1u);
  EXPECT_TRUE(store_->Match("u", Text(1, 100)).empty());
  EXPECT_TRUE(store_->Match("", Text(1, 100)).empty());
  Put("u", Text(1, 100));
  room_->Forget("t");
  EXPECT_TRUE(store_->Match("t", Text(1, 100)).empty());
  EXPECT_EQ(store_->Match("u", Text(1, 100)).size(), 1u);
}

TEST_F(ChunkStoreTest, NamesTellEverythingApart) {
  const Tokens a = Text(1, 100), b = Text(2, 100);
  const std::vector<Digest> names = {store_->Name("t", {}, a), store_->Name("u", {}, a),
                                     store_->Name("t", {}, b), store_->Name("t", b, a),
                                     store_->Name("t", {}, b + a)};
  for (size_t i = 0; i < names.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(names[i], names[j]) << i << " and " << j;
  }
}

TEST_F(ChunkStoreTest, TheOldestGoesAndWhatIsHeldStays) {
  const auto held = Put("t", Text(0, 200));
  std::vector<ChunkSpan> used;
  for (uint32_t i = 1; i < 200; ++i) {
    Put("t", Text(i, 200));
    EXPECT_EQ(store_->Match("t", Text(1, 200)).size(), 1u) << "it was used just now";
    const ChunkStats stats = store_->stats();
    EXPECT_LE(stats.bytes, stats.limit_bytes);
  }
  EXPECT_EQ(store_->Match("t", Text(0, 200)).size(), 1u);
  EXPECT_TRUE(store_->Match("t", Text(2, 200)).empty());
  EXPECT_GT(store_->stats().evicted, 100u);
  // All of the share is held: nothing more comes in, and nothing is lost.
  std::vector<std::shared_ptr<StoredChunk>> all;
  for (uint32_t i = 1000; i < 1200; ++i) {
    auto chunk = store_->Begin("t", {}, Text(i, 200));
    if (!chunk) {
      EXPECT_EQ(chunk.error().kind, ErrorKind::kExhausted);
      break;
    }
    store_->Finish(*chunk);
    all.push_back(*chunk);
  }
  EXPECT_LT(all.size(), 200u);
  EXPECT_EQ(store_->stats().chunks, all.size() + 1);
  // Its pages go when the last holder lets go.
  const uint64_t bytes = store_->stats().bytes;
  room_->Forget("");
  EXPECT_EQ(store_->stats().bytes, bytes);
  all.clear();
  EXPECT_EQ(store_->stats().bytes, held->bytes().size());
}

TEST_F(ChunkStoreTest, ListsHaveATenantsChunksByTheirNames) {
  std::map<Digest, int64_t> tokens;  // of t's
  for (uint32_t i = 0; i < 7; ++i) {
    tokens[Put("t", Text(i, 70 + i), Text(9, i))->name()] = 70 + i;
    Put("u", Text(i, 70 + i), Text(9, i));
  }
  const auto all = store_->List("t", std::nullopt, 100);
  ASSERT_EQ(all.size(), 7u);
  auto expected = tokens.begin();
  for (const ChunkListing& one : all) {
    EXPECT_EQ(one.name, expected->first);
    EXPECT_EQ(one.tokens, expected->second);
    EXPECT_EQ(one.prefix_tokens, one.tokens - 70);
    EXPECT_EQ(one.bytes, store_->BytesFor(one.tokens));
    EXPECT_TRUE(one.in_memory && !one.below && !one.held);
    ++expected;
  }
  // A chunk that goes between two pages takes nothing along that stays.
  const auto first = store_->List("t", std::nullopt, 3);
  ASSERT_EQ(first.size(), 3u);
  store_->Lose(*store_->Find(first[2].name));
  const auto second = store_->List("t", first[2].name, 100);
  ASSERT_EQ(second.size(), 4u);
  EXPECT_EQ(second[0].name, all[3].name);
  EXPECT_TRUE(store_->List("t", all[6].name, 100).empty());
  EXPECT_TRUE(store_->List("", std::nullopt, 100).empty());

  const auto holder = store_->Find(all[4].name);
  store_->KeptBelow(*store_->Find(all[5].name));
  while (room_->DropOldest()) {
  }
  const auto left = store_->List("t", std::nullopt, 100);
  ASSERT_EQ(left.size(), 2u);
  EXPECT_TRUE(left[0].held && left[0].in_memory && !left[0].below);
  EXPECT_TRUE(!left[1].held && !left[1].in_memory && left[1].below);
  EXPECT_EQ(left[1].bytes, all[5].bytes);
}

TEST_F(ChunkStoreTest, OneIsRemovedByItsTenantOnly) {
  auto chunk = Put("t", Text(1, 100));
  Put("t", Text(2, 100));
  EXPECT_FALSE(store_->Remove("u", chunk->name()));
  EXPECT_EQ(store_->Match("t", Text(1, 100)).size(), 1u);
  EXPECT_TRUE(store_->Remove("t", chunk->name()));
  EXPECT_FALSE(store_->Remove("t", chunk->name()));
  EXPECT_TRUE(store_->Match("t", Text(1, 100)).empty());
  EXPECT_EQ(store_->Match("t", Text(2, 100)).size(), 1u);
  EXPECT_TRUE(chunk->ready()) << "who holds it goes on";
  const uint64_t with = store_->stats().bytes;
  chunk = nullptr;
  EXPECT_LT(store_->stats().bytes, with);
}

TEST_F(ChunkStoreTest, RefusesWhatCannotBeAChunk) {
  EXPECT_EQ(store_->Check(63).error().kind, ErrorKind::kInvalid);
  EXPECT_TRUE(store_->Check(64));
  EXPECT_EQ(store_->Check(1 << 20).error().kind, ErrorKind::kInvalid);
  EXPECT_FALSE(store_->Begin("t", {}, Text(1, 10)));
  EXPECT_EQ(store_->stats().bytes, 0u);
}

TEST(BlendMethodTest, ChoosesTheLargestDeviationsAndTheLowerOfEqualOnes) {
  const auto choose = [](const std::string& spec, const std::vector<float>& deviations, int layer = 1) {
    const auto method = CreateReuseMethod(spec, {.layers = 5});
    EXPECT_TRUE(method) << (method ? "" : method.error().message);
    std::vector<int32_t> positions;
    std::vector<int64_t> in_span;
    for (size_t i = 0; i < deviations.size(); ++i) {
      positions.push_back(static_cast<int32_t>(100 + i));
      in_span.push_back(static_cast<int64_t>(i % 4));
    }
    std::vector<uint8_t> again(deviations.size());
    const std::vector<float> attention(deviations.rbegin(), deviations.rend());
    (*method)->Choose({layer, 8, positions, in_span, deviations, attention}, again);
    std::string chosen;
    for (const uint8_t one : again) chosen += one != 0 ? 'x' : '.';
    return chosen;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> some = {1, 5, 5, 0, 9, 5, 2, 3};
  EXPECT_EQ(choose("blend:ratio=0.4", some), ".xx.x...");  // 3 of 8
  EXPECT_EQ(choose("blend:ratio=0", some), "........");
  EXPECT_EQ(choose("blend:ratio=1", some), "xxxxxxxx");
  EXPECT_EQ(choose("blend:ratio=0.12", some), "........");
  EXPECT_EQ(choose("blend:ratio=0.25", {1, nan, 2, 3, 0, 0, 0, 7}), ".x.....x");
  EXPECT_EQ(choose("blend:ratio=0.5,select=first", some), "xx..xx..");
  const std::string random = choose("blend:ratio=0.5,select=random", some);
  EXPECT_EQ(std::ranges::count(random, 'x'), 4);
  EXPECT_EQ(random, choose("blend:ratio=0.5,select=random", {0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(choose("blend:ratio=0.25,select=attention", some), "..xx....") << "of 3 2 5 9 0 5 5 1";
  EXPECT_EQ(choose("blend", {}), "");
  // From twice the ratio down to it, always of the rows that there were at first.
  EXPECT_EQ(choose("blend:ratio=0.25,gradual=2", some, 1), ".xx.xx..");
  EXPECT_EQ(choose("blend:ratio=0.25,gradual=2", {1, 2, 3, 4}, 2), ".xxx");
  EXPECT_EQ(choose("blend:ratio=0.25,gradual=2", {5, 3, 4}, 3), "x.x");
  EXPECT_EQ(choose("blend:ratio=0.25,gradual=2", {5, 3}, 4), "xx");
  EXPECT_EQ(choose("blend:ratio=1,gradual=2", some, 1), "xxxxxxxx");
}

TEST(BlendMethodTest, DeclaresWhatItNeedsAndRefusesWhatCannotBe) {
  const auto needs = (*CreateReuseMethod("blend:by=kv,check=3,reposition=false", {.layers = 4}))->needs();
  EXPECT_TRUE(needs.chunks && needs.keys && needs.values && !needs.reposition);
  EXPECT_EQ(needs.check_layer, 3);
  EXPECT_EQ(needs.last_check_layer, 3);
  EXPECT_EQ((*CreateReuseMethod("blend:gradual=1.5", {.layers = 5}))->needs().last_check_layer, 4);
  EXPECT_FALSE((*CreateReuseMethod("prefix", {}))->needs().chunks);
  for (const char* bad : {"blend:check=4", "blend:check=0", "blend:ratio=-1", "blend:by=q", "blend:nosuch=1",
                          "blend:gradual=1.5", "prefix:ratio=1", "nosuch", ""}) {
    EXPECT_FALSE(CreateReuseMethod(bad, {.layers = 4})) << bad;
  }
  EXPECT_TRUE(CheckCombination("prefix", "h2o:budget=0.5"));
  EXPECT_TRUE(CheckCombination("blend:ratio=0.5", ""));
  EXPECT_FALSE(CheckCombination("blend:ratio=0.5", "h2o:budget=0.5"));
  EXPECT_FALSE(CheckCombination("blend", "streaming"));
}

}  // namespace
}  // namespace larder
