// A tenant that another server wipes, which this one hears of through their Redis: whatever is asked first
// here, nothing that was derived from its texts is found any more, and others keep theirs.
#include <gtest/gtest.h>

#include <future>

#include "engine/engine.h"
#include "store/redis/shared_keyring.h"
#include "tests/store/redis/redis_server.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

struct Waiter : RequestSink {
  std::promise<CacheReport> done;
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput) override {}
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport& report) override { done.set_value(report); }
  void OnError(const Error& error) override {
    ADD_FAILURE() << error.message;
    done.set_value({});
  }
};

class SharedWipeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!HaveRedisServer()) GTEST_SKIP() << "no redis-server on this machine";
    redis_ = std::make_unique<RedisServer>();
    ours_ = OpenRing(20);
    theirs_ = OpenRing(3'600'000);
    RedisOptions options;
    options.url = redis_->url();
    tier_ = OpenRedisTier(options, nullptr, &clock_).value();
    auto model = testing::LoadModel(testing::DataPath("models/tiny-llama-q8_0.gguf"), MathMode::kFast,
                                    KvType::kI16, 2);
    engine_ =
        Engine::Create(std::move(model), {.tiers = {tier_.get()}, .keyring = ours_.get()}, &clock_).value();
    for (const char* tenant : {"t", "u"}) {
      Ask(ChunkOf(tenant));
      Ask(TurnOf(tenant));
    }
    EXPECT_EQ(engine_->Chunks("t", std::nullopt, 10).chunks.size(), 1u);
    EXPECT_EQ(engine_->States("t", std::nullopt, 10).size(), 1u);
    ASSERT_TRUE(engine_->FindChunk(ChunkOf("t")));
    ASSERT_TRUE(Eventually([&] { return engine_->Chunks("t", std::nullopt, 1).chunks.at(0).below; }));
    WipeElsewhere();
  }
  // What the first call finds decides a test; in the end nothing is found in any other way either.
  void TearDown() override {
    if (engine_ == nullptr) return;
    EXPECT_FALSE(engine_->FindChunk(ChunkOf("t")));
    EXPECT_TRUE(Eventually([&] { return !engine_->Chunks("t", std::nullopt, 10).pending; }));
    EXPECT_TRUE(engine_->Chunks("t", std::nullopt, 10).chunks.empty());
    EXPECT_EQ(Blend("t").read_chunks, 0);
    EXPECT_EQ(Ask(NextTurnOf("t")).state.rows, 0);
    EXPECT_EQ(engine_->Chunks("u", std::nullopt, 10).chunks.size(), 1u);
    EXPECT_EQ(engine_->States("u", std::nullopt, 10).size(), 1u);
    EXPECT_GT(Blend("u").read_chunks, 0);
    EXPECT_GT(Ask(NextTurnOf("u")).state.rows, 0);
  }

  std::unique_ptr<Keyring> OpenRing(int64_t refresh_ms) const {
    KeyringOptions options{.lookup_timeout_ms = 20'000, .refresh_ms = refresh_ms};
    options.redis.url = redis_->url();
    return OpenKeyring(options).value();
  }
  // Its records stay in Redis.
  void WipeElsewhere() {
    const SpaceId before = ours_->SpaceOf("t").value();
    ASSERT_EQ(theirs_->SpaceOf("t").value(), before);
    ASSERT_TRUE(theirs_->Forget("t"));
    ASSERT_TRUE(Eventually([&] { return ours_->SpaceOf("t").value() != before; }));
  }
  CacheReport Ask(Request request) {
    auto sink = std::make_shared<Waiter>();
    auto report = sink->done.get_future();
    EXPECT_TRUE(engine_->Submit(std::move(request), sink));
    return report.get();
  }
  CacheReport Blend(const std::string& tenant) {
    Request r = Text(tenant, 130, 2);
    r.reuse = "blend:ratio=0";
    return Ask(std::move(r));
  }
  static Request Text(const std::string& tenant, int32_t tokens, int64_t answer) {
    Request r;
    r.tenant = tenant;
    for (int32_t i = 0; i < tokens; ++i) r.prompt.push_back((i * i + 3 * i) % 250);
    r.max_tokens = answer;
    r.sampling.temperature = 0;
    r.ignore_eos = true;
    return r;
  }
  static Request ChunkOf(const std::string& tenant) {
    Request r = Text(tenant, 100, 0);
    r.chunk_from = 1;
    return r;
  }
  static Request TurnOf(const std::string& tenant) {
    Request r = Text(tenant, 90, 0);
    r.evict = "streaming:budget=33";
    r.keep_state = true;
    return r;
  }
  static Request NextTurnOf(const std::string& tenant) {
    Request r = TurnOf(tenant);
    r.prompt.push_back(7);
    return r;
  }

  SystemClock clock_;
  std::unique_ptr<RedisServer> redis_;
  std::unique_ptr<Keyring> ours_, theirs_;
  std::unique_ptr<Tier> tier_;
  std::unique_ptr<Engine> engine_;
};

TEST_F(SharedWipeTest, WhoStoresAgainIsNotToldThatItIsHere) {
  EXPECT_FALSE(engine_->FindChunk(ChunkOf("t")));
}

TEST_F(SharedWipeTest, ChunksAreNotListed) {
  EXPECT_TRUE(engine_->Chunks("t", std::nullopt, 10).chunks.empty());
}

TEST_F(SharedWipeTest, StatesAreNotListed) { EXPECT_TRUE(engine_->States("t", std::nullopt, 10).empty()); }

TEST_F(SharedWipeTest, APromptFindsNoChunk) { EXPECT_EQ(Blend("t").read_chunks, 0); }

TEST_F(SharedWipeTest, ATurnFindsNoState) { EXPECT_EQ(Ask(NextTurnOf("t")).state.rows, 0); }

}  // namespace
}  // namespace larder
