// Are the logits those of the plain float64 forward pass? Goldens: scripts/goldens/logits.py.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "compute/ops.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::ModelSession;

constexpr double kTolerance = 1e-4;     // of the norm, float32 mode against float64
constexpr double kLogTolerance = 1e-3;  // of log-probabilities, absolute
constexpr double kNearTie = 1e-2;       // two best logits this close may swap

nlohmann::json ReadGolden(const std::string& name) {
  std::ifstream in(DataPath("logits/" + name + ".json"));
  return nlohmann::json::parse(in);
}

struct Difference {
  double squared = 0, norm = 0;
  void Add(double got, double expected) {
    squared += (got - expected) * (got - expected);
    norm += expected * expected;
  }
  double relative() const { return std::sqrt(squared / norm); }
};

void CheckRow(const nlohmann::json& golden, const nlohmann::json& row, std::span<const float> logits,
              const std::string& where) {
  Difference difference;
  if (row.contains("logits")) {
    for (size_t i = 0; i < logits.size(); ++i) difference.Add(logits[i], row["logits"][i]);
  } else {
    for (size_t i = 0; i < row["top_ids"].size(); ++i)
      difference.Add(logits[row["top_ids"][i]], row["top_logits"][i]);
    for (size_t i = 0; i < golden["fixed_ids"].size(); ++i) {
      difference.Add(logits[golden["fixed_ids"][i]], row["fixed_logits"][i]);
    }
  }
  EXPECT_LE(difference.relative(), kTolerance) << where;
  double norm = 0;
  for (float x : logits) norm += static_cast<double>(x) * x;
  const double expected_norm = row["norm"];
  EXPECT_NEAR(std::sqrt(norm), expected_norm, kTolerance * expected_norm) << where;
  const double logsumexp = row["logsumexp"];
  EXPECT_NEAR(LogSumExp(logits.data(), static_cast<int64_t>(logits.size())), logsumexp, kLogTolerance)
      << where;
}

void CheckGreedy(ModelSession& session, std::vector<int32_t> tokens, const nlohmann::json& greedy,
                 const std::string& where) {
  for (size_t step = 0; step < greedy["ids"].size(); ++step) {
    auto run = session.Open(tokens);
    session.Finish(run, 512, false);
    session.Close(run);
    const auto best =
        static_cast<int32_t>(ArgMax(run.logits.back().data(), session.model().spec().vocabulary));
    if (greedy["margins"][step] < kNearTie) return;  // from a near tie on both continuations are right
    ASSERT_EQ(best, greedy["ids"][step].get<int32_t>()) << where << ", greedy step " << step;
    tokens.push_back(best);
  }
}

void CheckGolden(const std::string& model_path, const std::string& golden_name, int64_t max_tokens) {
  const nlohmann::json golden = ReadGolden(golden_name);
  auto model = testing::LoadModel(model_path, MathMode::kF32, KvType::kF32, 2);
  ASSERT_EQ(model->weights_digest().Hex(), golden["sha256"].get<std::string>())
      << "the golden is of another file";
  ModelSession session(model.get());
  int64_t prompts = 0;
  for (const auto& prompt : golden["prompts"]) {
    const auto ids = prompt["ids"].get<std::vector<int32_t>>();
    if (static_cast<int64_t>(ids.size()) > max_tokens) continue;
    ++prompts;
    const std::string where = golden_name + ": " + prompt["name"].get<std::string>();
    auto run = session.Open(ids, /*read_cache=*/false);
    session.Finish(run, 512, prompt["rows"].size() > 1);
    for (const auto& row : prompt["rows"]) {
      const size_t index = row["row"];
      CheckRow(golden, row, run.logits[index], where + ", row " + std::to_string(index));
    }
    session.Close(run);
    if (prompt.contains("greedy")) CheckGreedy(session, ids, prompt["greedy"], where);
  }
  EXPECT_GE(prompts, 2);
}

class TinyLogits : public ::testing::TestWithParam<const char*> {};
TEST_P(TinyLogits, EqualTheOracle) {
  const std::string name = GetParam();
  CheckGolden(DataPath("models/" + name + ".gguf"), name, 1 << 20);
}
INSTANTIATE_TEST_SUITE_P(AllArchitectures, TinyLogits,
                         ::testing::Values("tiny-llama", "tiny-llama3", "tiny-qwen2", "tiny-qwen3",
                                           "tiny-gemma3", "tiny-llama-q8_0", "tiny-llama-q4_1"));

// The real models take their paths from the environment (scripts/test sets it). The longest prompts are left
// to the slow run, which sets LARDER_SLOW.
void CheckReal(const char* variable, const std::string& golden_name) {
  const char* path = std::getenv(variable);
  if (path == nullptr) GTEST_SKIP() << variable << " is not set; scripts/test sets it";
#ifdef __SANITIZE_THREAD__
  constexpr int64_t kTokens = 24;  // longer prompts take minutes and show the same threads
#else
  constexpr int64_t kTokens = 300;
#endif
  CheckGolden(path, golden_name, std::getenv("LARDER_SLOW") != nullptr ? 1 << 20 : kTokens);
}
TEST(RealLogits, SmolLM2EqualsTheOracle) { CheckReal("LARDER_SMOLLM2", "SmolLM2-135M-Instruct.Q4_1"); }
TEST(RealLogits, Gemma3EqualsTheOracle) { CheckReal("LARDER_GEMMA3", "gemma-3-270m-q4_k_m"); }

}  // namespace
}  // namespace larder
