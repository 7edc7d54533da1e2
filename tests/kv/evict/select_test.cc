// Budgets, top-k and pooling of eviction methods, against tables made by hand.
#include "kv/evict/select.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace larder {
namespace {

using Entries = std::vector<int32_t>;

TEST(KeepHighest, KeepsSinksTheNewestAndTheBest) {
  const std::vector<float> scores = {0, 0, 5, 1, 9, 3, 0, 0};
  const Entries positions = {0, 1, 2, 3, 4, 5, 6, 7};
  EXPECT_EQ(KeepHighest(scores, positions, 4, 1, 7), (Entries{0, 2, 4, 7}));
  EXPECT_EQ(KeepHighest(scores, positions, 8, 0, 8), positions);
  EXPECT_EQ(KeepHighest(scores, positions, 1, 2, 6), (Entries{0, 1, 6, 7}));  // what is protected stays
}

TEST(KeepHighest, TiesGoToTheLowerPosition) {
  const std::vector<float> scores(6, 1.0f);
  EXPECT_EQ(KeepHighest(scores, Entries{0, 1, 2, 3, 4, 5}, 3, 0, 99), (Entries{0, 1, 2}));
  EXPECT_EQ(KeepHighest(scores, Entries{9, 1, 7, 3, 5, 2}, 3, 0, 99),
            (Entries{1, 3, 5}));  // at positions 1, 3, 2
}

TEST(KeepHighest, NotANumberIsTheLowest) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(KeepHighest(std::vector<float>{nan, -1, nan, -2}, Entries{0, 1, 2, 3}, 2, 0, 99),
            (Entries{1, 3}));
}

TEST(Pool, BordersAsPublished) {
  const std::vector<float> scores = {3, 0, 0, 6, 0};
  EXPECT_EQ(PoolMean(scores, 3), (std::vector<float>{1, 1, 2, 2, 2}));
  EXPECT_EQ(PoolMax(scores, 3), (std::vector<float>{3, 3, 6, 6, 6}));
  EXPECT_EQ(PoolMax(std::vector<float>{-3, -1}, 3),
            (std::vector<float>{-1, -1}));  // nothing beyond the border
  EXPECT_EQ(PoolMax(scores, 1), scores);
}

TEST(EvictBudget, SharesEntriesAndBytes) {
  const KvShape shape = *KvShape::Create({0, 0}, 2, 16, KvType::kI16);
  const auto entries = [&](std::string_view text) {
    return EvictBudget::Parse(text)->Entries(shape, 4, 1000);
  };
  EXPECT_EQ(entries("0.25"), 250);
  EXPECT_EQ(entries("1.0"), 1000);
  EXPECT_EQ(entries("256"), 256);
  EXPECT_EQ(entries("0.0001"), 1);
  const uint64_t page = shape.page_bytes() + LaneTable::kTableBytesPerPage;
  // Two pages for each of four lanes, with a place for the newcomer.
  EXPECT_EQ(entries(std::to_string(8 * page) + "B"), 2 * kPageTokens - 1);
  for (const char* wrong : {"", "0", "1.5", "-1", "25%", "0.0", "x", "1e3"})
    EXPECT_FALSE(EvictBudget::Parse(wrong)) << wrong;
}

TEST(CreateEvictMethod, RefusesWhatItDoesNotKnow) {
  const EvictModel model{.layers = 30, .windows = false, .head_dim = 64};
  const auto error = [&](std::string_view spec) {
    auto made = CreateEvictMethod(spec, model);
    return made ? std::string() : made.error().message;
  };
  EXPECT_NE(error("nosuch").find("snapkv"), std::string::npos);
  EXPECT_NE(error("snapkv:windw=3").find("window"), std::string::npos);
  EXPECT_NE(error("snapkv:kernel=4").find("odd"), std::string::npos);
  EXPECT_NE(error("lacache:span=30,overlap=30").find("span"), std::string::npos);
  EXPECT_NE(error("lacache:span=30").find("free"), std::string::npos);
  for (const EvictMethodEntry& entry : EvictMethods()) EXPECT_EQ(error(std::string(entry.info.name)), "");
  EXPECT_FALSE(CreateEvictMethod("lacache", {.layers = 18, .windows = true}));
}

}  // namespace
}  // namespace larder
