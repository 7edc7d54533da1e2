// Which blocks are written below memory, and which are not.
#include <gtest/gtest.h>

#include "store/admit/policy.h"

namespace larder {
namespace {

std::unique_ptr<AdmitPolicy> Admission(const std::string& spec) {
  auto policy = CreateAdmitPolicy(spec);
  EXPECT_TRUE(policy) << spec;
  return policy ? *std::move(policy) : nullptr;
}

bool UseAndAsk(AdmitPolicy& policy, const BlockMeta& block) {
  policy.Use(block);
  return policy.Admit(block);
}

TEST(Admit, AllTakesWhatComes) { EXPECT_TRUE(UseAndAsk(*Admission("all"), {.key = 1})); }

TEST(Admit, HitsTakesWhatWasAskedForAgain) {
  const auto once = Admission("hits"), twice = Admission("hits:after=2");
  for (const uint64_t key : {1, 2, 3}) EXPECT_FALSE(UseAndAsk(*once, {.key = key}));
  EXPECT_TRUE(UseAndAsk(*once, {.key = 2}));
  EXPECT_TRUE(once->Admit({.key = 2}));  // asking is not a use
  EXPECT_FALSE(once->Admit({.key = 3}));
  EXPECT_FALSE(UseAndAsk(*twice, {.key = 1}));
  EXPECT_FALSE(UseAndAsk(*twice, {.key = 1}));
  EXPECT_TRUE(UseAndAsk(*twice, {.key = 1}));
}

TEST(Admit, HitsForgetsWhatItHasNoRoomFor) {
  const auto policy = Admission("hits:names=8");
  for (uint64_t key = 1; key <= 100; ++key) policy->Use({.key = key});
  EXPECT_FALSE(UseAndAsk(*policy, {.key = 1}));
  EXPECT_TRUE(UseAndAsk(*policy, {.key = 100}));
}

TEST(Admit, ReuseLearnsWhereTextsAreUsedAgain) {
  const auto policy = Admission("reuse:least=0.5");
  // Beginnings come back, what is far inside does not.
  for (uint64_t i = 0; i < 1000; ++i) {
    policy->Use({.key = 1 + i / 2, .start = 0});
    policy->Use({.key = 1'000'000 + i, .start = 20'000});
  }
  EXPECT_TRUE(UseAndAsk(*policy, {.key = 5001, .start = 0}));
  EXPECT_FALSE(UseAndAsk(*policy, {.key = 5002, .start = 20'000}));
  EXPECT_FALSE(policy->Admit({.key = 5003, .start = 0}));  // never used
  // The workload changes: the far ones come back, too, and nobody has to write one to find out.
  for (uint64_t i = 0; i < 20'000; ++i) policy->Use({.key = 9'000'000 + i / 2, .start = 20'000});
  EXPECT_TRUE(UseAndAsk(*policy, {.key = 5004, .start = 20'000}));
}

TEST(Admit, ANewWorkloadIsWrittenUntilItIsKnown) {
  EXPECT_TRUE(UseAndAsk(*Admission("reuse"), {.key = 1, .start = 0}));
}

TEST(Admit, UnknownNamesListTheKnown) {
  const auto policy = CreateAdmitPolicy("some");
  ASSERT_FALSE(policy);
  EXPECT_NE(policy.error().message.find("all, hits, reuse"), std::string::npos);
  EXPECT_FALSE(CreateAdmitPolicy("hits:after=0"));
  EXPECT_FALSE(CreateAdmitPolicy("reuse:least=2"));
  EXPECT_FALSE(CreateAdmitPolicy("all:now=1"));
  for (const AdmitPolicyEntry& entry : AdmitPolicies()) {
    EXPECT_EQ(Admission(std::string(entry.name))->name(), entry.name);
    EXPECT_FALSE(entry.help.empty());
  }
}

}  // namespace
}  // namespace larder
