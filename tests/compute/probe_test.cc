#include "compute/probe.h"

#include <gtest/gtest.h>

#include <set>

#include "simd_targets_for_test.h"

namespace larder {
namespace {

TEST(Probe, DigestIsTheSameOnEveryTargetAndThreadCount) {
  for (MathMode mode : {MathMode::kFast, MathMode::kF32}) {
    std::set<Digest> digests;
    ForEachSimdTarget([&] {
      for (int threads : {1, 3}) {
        ThreadPool pool(threads);
        digests.insert(NumericsProbe(mode, pool));
      }
    });
    EXPECT_EQ(digests.size(), 1u);
  }
}

TEST(Probe, ModesHaveDifferentDigests) {
  ThreadPool pool(1);
  EXPECT_NE(NumericsProbe(MathMode::kFast, pool), NumericsProbe(MathMode::kF32, pool));
}

// Also shows that the other tests' loops really change the instruction set.
TEST(Probe, TargetNameIsTheOneInUse) {
  std::set<std::string> names;
  int targets = 0;
  ForEachSimdTarget([&] {
    names.insert(SimdTargetName());
    ++targets;
  });
  EXPECT_EQ(names.size(), static_cast<size_t>(targets));
  EXPECT_GE(targets, 1);
}

}  // namespace
}  // namespace larder
