// Does a model compute the same bits over contiguous ranges (kv/virtual.h) as over the paged cache? Shared
// prefixes, several sequences in a batch, ranges reused after their sequence ended.
#include "kv/virtual.h"

#include <gtest/gtest.h>

#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::LoadModel;
using testing::ModelSession;

using Logits = std::vector<std::vector<float>>;  // [row][vocabulary]

std::vector<int32_t> Tokens(int64_t n, int32_t seed) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>((i * 37 + seed * 101 + 11) % 250));
  return out;
}

std::vector<int32_t> Join(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

Logits Paged(Model& model, const std::vector<int32_t>& tokens) {
  ModelSession session(&model);
  auto run = session.Open(tokens, false);
  session.Finish(run, 100);
  return run.logits;
}

struct Text {
  std::vector<int32_t> tokens;
  std::unique_ptr<VirtualSequence> kv;
  Logits logits;  // of the rows from `first` on
  int64_t first = 0;
};

// The next `counts[i]` rows of runs[i], in one pass.
void Step(Model& model, VirtualKv& kv, std::span<Text* const> runs, std::span<const int64_t> counts) {
  std::vector<Row> rows;
  for (size_t i = 0; i < runs.size(); ++i) {
    Text& run = *runs[i];
    const int64_t begin = run.kv->length();
    ASSERT_TRUE(kv.Reserve(*run.kv, counts[i]));
    for (int64_t p = begin; p < begin + counts[i]; ++p) {
      Row row;
      row.token = run.tokens[static_cast<size_t>(p)];
      row.position = static_cast<int32_t>(p);
      row.kv = run.kv.get();
      row.wants_hidden = true;
      rows.push_back(row);
    }
  }
  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  std::vector<float> hidden(rows.size() * width), logits(rows.size() * vocabulary);
  model.Forward(rows, hidden.data());
  model.Logits(hidden.data(), static_cast<int>(rows.size()), logits.data());
  const float* next = logits.data();
  for (size_t i = 0; i < runs.size(); ++i) {
    for (int64_t r = 0; r < counts[i]; ++r, next += vocabulary)
      runs[i]->logits.emplace_back(next, next + vocabulary);
    kv.Publish(*runs[i]->kv, counts[i]);
  }
}

void Finish(Model& model, VirtualKv& kv, Text& run, int64_t chunk) {
  while (run.kv->length() < static_cast<int64_t>(run.tokens.size())) {
    Text* const runs[] = {&run};
    const int64_t counts[] = {std::min(chunk, static_cast<int64_t>(run.tokens.size()) - run.kv->length())};
    Step(model, kv, runs, counts);
  }
}

void ExpectSame(const Text& run, const Logits& paged) {
  ASSERT_EQ(run.first + static_cast<int64_t>(run.logits.size()), static_cast<int64_t>(paged.size()));
  for (size_t i = 0; i < run.logits.size(); ++i)
    ASSERT_EQ(run.logits[i], paged[static_cast<size_t>(run.first) + i])
        << "row " << run.first + static_cast<int64_t>(i);
}

class VirtualModel : public ::testing::TestWithParam<std::tuple<std::string, KvType, uint64_t>> {};

TEST_P(VirtualModel, SameBitsAsPaged) {
  const auto& [name, type, granule] = GetParam();
  auto model = LoadModel(DataPath("models/" + name), MathMode::kFast, type, 2);
  const auto prefix = Tokens(200, 1);
  const auto text_a = Join(prefix, Tokens(60, 2)), text_b = Join(prefix, Tokens(100, 3)),
             text_c = Join({prefix.begin(), prefix.begin() + 128}, Tokens(90, 4)), text_d = Tokens(250, 5);
  auto kv = *VirtualKv::Create(
      model->kv_shape(),
      {.limit_bytes = 64 << 20, .max_rows = 512, .granule_bytes = granule, .poison = true});
  Text a{text_a, *kv->Open(260), {}}, d{text_d, *kv->Open(250), {}};
  Finish(*model, *kv, a, 70);
  ExpectSame(a, Paged(*model, text_a));

  // In the middle of a block, and between two blocks; what is shared has been computed and is not again.
  Text b{text_b, *kv->Fork(*a.kv, 200), {}, 200}, c{text_c, *kv->Fork(*a.kv, 128), {}, 128};
  Text* const together[] = {&b, &d, &c};
  const int64_t counts[] = {40, 170, 50};
  Step(*model, *kv, together, counts);
  kv->Close(std::move(a.kv));  // those who share with it go on
  const int64_t more[] = {60, 80, 40};
  Step(*model, *kv, together, more);
  ExpectSame(b, Paged(*model, text_b));
  ExpectSame(c, Paged(*model, text_c));
  ExpectSame(d, Paged(*model, text_d));

  // Another text in a range that an ended sequence left, over rows that are NaN now.
  kv->Close(std::move(d.kv));
  const uint64_t calls = kv->stats().map_calls;
  const auto text_e = Tokens(230, 6);
  Text e{text_e, *kv->Open(230), {}};
  Finish(*model, *kv, e, 100);
  ExpectSame(e, Paged(*model, text_e));
  EXPECT_EQ(kv->stats().map_calls, calls);
}

INSTANTIATE_TEST_SUITE_P(Models, VirtualModel,
                         ::testing::Combine(::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"),
                                            ::testing::Values(KvType::kI16, KvType::kF32),
                                            ::testing::Values(uint64_t{4096}, uint64_t{65536},
                                                              uint64_t{2 << 20})));

}  // namespace
}  // namespace larder
