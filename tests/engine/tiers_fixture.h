// Engines over tiers below memory, on tiny models: requests that report the log-probabilities of the whole
// vocabulary, so that answers can be compared to the bit.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/core.h"
#include "store/disk/disk_tier.h"
#include "tests/engine/core_fixture.h"
#include "tests/kv/memory_tier.h"
#include "tests/store/store_fixture.h"
#include "tests/testing/model_session.h"

namespace larder::testing {

inline constexpr SpaceId kSpace = {1, 2, 3};

inline int64_t RowsFrom(const std::string& tier, const Answer& answer) {
  for (const auto& [name, rows] : answer.report.read_tiers) {
    if (name == tier) return rows;
  }
  return tier == "memory" ? answer.report.read_memory : -1;
}

struct TierCase {
  const char* name;
  const char* model;
  const char* codec = "";
};

class EngineTiersBase : public ::testing::Test {
 protected:
  void Load(const std::string& model, KvType type, const std::string& codec = "") {
    model_ = LoadModel(DataPath("models/" + model), MathMode::kFast, type, 2, codec);
  }
  std::unique_ptr<DiskTier> OpenDisk() {
    DiskOptions options;
    options.directory = folder_.path() + "/disk";
    options.limit_bytes = 256 << 20;
    options.segment_bytes = 8 << 20;
    auto tier = OpenDiskTier(options, RealFileSystem(), nullptr, &clock_);
    EXPECT_TRUE(tier) << (tier ? "" : tier.error().message);
    return *std::move(tier);
  }
  // These models compute faster than any tier reads, so it reads in any case.
  std::unique_ptr<EngineCore> Start(std::vector<Tier*> tiers, EngineOptions options = {}) {
    options.always_restore = true;
    return StartWith(std::move(tiers), options, &clock_);
  }
  std::unique_ptr<EngineCore> StartWith(std::vector<Tier*> tiers, EngineOptions options, Clock* clock) {
    options.tiers = std::move(tiers);
    auto core = EngineCore::Create(model_.get(), options, clock);
    EXPECT_TRUE(core) << (core ? "" : core.error().message);
    return *std::move(core);
  }
  static std::vector<int32_t> Prompt(uint32_t seed, int64_t n) {
    std::mt19937 random(seed);
    std::vector<int32_t> out(static_cast<size_t>(n));
    for (auto& t : out) t = static_cast<int32_t>(random() % 200);
    return out;
  }
  std::shared_ptr<Answer> Add(EngineCore& core, std::vector<int32_t> prompt) {
    Request r;
    r.tenant = "t";
    r.space = kSpace;
    r.prompt = std::move(prompt);
    r.max_tokens = 6;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    r.logprobs = model_->tokenizer().size();
    auto answer = std::make_shared<Answer>();
    core.Add(next_++, std::move(r), answer);
    return answer;
  }
  void Finish(EngineCore& core, MemoryTier* scripted = nullptr) {
    for (int i = 0; i < 100000 && core.unfinished() > 0; ++i) {
      if (core.Step()) continue;
      if (scripted != nullptr) scripted->DeliverAll();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    EXPECT_EQ(core.unfinished(), 0);
    ExpectSound(core);
  }
  static void ExpectSound(EngineCore& core) {
    const Status sound = core.cache().CheckInvariants();
    EXPECT_TRUE(sound) << (sound ? "" : sound.error().message);
  }
  std::shared_ptr<Answer> Ask(EngineCore& core, std::vector<int32_t> prompt, MemoryTier* scripted = nullptr) {
    auto answer = Add(core, std::move(prompt));
    Finish(core, scripted);
    EXPECT_EQ(answer->error, "");
    return answer;
  }
  std::shared_ptr<Answer> AskCold(std::vector<int32_t> prompt) { return Ask(*Start({}), std::move(prompt)); }
  // Every log-probability of every token.
  void ExpectSame(const Answer& a, const Answer& b) const {
    EXPECT_EQ(a.error + b.error, "");
    EXPECT_EQ(a.tokens, b.tokens);
    ASSERT_EQ(a.tops.size(), a.tokens.size() * static_cast<size_t>(model_->tokenizer().size()));
    ASSERT_EQ(a.tops.size(), b.tops.size());
    EXPECT_EQ(std::memcmp(a.tops.data(), b.tops.data(), a.tops.size() * sizeof(float)), 0);
  }

  TemporaryFolder folder_{"engine-tiers"};
  SystemClock clock_;
  std::unique_ptr<Model> model_;
  uint64_t next_ = 1;
};

}  // namespace larder::testing
