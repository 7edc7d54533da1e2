// Budgets, top-k and pooling of eviction methods, against tables made by hand.
#include "kv/evict/select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

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

using Parts = std::vector<int64_t>;

Parts PartsOf(int64_t total, std::vector<double> weights, int64_t cap) {
  return DivideEntries(total, weights, cap);
}

// Layers with preferences 4, 1, 2, 1, one after the other: 4 layers of 64 entries, 8 of them the window's, of
// a prompt of 512.
TEST(DivideEntries, AsLayersCome) {
  EXPECT_EQ(PartsOf(224, {4}, 504), (Parts{224}));
  EXPECT_EQ(PartsOf(224, {4, 1}, 504), (Parts{180, 44}));
  EXPECT_EQ(PartsOf(224, {4, 1, 2}, 504), (Parts{128, 32, 64}));
  EXPECT_EQ(PartsOf(224, {4, 1, 2, 1}, 504), (Parts{112, 28, 56, 28}));
}

TEST(DivideEntries, WhatTheCapCutsOffGoesToTheOthers) {
  EXPECT_EQ(PartsOf(100, {8, 1, 1}, 60), (Parts{60, 20, 20}));
  EXPECT_EQ(PartsOf(101, {8, 1, 1}, 60), (Parts{60, 21, 20}));
  // 80, 15, 5: the 20 above the cap are divided in halves, which fills the second one up.
  EXPECT_EQ(PartsOf(100, {80, 15, 5}, 22), (Parts{22, 22, 22}));
  // The second gets 3 of the 7 above the cap, and then the one that the cut to integers has left.
  EXPECT_EQ(PartsOf(100, {77, 8, 7.5, 7.5}, 70), (Parts{70, 12, 9, 9}));
}

TEST(DivideEntries, WithoutPreferencesAllGetTheSame) {
  const double nan = std::numeric_limits<double>::quiet_NaN(),
               infinity = std::numeric_limits<double>::infinity();
  for (const auto& weights : std::vector<std::vector<double>>{
           {3, 3, 3}, {0, 0, 0}, {1, nan, 1}, {1, infinity, 1}, {1e-300, 1e-300, 1e-300}}) {
    EXPECT_EQ(PartsOf(12, weights, 10), (Parts{4, 4, 4}));
    EXPECT_EQ(PartsOf(14, weights, 10), (Parts{5, 5, 4}));
  }
}

TEST(DivideEntries, GivesAllThatFits) {
  std::mt19937 random(6);
  for (int round = 0; round < 2000; ++round) {
    std::vector<double> weights(1 + random() % 30);
    for (double& weight : weights) weight = std::pow(10.0, static_cast<double>(random() % 800) / 100 - 4);
    const auto total = static_cast<int64_t>(random() % 5000), cap = static_cast<int64_t>(random() % 1000);
    const Parts parts = DivideEntries(total, weights, cap);
    EXPECT_EQ(std::accumulate(parts.begin(), parts.end(), int64_t{0}),
              std::min(total, cap * std::ssize(weights)));
    EXPECT_LE(*std::ranges::max_element(parts), cap);
    EXPECT_GE(*std::ranges::min_element(parts), 0);
  }
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
