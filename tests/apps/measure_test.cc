#include "larder/measure.h"

#include <gtest/gtest.h>

namespace larder {
namespace {

TEST(Measure, SpreadIsMedianAndBothEnds) {
  const Spread odd = SpreadOf({3, 1, 9});
  EXPECT_EQ(odd.median, 3);
  EXPECT_EQ(odd.min, 1);
  EXPECT_EQ(odd.max, 9);
  EXPECT_EQ(SpreadOf({1, 2, 3, 10}).median, 2.5);
  EXPECT_EQ(SpreadOf({4}).median, 4);
}

TEST(Measure, ThreadsThatGotNoTimeAreReported) {
  BusyWatch watch(2);
  watch.Add(10, 10);  // one core's worth for two threads
  EXPECT_EQ(watch.cores(), 1);
  EXPECT_NE(watch.Warning(), "");
}

TEST(Measure, WorkOfStrangersIsReported) {
  BusyWatch watch(2);
  watch.Add(10, 20, 20);
  EXPECT_EQ(watch.others(), 0);
  watch.Add(10, 20, 30);  // of all cores: ten seconds more than the engine's own
  EXPECT_EQ(watch.others(), 0.5);
  EXPECT_NE(watch.Warning().find("0.50 cores"), std::string::npos) << watch.Warning();
}

TEST(Measure, BusySecondsGrowWithWork) {
  const double before = SystemBusySeconds();
  const Stopwatch watch;
  while (watch.CpuSeconds() < 0.1) {
  }
  EXPECT_GE(SystemBusySeconds() - before, 0.05);
}

TEST(Measure, TheCommandLineNamesThisProgram) {
  EXPECT_NE(ProgramCommandLine().find("apps_scoring_test"), std::string::npos);
}

TEST(Measure, NumbersAreCheckedOneByOne) {
  EXPECT_EQ(ParseNumbers("512,2048", 1, 4096).value(), (std::vector<int64_t>{512, 2048}));
  EXPECT_EQ(ParseNumbers("7", 1, 4096).value(), (std::vector<int64_t>{7}));
  for (const char* bad : {"", "0", "5000", "1,", ",1", "1,,2", "1 2", "x", "1,x", "-1", "1.5"})
    EXPECT_FALSE(ParseNumbers(bad, 1, 4096)) << bad;
}

TEST(Measure, FillerIsTheSameEachTimeAndInsideTheVocabulary) {
  const auto tokens = FillerTokens(1000, 50, 3);
  EXPECT_EQ(tokens, FillerTokens(1000, 50, 3));
  EXPECT_NE(tokens, FillerTokens(1000, 50, 4));
  for (int32_t token : tokens) {
    EXPECT_GE(token, 0);
    EXPECT_LT(token, 50);
  }
}

}  // namespace
}  // namespace larder
