// Warm equals cold, bit for bit: a row's logits do not depend on how the work was cut, on who shared the
// batch, on the number of threads, on what came from the cache, nor on having been interrupted.
#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::LoadModel;
using testing::ModelSession;

std::vector<int32_t> RandomTokens(std::mt19937& random, int64_t n, int64_t vocabulary) {
  std::vector<int32_t> out(static_cast<size_t>(n));
  for (auto& t : out) t = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  return out;
}

using RowLogits = std::vector<std::vector<float>>;

// Every row that `run` computed has the bits of the cold run.
void ExpectSameBits(const RowLogits& cold, const ModelSession::Run& run, const std::string& what) {
  int64_t compared = 0;
  for (size_t row = 0; row < run.logits.size(); ++row) {
    if (run.logits[row].empty()) continue;
    ++compared;
    ASSERT_EQ(cold[row].size(), run.logits[row].size());
    ASSERT_EQ(std::memcmp(cold[row].data(), run.logits[row].data(), cold[row].size() * sizeof(float)), 0)
        << what << ": row " << row << " differs";
  }
  EXPECT_GT(compared, 0) << what;
}

RowLogits Cold(Model& model, const std::vector<int32_t>& tokens) {
  ModelSession session(&model);
  auto run = session.Open(tokens);
  session.Finish(run, static_cast<int64_t>(tokens.size()));
  return run.logits;
}

struct Case {
  const char* model;
  MathMode math;
  KvType kv;
  const char* codec = "";
};
std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.model << (c.math == MathMode::kFast ? " fast" : " f32")
             << (c.kv == KvType::kI16 ? " f16 " : " f32 ") << c.codec;
}

class Exactness : public ::testing::TestWithParam<Case> {
 protected:
  std::unique_ptr<Model> Load(int threads) {
    return LoadModel(DataPath("models/" + std::string(GetParam().model) + ".gguf"), GetParam().math,
                     GetParam().kv, threads, GetParam().codec);
  }
  static bool Coded() { return *GetParam().codec != 0; }
};

TEST_P(Exactness, AnySplitIntoChunksAndAnyThreadCount) {
  std::mt19937 random(11);
  RowLogits cold;
  std::vector<int32_t> tokens;
  for (int threads = 1; threads <= 4; ++threads) {
    auto model = Load(threads);
    if (threads == 1) {
      tokens = RandomTokens(random, 300, model->tokenizer().size());
      cold = Cold(*model, tokens);
    }
    for (int64_t chunk : {1, 7, 64, 100, 300}) {
      ModelSession session(model.get());
      auto run = session.Open(tokens);
      session.Finish(run, chunk);
      ExpectSameBits(cold, run, fmt::format("{} threads, chunks of {}", threads, chunk));
    }
  }
}

TEST_P(Exactness, AnyBatchOfStrangers) {
  auto model = Load(2);
  std::mt19937 random(12);
  std::vector<std::vector<int32_t>> texts;
  std::vector<RowLogits> cold;
  for (int64_t n : {200, 65, 130, 31}) {
    texts.push_back(RandomTokens(random, n, model->tokenizer().size()));
    cold.push_back(Cold(*model, texts.back()));
  }
  for (int round = 0; round < 3; ++round) {
    ModelSession session(model.get());
    std::vector<ModelSession::Run> runs;
    for (const auto& text : texts)
      runs.push_back(session.Open(text, true, round == 2 ? std::to_string(runs.size()) : "t"));
    for (;;) {
      std::vector<ModelSession::Run*> active;
      std::vector<int64_t> counts;
      for (auto& run : runs) {
        const int64_t left = static_cast<int64_t>(run.tokens.size()) - run.computed;
        if (left == 0 || random() % 4 == 0) continue;
        active.push_back(&run);
        counts.push_back(1 +
                         static_cast<int64_t>(random() % static_cast<uint32_t>(std::min<int64_t>(left, 90))));
      }
      if (active.empty() &&
          std::ranges::all_of(runs, [](const auto& r) { return r.computed == std::ssize(r.tokens); }))
        break;
      if (!active.empty()) session.Step(active, counts);
    }
    for (size_t i = 0; i < runs.size(); ++i)
      ExpectSameBits(cold[i], runs[i], fmt::format("round {}, text {}", round, i));
    EXPECT_TRUE(session.cache().CheckInvariants());
  }
}

TEST_P(Exactness, PrefixHitAtEveryOffset) {
  auto model = Load(2);
  std::mt19937 random(13);
  const int64_t n = 150;
  const auto base = RandomTokens(random, n, model->tokenizer().size());
  ModelSession session(model.get());
  auto first = session.Open(base);
  session.Finish(first);
  session.Close(first);
  for (int64_t offset = 0; offset <= n; ++offset) {
    auto text = base;
    text.resize(static_cast<size_t>(offset));
    for (int32_t t : RandomTokens(random, 3, model->tokenizer().size())) text.push_back(t);
    if (offset < n && text[static_cast<size_t>(offset)] == base[static_cast<size_t>(offset)])
      text[static_cast<size_t>(offset)] ^= 1;
    auto run = session.Open(text);
    const bool in_codes = Coded() && offset < n / kPageTokens * kPageTokens;
    EXPECT_EQ(run.computed, in_codes ? offset / kPageTokens * kPageTokens : offset)
        << "divergence costs rows, not blocks, unless they are codes";
    session.Finish(run);
    ExpectSameBits(Cold(*model, text), run, fmt::format("offset {}", offset));
    session.Close(run);
  }
  // The whole text again: one row is computed.
  auto again = session.Open(base);
  EXPECT_EQ(again.computed, n - 1);
  session.Finish(again);
  ExpectSameBits(first.logits, again, "full hit");
  EXPECT_TRUE(session.cache().CheckInvariants());
}

TEST_P(Exactness, InterruptedAndResumed) {
  auto model = Load(2);
  std::mt19937 random(14);
  const auto tokens = RandomTokens(random, 260, model->tokenizer().size());
  const RowLogits cold = Cold(*model, tokens);
  ModelSession session(model.get());
  int64_t done = 0, computed = 0;
  while (done < std::ssize(tokens)) {
    auto run = session.Open(tokens);
    EXPECT_GE(run.computed, std::min<int64_t>(done, std::ssize(tokens) - 1))
        << "what was computed before is found again";
    const int64_t count =
        std::min<int64_t>(1 + static_cast<int64_t>(random() % 70), std::ssize(tokens) - run.computed);
    ModelSession::Run* const runs[] = {&run};
    const int64_t counts[] = {count};
    session.Step(runs, counts);
    done = run.computed;
    computed += count;
    ExpectSameBits(cold, run, fmt::format("resumed up to {}", done));
    session.Close(run);
  }
  EXPECT_EQ(computed, std::ssize(tokens)) << "nothing was computed twice";
}

// Rows that exist are run again without writing them (this is how prompt log-probabilities are read).
TEST_P(Exactness, ReadOnlyRowsGiveTheSameBits) {
  auto model = Load(2);
  std::mt19937 random(15);
  const auto tokens = RandomTokens(random, 100, model->tokenizer().size());
  ModelSession session(model.get());
  auto run = session.Open(tokens);
  session.Finish(run);
  const RowLogits cold = run.logits;
  for (int64_t from : {99, 64, 40}) {
    if (session.model().kv_shape().kinds().size() > 1 && from < 99) continue;  // a window has passed
    if (Coded() && from < 64) continue;                                        // of its block, codes are left
    run.computed = from;
    run.logits.assign(tokens.size(), {});
    session.Finish(run);
    ExpectSameBits(cold, run, fmt::format("again from {}", from));
  }
}

INSTANTIATE_TEST_SUITE_P(Models, Exactness,
                         ::testing::Values(Case{"tiny-llama", MathMode::kF32, KvType::kF32},
                                           Case{"tiny-llama-q4_1", MathMode::kFast, KvType::kI16},
                                           Case{"tiny-llama-q8_0", MathMode::kFast, KvType::kI16},
                                           Case{"tiny-llama3", MathMode::kFast, KvType::kF32},
                                           Case{"tiny-qwen2", MathMode::kFast, KvType::kI16},
                                           Case{"tiny-qwen3", MathMode::kF32, KvType::kI16},
                                           Case{"tiny-gemma3", MathMode::kF32, KvType::kF32},
                                           Case{"tiny-gemma3", MathMode::kFast, KvType::kI16},
                                           Case{"tiny-llama", MathMode::kF32, KvType::kI16, "t4:center=0"},
                                           Case{"tiny-qwen3", MathMode::kFast, KvType::kI16,
                                                "t4:center=0,rotate=16,sinks=0"},
                                           Case{"tiny-gemma3", MathMode::kFast, KvType::kI16, "t4:center=0"},
                                           Case{"tiny-llama3", MathMode::kFast, KvType::kI16, "q8_0"},
                                           Case{"tiny-gemma3", MathMode::kFast, KvType::kI16, "q4_0"}));

// A text that ends with a full block is found up to that block when blocks are codes: its last row, asked for
// again, would need the rows beside it.
TEST_P(Exactness, TextsThatEndWithABlock) {
  auto model = Load(2);
  std::mt19937 random(18);
  const auto tokens = RandomTokens(random, 128, model->tokenizer().size());
  const RowLogits cold = Cold(*model, tokens);
  ModelSession session(model.get());
  auto run = session.Open(tokens);
  session.Finish(run);
  session.Close(run);
  for (int again = 0; again < 2; ++again) {
    run = session.Open(tokens);
    EXPECT_EQ(run.computed, Coded() ? 64 : 127);
    session.Finish(run);
    ExpectSameBits(cold, run, "again");
    EXPECT_TRUE(session.cache().CheckInvariants());
    session.Close(run);
  }
  EXPECT_EQ(session.cache().stats().sealed_blocks, 2u) << "what was computed again is there once";
}

// Two sequences stand in the middle of a block when one of them fills it: the other still goes on from there.
TEST_P(Exactness, WhoStandsInsideABlockKeepsItsRows) {
  auto model = Load(2);
  std::mt19937 random(19);
  const auto tokens = RandomTokens(random, 100, model->tokenizer().size());
  auto other = tokens;
  for (size_t i = 30; i < other.size(); ++i) other[i] ^= 1;
  ModelSession session(model.get());
  auto begin = session.Open({tokens.begin(), tokens.begin() + 30});
  session.Finish(begin);
  session.Close(begin);
  auto first = session.Open(tokens), second = session.Open(other);
  EXPECT_EQ(second.computed, 30);
  session.Finish(first);
  EXPECT_TRUE(session.cache().CheckInvariants());
  session.Finish(second, 9);
  ExpectSameBits(Cold(*model, tokens), first, "who filled it");
  ExpectSameBits(Cold(*model, other), second, "who stood inside");
  session.Close(first);
  session.Close(second);
  EXPECT_TRUE(session.cache().CheckInvariants());
}

#ifdef __SANITIZE_THREAD__
constexpr int64_t kRealTokens = 130;  // two pages and a little; every access costs twenty times as much
#else
constexpr int64_t kRealTokens = 230;
#endif

// The two real models, sampled: their shapes, formats and head sizes.
void CheckReal(const char* variable, const std::string& codec) {
  const char* path = std::getenv(variable);
  if (path == nullptr) GTEST_SKIP() << variable << " is not set; scripts/test sets it";
  std::mt19937 random(16);
  auto model = LoadModel(path, MathMode::kFast, KvType::kI16, 2, codec);
  auto single = LoadModel(path, MathMode::kFast, KvType::kI16, 1, codec);
  const auto tokens = RandomTokens(random, kRealTokens, model->tokenizer().size());
  const auto keep_some = [](ModelSession& session, const std::vector<int32_t>& text, int64_t chunk) {
    auto run = session.Open(text);
    session.Finish(run, chunk, false);
    return run;
  };
  ModelSession cold_session(model.get());
  auto cold = keep_some(cold_session, tokens, kRealTokens);
  for (int64_t chunk : {1, 50}) {
    ModelSession session(single.get());
    auto run = keep_some(session, tokens, chunk);
    ExpectSameBits(cold.logits, run, fmt::format("one thread, chunks of {}", chunk));
  }
  ModelSession session(model.get());
  for (int64_t offset : {int64_t{1}, int64_t{63}, int64_t{64}, int64_t{65}, int64_t{129}, int64_t{200},
                         kRealTokens - 1, kRealTokens}) {
    if (offset > kRealTokens) continue;
    auto prefix = tokens;
    prefix.resize(static_cast<size_t>(offset));
    auto warm_up = keep_some(session, prefix, 100);
    session.Close(warm_up);
    auto run = session.Open(tokens);
    EXPECT_EQ(run.computed, std::min(offset, kRealTokens - 1));
    session.Finish(run, 512, false);
    ExpectSameBits(cold.logits, run, fmt::format("offset {}", offset));
    session.Close(run);
    session.cache().Clear("");
  }
}
TEST(ExactnessOnRealModels, SmolLM2) { CheckReal("LARDER_SMOLLM2", ""); }
TEST(ExactnessOnRealModels, SmolLM2WithT4) { CheckReal("LARDER_SMOLLM2", "t4:center=0"); }
TEST(ExactnessOnRealModels, Gemma3) { CheckReal("LARDER_GEMMA3", ""); }
TEST(ExactnessOnRealModels, Gemma3WithT4) { CheckReal("LARDER_GEMMA3", "t4:center=0"); }

// Need 4: one physical copy of a prefix, read once per step.
class Sharing : public ::testing::TestWithParam<const char*> {};
TEST_P(Sharing, ThirtyTwoBranchesOfOnePrefix) {
  auto model = LoadModel(DataPath("models/tiny-llama.gguf"), MathMode::kFast, KvType::kI16, 2, GetParam());
  std::mt19937 random(17);
  const int64_t prefix_length = std::min<int64_t>(2048, model->spec().context - 32);
  auto prefix = RandomTokens(random, prefix_length, model->tokenizer().size());
  ModelSession session(model.get());
  auto first = session.Open(prefix);
  session.Finish(first, 512, false);
  session.Close(first);
  const uint64_t one = session.cache().stats().block_bytes;

  constexpr int kBranches = 32;
  std::vector<ModelSession::Run> runs;
  for (int i = 0; i < kBranches; ++i) {
    auto text = prefix;
    for (int32_t t : RandomTokens(random, 8, model->tokenizer().size())) text.push_back(t);
    runs.push_back(session.Open(text));
    EXPECT_GE(runs.back().computed, prefix_length);
  }
  std::vector<ModelSession::Run*> all;
  for (auto& run : runs) all.push_back(&run);
  std::vector<int64_t> counts(all.size(), 1);
  const uint64_t pages_before = model->attention_pages_read();
  session.Step(all, counts);
  const uint64_t pages = model->attention_pages_read() - pages_before;

  const KvShape& shape = model->kv_shape();
  uint64_t block = 0;
  for (size_t kind = 0; kind < shape.kinds().size(); ++kind)
    block += shape.BlockBytes(static_cast<int>(kind));
  const uint64_t resident = session.cache().stats().block_bytes;
  EXPECT_LE(static_cast<double>(resident), 1.1 * static_cast<double>(one + kBranches * block));
  const uint64_t lanes = static_cast<uint64_t>(shape.layers()) * static_cast<uint64_t>(shape.kv_heads());
  const uint64_t prefix_pages = static_cast<uint64_t>(prefix_length / kPageTokens);
  // Each lane: the shared pages once, and per branch its own tail (which may begin in the middle of a block).
  EXPECT_LE(pages, lanes * (prefix_pages + 2 * kBranches))
      << "the prefix is read once, not " << kBranches << " times";
}
INSTANTIATE_TEST_SUITE_P(Codecs, Sharing, ::testing::Values("", "t4:center=0"));

}  // namespace
}  // namespace larder
