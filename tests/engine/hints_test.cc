// Do hints become leases at a request's end, never change an answer, and never stop an arrival from running?
// And does the file of leases give back what was written, and no more time?
#include "engine/hints.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

#include "base/file.h"
#include "engine/core.h"
#include "engine/lease_file.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

struct Ended : RequestSink {
  std::vector<int32_t> tokens;
  std::optional<CacheReport> report;
  std::optional<Error> error;
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput out) override { tokens.push_back(out.token); }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport& r) override { report = r; }
  void OnError(const Error& e) override { error = e; }
};

class EngineHints : public ::testing::Test {
 protected:
  EngineHints()
      : model_(testing::LoadModel(testing::DataPath("models/tiny-llama-q8_0.gguf"), MathMode::kFast,
                                  ModelOptions().kv_type, 1)) {}

  void Start(KvCacheOptions cache = {}) {
    core_ = *EngineCore::Create(model_.get(), {.cache = cache}, &clock_);
  }
  static std::vector<int32_t> Text(uint32_t seed, int n) {
    std::mt19937 random(seed);
    std::vector<int32_t> text(static_cast<size_t>(n));
    for (int32_t& token : text) token = static_cast<int32_t>(random() % 256);
    return text;
  }
  std::shared_ptr<Ended> Submit(std::vector<int32_t> prompt, CacheHints hints = {}) {
    Request request;
    request.tenant = "t";
    request.prompt = std::move(prompt);
    request.max_tokens = 3;
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    request.hints = std::move(hints);
    auto sink = std::make_shared<Ended>();
    core_->Add(++id_, std::move(request), sink);
    return sink;
  }
  std::shared_ptr<Ended> Run(std::vector<int32_t> prompt, CacheHints hints = {}) {
    auto sink = Submit(std::move(prompt), std::move(hints));
    while (core_->unfinished() > 0) core_->Step();
    return sink;
  }
  static Hint About(HintAction action, std::vector<int32_t> tokens) {
    Hint hint;
    hint.action = action;
    hint.tenant = "t";
    hint.target.tokens = std::move(tokens);
    return hint;
  }
  KvLeases& leases() { return core_->cache().leases(); }

  ManualClock clock_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<EngineCore> core_;
  Engine::RequestId id_ = 0;
};

TEST_F(EngineHints, BecomeLeasesAndChangeNoAnswer) {
  Start();
  const auto prompt = Text(1, 200);
  const auto plain = Run(prompt);
  EXPECT_TRUE(plain->report->leases.empty());
  const auto hinted =
      Run(prompt, {.program = "p", .retain = {{.rows = 100, .ttl_ms = 9000, .priority = 80}, {}}});
  EXPECT_EQ(hinted->tokens, plain->tokens);
  ASSERT_EQ(hinted->report->leases.size(), 3u);
  EXPECT_EQ(hinted->report->leases[0].rows, 202) << "the end, but for the token that was never computed";
  EXPECT_EQ(hinted->report->leases[1].rows, 100);
  EXPECT_EQ(leases().stats().leases, 3u);
  const auto last = Run(prompt, {.program = "p", .last_step = true, .retain = {{}}});
  EXPECT_EQ(last->tokens, plain->tokens);
  EXPECT_TRUE(last->report->leases.empty());
  for (const KvLeaseInfo& lease : leases().List("t", 10)) EXPECT_NE(lease.kind, LeaseKind::kTurn);
}

TEST_F(EngineHints, ACancelledRequestTakesNoLease) {
  Start();
  const auto sink = Submit(Text(1, 200), {.program = "p"});
  core_->Step();
  core_->Cancel(id_);
  EXPECT_TRUE(sink->report.has_value());
  EXPECT_EQ(leases().stats().leases, 0u);
}

// Everything is pinned, and one request comes.
TEST_F(EngineHints, AnArrivalRunsWithinTwoStepsThoughAllIsPinned) {
  Start({.limit_bytes = 64 * model_->kv_shape().BlockBytes(0)});
  KvCacheOptions tight{.limit_bytes =
                           core_->Stats().kv.metadata_bytes + 8 * model_->kv_shape().BlockBytes(0)};
  tight.hard_lease_share = 1;
  Start(tight);
  for (uint32_t i = 0; leases().stats().hard < 3; ++i) {
    ASSERT_LT(i, 10u);
    const auto text = Text(i, 100);
    ASSERT_FALSE(Run(text)->error.has_value());
    core_->Apply(About(HintAction::kPin, text));
  }
  const auto sink = Submit(Text(99, 300));
  core_->Step();
  core_->Step();
  EXPECT_FALSE(sink->tokens.empty()) << (sink->error ? sink->error->message : "");
  EXPECT_GT(leases().stats().broken, 0u);
  while (core_->unfinished() > 0) core_->Step();
  EXPECT_FALSE(sink->error.has_value());
  EXPECT_TRUE(core_->cache().CheckInvariants());
}

TEST_F(EngineHints, ControlCallsSayWhatTheyDid) {
  Start();
  const auto text = Text(1, 200);
  Run(text);
  const HintAnswer pin = core_->Apply(About(HintAction::kPin, text));
  EXPECT_EQ(pin.status, HintStatus::kAccepted);
  EXPECT_EQ(pin.tokens, 200);
  auto longer = text;
  longer.resize(300, 255);
  EXPECT_EQ(core_->Apply(About(HintAction::kPin, longer)).status, HintStatus::kClipped);
  EXPECT_EQ(core_->Apply(About(HintAction::kPin, Text(2, 50))).status, HintStatus::kRejected);
  EXPECT_EQ(core_->Apply(About(HintAction::kPrefetch, text)).status, HintStatus::kRejected) << "no tier";
  EXPECT_EQ(core_->Apply(About(HintAction::kDemote, text)).reason, "no tier below memory");
  EXPECT_EQ(core_->cache().Probe("t", text), 200);
  EXPECT_EQ(core_->Apply(About(HintAction::kUnpin, text)).status, HintStatus::kAccepted);
  EXPECT_EQ(core_->Apply(About(HintAction::kUnpin, text)).status, HintStatus::kRejected);
  const auto block = std::vector<int32_t>(text.begin(), text.begin() + 64);
  EXPECT_EQ(core_->Apply(About(HintAction::kEvict, block)).status, HintStatus::kRejected)
      << "the rest needs it";
}

TEST(LeaseFile, GivesBackWhatWasWrittenAndNeverMoreTime) {
  Digest block;
  block.bytes[3] = 0xa5;
  const std::vector<SavedLease> saved = {{"t", "h \xff", LeaseKind::kPinned, 70, 10'000, block},
                                         {"t", "", LeaseKind::kTurn, 0, 500, block}};
  const std::string text = LeaseFile::Encode(saved, 1'000'000);
  const auto later = LeaseFile::Decode(text, 1'004'000);
  ASSERT_TRUE(later.has_value()) << later.error().message;
  ASSERT_EQ(later->size(), 1u) << "the short one is over";
  EXPECT_EQ((*later)[0].ttl_ms, 6'000);
  EXPECT_EQ((*later)[0].priority, 70);
  EXPECT_EQ((*later)[0].block, block);
  EXPECT_EQ((*LeaseFile::Decode(text, 5))[0].ttl_ms, 10'000) << "the clock went back";
}

TEST(LeaseFile, RefusesWhatNobodyWrote) {
  const std::string good = LeaseFile::Encode({{"t", "h", LeaseKind::kPinned, 70, 10'000, {}}}, 0);
  ASSERT_TRUE(LeaseFile::Decode(good, 0));
  for (size_t n = 0; n + 2 < good.size(); ++n)
    EXPECT_FALSE(LeaseFile::Decode(std::string_view(good).substr(0, n), 0));
  for (const auto& [from, to] :
       std::initializer_list<std::pair<std::string, std::string>>{{"10000", "1e99"},
                                                                  {"10000", "9999999999999"},
                                                                  {"\"pinned\"", "\"nailed\""},
                                                                  {"70", "-1"},
                                                                  {"\"version\": 1", "\"version\": 2"},
                                                                  {"\"00", "\"0g"},
                                                                  {"\"h\"", "5"}}) {
    std::string bad = good;
    ASSERT_NE(bad.find(from), std::string::npos) << from;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_FALSE(LeaseFile::Decode(bad, 0)) << to;
  }
}

TEST(LeaseFile, IsWrittenBeforeItEnds) {
  const std::string path = ::testing::TempDir() + "/leases_file_test.json";
  std::filesystem::remove(path);
  ManualClock clock;
  {
    LeaseFile file(path, &clock);
    EXPECT_TRUE(file.Load().empty());
    for (int32_t i = 0; i < 50; ++i) file.Save({{"t", "h", LeaseKind::kPinned, i, 10'000, {}}});
  }
  LeaseFile file(path, &clock);
  ASSERT_EQ(file.Load().size(), 1u);
  EXPECT_EQ(file.Load()[0].priority, 49);
  ASSERT_TRUE(WriteFileAtomically(path, "{"));
  EXPECT_TRUE(file.Load().empty()) << "a broken file costs the leases, nothing else";
}

}  // namespace
}  // namespace larder
