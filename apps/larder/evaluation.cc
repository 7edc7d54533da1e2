#include "larder/evaluation.h"

#include <algorithm>
#include <utility>

#include "base/file.h"
#include "larder/measure.h"
#include "larder/method_run.h"

namespace larder {
namespace {

// Logits of this many rows are in memory at a time: 16 MiB for a vocabulary of 262,144.
constexpr int64_t kLogitRows = 16;

// What the model reads for a window, and which of its rows predict scored tokens.
struct WindowInput {
  std::vector<int32_t> tokens;
  int64_t first_row;     // predicts the first scored token
  int64_t first_target;  // that token's position in the text
};

WindowInput InputOf(const EvaluationText& text, const TextWindow& window, const Tokenizer& tokenizer) {
  WindowInput input;
  if (text.bos) input.tokens.push_back(tokenizer.bos());
  input.first_row = window.score_from - 1 - window.begin + (text.bos ? 1 : 0);
  input.first_target = window.score_from;
  // The last token is only predicted.
  input.tokens.insert(input.tokens.end(), text.tokens.begin() + window.begin,
                      text.tokens.begin() + window.end - 1);
  return input;
}

}  // namespace

Result<Subject> Subject::Create(std::string label, std::unique_ptr<Model> model, int64_t window) {
  Subject subject;
  subject.label_ = std::move(label);
  subject.model_ = std::move(model);
  LARDER_ASSIGN(subject.session_, Session::Create(*subject.model_, window, 1));
  return subject;
}

Status Subject::Evict(const std::string& spec) {
  LARDER_TRY(CreateEvictMethod(spec, EvictModelOf(*model_)));
  evict_ = spec;
  evict_resources_ = std::make_unique<EvictResources>(*model_, session_->cache().MakePageSource());
  return {};
}

Result<std::vector<float>> Subject::HiddenBehindMethod(std::span<const int32_t> tokens, int64_t first_row) {
  std::vector<float> out;
  const auto width = model_->spec().width;
  const Stopwatch watch;
  LARDER_ASSIGN(auto method, CreateEvictMethod(evict_, EvictModelOf(*model_)));
  MethodRun run(*evict_resources_, std::move(method), first_row);
  LARDER_TRY(run.Prompt(nullptr, tokens));
  LARDER_TRY(run.Append(tokens, first_row, [&](int64_t, int rows, const float* hidden) {
    out.insert(out.end(), hidden, hidden + int64_t{rows} * width);
  }));
  kv_bytes_ = std::max(kv_bytes_, run.driver().private_bytes());
  seconds_ += watch.WallSeconds();
  tokens_ += static_cast<int64_t>(tokens.size());
  return out;
}

Result<std::vector<float>> Subject::Hidden(std::span<const int32_t> tokens, int64_t first_row) {
  if (!evict_.empty()) return HiddenBehindMethod(tokens, first_row);
  std::vector<float> out;
  const auto width = static_cast<size_t>(model_->spec().width);
  const Stopwatch watch;
  LARDER_ASSIGN(auto sequence, session_->Open());
  LARDER_TRY(session_->Append(*sequence, tokens, first_row, [&](int64_t, int rows, const float* hidden) {
    out.insert(out.end(), hidden, hidden + static_cast<size_t>(rows) * width);
  }));
  kv_bytes_ = std::max(kv_bytes_, session_->cache().stats().block_bytes);
  session_->Close(std::move(sequence));
  seconds_ += watch.WallSeconds();
  tokens_ += static_cast<int64_t>(tokens.size());
  return out;
}

void Subject::Logits(const float* hidden, int rows, float* logits) {
  const Stopwatch watch;
  model_->Logits(hidden, rows, logits);
  seconds_ += watch.WallSeconds();
}

int64_t EvaluationText::scored() const {
  int64_t n = 0;
  for (const TextWindow& window : windows) n += window.end - window.score_from;
  return n;
}

Result<EvaluationText> ReadEvaluationText(const std::string& path, const Tokenizer& tokenizer, int64_t window,
                                          int64_t stride, int64_t max_tokens) {
  if (path.empty()) return Fail(ErrorKind::kInvalid, "no text is given; add --text FILE");
  if (stride > window)
    return Fail(ErrorKind::kInvalid, "a stride of {} is longer than a window of {}", stride, window);
  LARDER_ASSIGN(const std::string content, ReadFile(path, 1u << 30));
  EvaluationText text;
  text.bos = tokenizer.add_bos() && tokenizer.bos() != kNoToken;
  text.tokens = tokenizer.Encode(content, {.add_special = false, .parse_special = false});
  if (max_tokens > 0 && static_cast<int64_t>(text.tokens.size()) > max_tokens)
    text.tokens.resize(static_cast<size_t>(max_tokens));
  text.windows = PlanWindows(static_cast<int64_t>(text.tokens.size()), window, stride);
  if (text.windows.empty()) return Fail(ErrorKind::kInvalid, "{} has less than two tokens", path);
  return text;
}

Result<std::vector<double>> ScoreText(Subject& subject, const EvaluationText& text,
                                      const std::function<void(double)>& progress) {
  std::vector<double> out;
  const auto width = static_cast<size_t>(subject.model().spec().width);
  const auto vocabulary = static_cast<size_t>(subject.model().spec().vocabulary);
  std::vector<float> logits(static_cast<size_t>(kLogitRows) * vocabulary);
  for (const TextWindow& window : text.windows) {
    const WindowInput input = InputOf(text, window, subject.model().tokenizer());
    LARDER_ASSIGN(const std::vector<float> hidden, subject.Hidden(input.tokens, input.first_row));
    const int64_t rows = window.end - window.score_from;
    for (int64_t row = 0; row < rows; row += kLogitRows) {
      const int64_t n = std::min(kLogitRows, rows - row);
      subject.Logits(hidden.data() + static_cast<size_t>(row) * width, static_cast<int>(n), logits.data());
      const size_t before = out.size();
      out.resize(before + static_cast<size_t>(n));
      subject.model().pool().Run(n, [&](int64_t i, int) {
        const std::span<const float> one(logits.data() + static_cast<size_t>(i) * vocabulary, vocabulary);
        const auto target = text.tokens[static_cast<size_t>(input.first_target + row + i)];
        out[before + static_cast<size_t>(i)] = NegativeLogLikelihood(one, target);
      });
    }
    progress(static_cast<double>(out.size()) / static_cast<double>(text.scored()));
  }
  return out;
}

Result<std::vector<ScoredToken>> CompareOnText(Subject& base, Subject& candidate, const EvaluationText& text,
                                               const std::function<void(double)>& progress) {
  std::vector<ScoredToken> out;
  const auto width = static_cast<size_t>(base.model().spec().width);
  const auto vocabulary = static_cast<size_t>(base.model().spec().vocabulary);
  std::vector<float> base_logits(static_cast<size_t>(kLogitRows) * vocabulary),
      candidate_logits(base_logits.size());
  for (const TextWindow& window : text.windows) {
    const WindowInput input = InputOf(text, window, base.model().tokenizer());
    LARDER_ASSIGN(const std::vector<float> base_hidden, base.Hidden(input.tokens, input.first_row));
    LARDER_ASSIGN(const std::vector<float> candidate_hidden, candidate.Hidden(input.tokens, input.first_row));
    const int64_t rows = window.end - window.score_from;
    for (int64_t row = 0; row < rows; row += kLogitRows) {
      const int64_t n = std::min(kLogitRows, rows - row);
      const size_t at = static_cast<size_t>(row) * width;
      base.Logits(base_hidden.data() + at, static_cast<int>(n), base_logits.data());
      candidate.Logits(candidate_hidden.data() + at, static_cast<int>(n), candidate_logits.data());
      const size_t before = out.size();
      out.resize(before + static_cast<size_t>(n));
      base.model().pool().Run(n, [&](int64_t i, int) {
        const size_t offset = static_cast<size_t>(i) * vocabulary;
        const int64_t position = input.first_target + row + i;
        const Divergence divergence =
            Compare({base_logits.data() + offset, vocabulary}, {candidate_logits.data() + offset, vocabulary},
                    text.tokens[static_cast<size_t>(position)]);
        out[before + static_cast<size_t>(i)] = {position, divergence};
      });
    }
    progress(static_cast<double>(out.size()) / static_cast<double>(text.scored()));
  }
  return out;
}

}  // namespace larder
