// Compressed states beside stored chunks: their names tell apart what has other bits, and both give way to
// each other by age.
#include "kv/evict/states.h"

#include <gtest/gtest.h>

#include "kv/cache.h"
#include "kv/reuse/chunks.h"

namespace larder {
namespace {

using Tokens = std::vector<int32_t>;

class StatesTest : public ::testing::Test {
 protected:
  StatesTest() {
    cache_ =
        *KvCache::Create(*KvShape::Create({0, 0}, 2, 32, KvType::kI16), {}, {.limit_bytes = kLimit}, &clock_);
    room_ = std::make_unique<DerivedRoom>(cache_->MakeBudget(), kLimit);
    pages_ = cache_->MakePageSource();
    states_ = std::make_unique<EvictStates>(&cache_->shape(), KvIdentity{}, room_.get());
    chunks_ = std::make_unique<ChunkStore>(&cache_->shape(), KvIdentity{}, room_.get());
  }
  static Tokens Text(int32_t seed, size_t n) {
    Tokens out(n);
    for (size_t i = 0; i < n; ++i) out[i] = seed * 1000 + static_cast<int32_t>(i);
    return out;
  }
  static std::unique_ptr<EvictMethod> Method(const std::string& spec = "streaming:budget=64") {
    return *CreateEvictMethod(spec, {.layers = 2});
  }
  // 64 entries are left of the text in each lane.
  void Keep(const Tokens& tokens, uint64_t begun, const Tokens& prompts = {100}) {
    LaneTable lanes(&cache_->shape(), pages_.get(), PositionMode::kKeep, {});
    ASSERT_TRUE(lanes.Reserve(64, 0));
    lanes.Advance();
    states_->Keep("t", tokens, {Method(), std::move(lanes), prompts}, begun);
  }
  std::shared_ptr<const EvictState> Find(const Tokens& prompt, const std::string& tenant = "t") {
    return states_->Find(tenant, Method()->spec(), prompt);
  }

  static constexpr uint64_t kLimit = 2 << 20;
  SystemClock clock_;
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<DerivedRoom> room_;
  std::unique_ptr<PageSource> pages_;
  std::unique_ptr<EvictStates> states_;
  std::unique_ptr<ChunkStore> chunks_;
};

TEST_F(StatesTest, NamesTellApartWhatHasOtherBits) {
  const Tokens tokens = Text(1, 100), prompts = {50}, others = {60};
  const Digest name = states_->Name("t", "snapkv:budget=0.25", prompts, tokens);
  EXPECT_EQ(name, states_->Name("t", "snapkv:budget=0.25", prompts, tokens));
  EXPECT_NE(name, states_->Name("u", "snapkv:budget=0.25", prompts, tokens));
  EXPECT_NE(name, states_->Name("t", "snapkv:budget=0.5", prompts, tokens));
  EXPECT_NE(name, states_->Name("t", "snapkv:budget=0.25", others, tokens));
  EXPECT_NE(name, states_->Name("t", "snapkv:budget=0.25", prompts, Text(1, 99)));
  const KvIdentity coded{.codec = "t4"};
  EXPECT_NE(
      name,
      EvictStates(&cache_->shape(), coded, room_.get()).Name("t", "snapkv:budget=0.25", prompts, tokens));
}

TEST_F(StatesTest, SpecsNameAllParameters) {
  EXPECT_EQ(Method("keynorm")->spec(), "keynorm:budget=0.25,sinks=0,last=0");
  EXPECT_EQ(Method("keynorm: last = 3,budget=64")->spec(), "keynorm:budget=64,sinks=0,last=3");
  EXPECT_EQ(Method("h2o")->Copy()->spec(), Method("h2o")->spec());
}

TEST_F(StatesTest, EquallyLongOnesDifferByTheirHistory) {
  Keep(Text(1, 100), room_->Tick(), {40});
  Keep(Text(1, 100), room_->Tick(), {100});
  Keep(Text(1, 100), room_->Tick(), {40});
  EXPECT_EQ(states_->stats().states, 2u);
  EXPECT_EQ(Find(Text(1, 101))->prompts(), Tokens({40})) << "the one last used";
  EXPECT_EQ(Find(Text(1, 100)), nullptr);
  EXPECT_EQ(Find(Text(1, 101), "u"), nullptr);
}

TEST_F(StatesTest, ListsHaveATenantsStatesByTheirNames) {
  for (int32_t i = 0; i < 5; ++i) Keep(Text(i, static_cast<size_t>(100 + i)), room_->Tick());
  const auto held = Find(Text(3, 110));
  const auto all = states_->List("t", std::nullopt, 100);
  ASSERT_EQ(all.size(), 5u);
  uint64_t bytes = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    if (i > 0) {
      EXPECT_LT(all[i - 1].name, all[i].name);
    }
    EXPECT_EQ(all[i].method, Method()->spec());
    EXPECT_EQ(all[i].held, all[i].tokens == 103);
    bytes += all[i].bytes;
  }
  EXPECT_EQ(bytes, states_->stats().bytes);
  const auto page = states_->List("t", all[1].name, 2);
  ASSERT_EQ(page.size(), 2u);
  EXPECT_EQ(page[0].name, all[2].name);
  EXPECT_TRUE(states_->List("u", std::nullopt, 100).empty());
}

TEST_F(StatesTest, ChunksAndStatesGiveWayByAge) {
  Keep(Text(1, 100), 0);
  ASSERT_EQ(states_->stats().states, 1u);
  auto chunk = *chunks_->Begin("t", {}, Text(50, 200));
  chunks_->Finish(chunk);
  chunk = nullptr;
  Keep(Text(2, 100), room_->Tick());
  ASSERT_NE(Find(Text(1, 110)), nullptr);  // used again: now the chunk is the oldest
  ASSERT_TRUE(room_->DropOldest());
  EXPECT_EQ(chunks_->stats().chunks, 0u);
  ASSERT_TRUE(room_->DropOldest());
  EXPECT_EQ(Find(Text(2, 110)), nullptr);
  auto held = Find(Text(1, 110));
  EXPECT_FALSE(room_->DropOldest());
  room_->Forget("t");
  EXPECT_EQ(states_->stats().states, 0u);
  EXPECT_EQ(held->rows(), 100);  // ends with its holder
  const uint64_t with = cache_->used_bytes();
  held = nullptr;
  EXPECT_LT(cache_->used_bytes(), with);
}

TEST_F(StatesTest, StayBelowTheirShareAndAreNotKeptForTheWiped) {
  const uint64_t begun = room_->Tick();
  for (int32_t i = 0; i < 200; ++i) {
    Keep(Text(i, 100), room_->Tick());
    ASSERT_LE(states_->stats().bytes, states_->stats().limit_bytes);
    ASSERT_LE(cache_->used_bytes(), kLimit);
  }
  EXPECT_GT(states_->stats().evicted, 0u);
  EXPECT_EQ(Find(Text(0, 110)), nullptr);
  EXPECT_NE(Find(Text(199, 110)), nullptr);
  room_->Forget("t");
  Keep(Text(1, 100), begun);
  EXPECT_EQ(states_->stats().states, 0u);
  Keep(Text(1, 100), room_->Tick());
  EXPECT_EQ(states_->stats().states, 1u);
}

}  // namespace
}  // namespace larder
