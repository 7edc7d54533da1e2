// larder eval ppl|kl|methods|tasks|stream|attention|blend: quality on a text.
//
// ppl: perplexity of one setting. kl: the candidate setting against the base setting on the same tokens: how
// far its predictions are from the base's, beside what each costs in bytes and time. KL divergence sees what
// perplexity does not: errors that happen to help are errors too. The others: eval_methods.h, eval_tasks.h,
// eval_stream.h, eval_attention.h, eval_blend.h. Rows read their context from the cache in the cache's own
// precision, exactly as they do when serving.
#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "larder/command.h"
#include "larder/eval_attention.h"
#include "larder/eval_blend.h"
#include "larder/eval_methods.h"
#include "larder/eval_stream.h"
#include "larder/eval_tasks.h"
#include "larder/evaluation.h"
#include "larder/model_flags.h"
#include "larder/terminal.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

struct Perplexity {
  double value, standard_error;  // the latter from that of the mean log-likelihood

  static Perplexity Of(std::span<const double> nll) {
    const MeanError mean = MeanOf(nll);
    return {std::exp(mean.mean), std::exp(mean.mean) * mean.standard_error};
  }
};

Json SubjectJson(Subject& subject, const Perplexity& ppl) {
  return {{"setting", subject.label()},
          {"perplexity", ppl.value},
          {"perplexity_error", ppl.standard_error},
          {"weight_bytes", subject.model().weight_bytes()},
          {"kv_bytes", subject.kv_bytes()},
          {"kv_bytes_per_token", subject.model().kv_shape().BytesPerToken()},
          {"tokens_per_s", subject.tokens_per_s()}};
}

void PrintSubjects(const std::vector<Json>& subjects) {
  fmt::print("{:<12} {:>20} {:>12} {:>12} {:>12} {:>10}\n", "setting", "perplexity", "weights", "cache",
             "bytes/token", "tokens/s");
  for (const Json& s : subjects)
    fmt::print(
        "{:<12} {:>20} {:>12} {:>12} {:>12} {:>10.1f}\n", s["setting"].get<std::string>(),
        fmt::format("{:.4f} +- {:.4f}", s["perplexity"].get<double>(), s["perplexity_error"].get<double>()),
        FormatSize(s["weight_bytes"].get<uint64_t>()), FormatSize(s["kv_bytes"].get<uint64_t>()),
        s["kv_bytes_per_token"].get<uint64_t>(), s["tokens_per_s"].get<double>());
}

// A token in its text, with what stands before it.
std::string TokenInContext(const EvaluationText& text, const Tokenizer& tokenizer, int64_t position) {
  constexpr int64_t kContextTokens = 12;
  const int64_t begin = std::max<int64_t>(0, position - kContextTokens);
  const std::span tokens(text.tokens);
  const std::string before = tokenizer.Decode(
      tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(position - begin)), true);
  return before + "[" + tokenizer.TokenBytes(text.tokens[static_cast<size_t>(position)], true) + "]";
}

class Eval final : public Command {
 public:
  void Declare(Params& params) override {
    flags_.Declare(params);
    params.String("text", &text_, "file with the text");
    params.Int("window", &window_, 2, 1 << 24, "tokens of the text that are in context at most");
    params.Int("stride", &stride_, 0, 1 << 24,
               "tokens scored in each window, its last ones; 0: half of the window");
    params.Int("max-tokens", &max_tokens_, 0, int64_t{1} << 40, "of the text; 0: all");
    DeclareMath(params, "base-", &base_math_, "kl: arithmetic of the base setting");
    DeclareKvType(params, "base-", &base_kv_type_, "kl: elements of the base setting's cache");
    params.OptionalString("json", &json_, "-",
                          "one JSON object instead of text, to standard output or into this file");
    params.String(
        "evict", &evict_,
        "ppl, kl: eviction method of the (candidate) setting, such as snapkv:budget=0.25; with a codec "
        "in --kv-type, full pages of what it leaves become codes");
    params.Float("prompt-share", &prompt_share_, 0.01, 0.99,
                 "with --evict: of each window, behind which the method chooses; the rest is scored");
    bench_.Declare(params);
    methods_.Declare(params);
    tasks_.Declare(params);
    stream_.Declare(params);
    attention_.Declare(params);
    blend_.Declare(params);
  }

  Status Run(const std::string& what) override {
    if (what != "ppl" && what != "kl" && !evict_.empty())
      return Fail(ErrorKind::kInvalid, "--evict is of ppl and kl; {} takes --methods", what);
    if (what == "methods") return methods_.Run(flags_, bench_, text_, max_tokens_, json_);
    if (what == "tasks") return tasks_.Run(flags_, bench_, json_);
    if (what == "stream") return stream_.Run(flags_, bench_, text_, max_tokens_, json_);
    if (what == "attention") return attention_.Run(flags_, text_, window_, max_tokens_, json_);
    if (what == "blend") {
      LARDER_ASSIGN(auto model, flags_.Load());
      return blend_.Run(*model, text_, json_);
    }
    if (what != "ppl" && what != "kl") {
      return Fail(ErrorKind::kInvalid,
                  "'{}' is not known; write ppl, kl, methods, tasks, stream, attention or blend", what);
    }
    LARDER_TRY(PlanStride());
    try {
      return what == "ppl" ? RunPerplexity() : RunDivergence();
    } catch (const Json::exception& error) {
      return Fail(ErrorKind::kCorrupt, "the result cannot be shown: {}", error.what());
    }
  }

 private:
  // With a method the scored tokens are those behind the prompt.
  Status PlanStride() {
    if (evict_.empty()) {
      if (stride_ == 0) stride_ = window_ / 2;
      return {};
    }
    if (stride_ != 0)
      return Fail(
          ErrorKind::kInvalid,
          "with --evict all tokens behind the prompt are scored; give --prompt-share instead of --stride");
    stride_ = window_ - std::llround(prompt_share_ * static_cast<double>(window_));
    if (stride_ > 0 && stride_ < window_) return {};
    return Fail(ErrorKind::kInvalid, "a share of {} leaves no prompt or nothing else in a window of {}",
                prompt_share_, window_);
  }

  Result<EvaluationText> Read(const Model& model) const {
    LARDER_ASSIGN(EvaluationText text,
                  ReadEvaluationText(text_, model.tokenizer(), window_, stride_, max_tokens_));
    // A shorter text is one window, all of which is scored.
    if (!evict_.empty() && std::ssize(text.tokens) <= window_)
      return Fail(ErrorKind::kInvalid,
                  "--evict needs a text of more than one window, and {} has {} tokens; lower --window", text_,
                  text.tokens.size());
    return text;
  }

  Result<Subject> Load(const std::string& math, const std::string& kv_type) const {
    LARDER_ASSIGN(auto model, flags_.LoadAs(math, kv_type));
    return Subject::Create(math + "/" + kv_type, std::move(model), window_ + 1);  // + 1: BOS
  }
  // The setting that is measured, with its method.
  Result<Subject> LoadCandidate() const {
    LARDER_ASSIGN(auto model, flags_.LoadAs(flags_.math, flags_.kv_type));
    const std::string label = flags_.math + "/" + flags_.kv_type + (evict_.empty() ? "" : "/" + evict_);
    LARDER_ASSIGN(Subject subject, Subject::Create(label, std::move(model), window_ + 1));
    if (!evict_.empty()) LARDER_TRY(subject.Evict(evict_));
    return subject;
  }

  Json Head(const char* what, const EvaluationText& text, Subject& subject) const {
    return {{"eval", what},
            {"model", subject.model().name()},
            {"weights", subject.model().weights_digest().Hex()},
            {"text", text_},
            {"tokens", text.tokens.size()},
            {"scored", text.scored()},
            {"window", window_},
            {"stride", stride_},
            {"threads", subject.model().pool().threads()}};
  }

  void PrintHead(const EvaluationText& text, Subject& subject) const {
    fmt::print("{} on {}: {} of {} tokens scored, window {}, stride {}, {} threads\n\n",
               subject.model().name(), text_, text.scored(), text.tokens.size(), window_, stride_,
               subject.model().pool().threads());
  }

  Status RunPerplexity() {
    LARDER_ASSIGN(Subject subject, LoadCandidate());
    LARDER_ASSIGN(const EvaluationText text, Read(subject.model()));
    ProgressBar bar("scoring");
    LARDER_ASSIGN(const std::vector<double> nll, ScoreText(subject, text, [&](double f) { bar.Update(f); }));
    bar.Clear();
    const Json row = SubjectJson(subject, Perplexity::Of(nll));
    if (!json_.empty()) {
      Json out = Head("ppl", text, subject);
      out.update(row);
      return WriteJson(out);
    }
    PrintHead(text, subject);
    PrintSubjects({row});
    return {};
  }

  Status RunDivergence() {
    LARDER_ASSIGN(Subject base, Load(base_math_, base_kv_type_));
    LARDER_ASSIGN(const EvaluationText text, Read(base.model()));
    LARDER_ASSIGN(Subject candidate, LoadCandidate());
    ProgressBar bar("comparing");
    LARDER_ASSIGN(const std::vector<ScoredToken> scored,
                  CompareOnText(base, candidate, text, [&](double f) { bar.Update(f); }));
    bar.Clear();
    return Report(base, candidate, text, scored);
  }

  Status WriteJson(const Json& out) const {
    return WriteText(json_, out.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  Status Report(Subject& base, Subject& candidate, const EvaluationText& text,
                const std::vector<ScoredToken>& scored) {
    std::vector<double> kl, base_nll, candidate_nll, change;
    double same = 0;
    for (const ScoredToken& token : scored) {
      const Divergence& d = token.divergence;
      kl.push_back(d.kl);
      base_nll.push_back(d.base_nll);
      candidate_nll.push_back(d.candidate_nll);
      change.push_back(d.candidate_nll - d.base_nll);
      same += d.same_top;
    }
    const ScoredToken& worst =
        *std::max_element(scored.begin(), scored.end(),
                          [](const auto& a, const auto& b) { return a.divergence.kl < b.divergence.kl; });
    const MeanError mean = MeanOf(kl), mean_change = MeanOf(change);
    const std::vector<Json> rows = {SubjectJson(base, Perplexity::Of(base_nll)),
                                    SubjectJson(candidate, Perplexity::Of(candidate_nll))};
    const double ratio = std::exp(mean_change.mean), ratio_error = ratio * mean_change.standard_error;
    const double same_top = same / static_cast<double>(scored.size());
    const std::string worst_text = TokenInContext(text, base.model().tokenizer(), worst.position);
    const double median = Quantile(kl, 0.5), q99 = Quantile(kl, 0.99), q999 = Quantile(kl, 0.999);
    if (!json_.empty()) {
      Json out = Head("kl", text, base);
      out.update({{"base", rows[0]},
                  {"candidate", rows[1]},
                  {"kl_mean", mean.mean},
                  {"kl_mean_error", mean.standard_error},
                  {"kl_median", median},
                  {"kl_99", q99},
                  {"kl_999", q999},
                  {"kl_worst", worst.divergence.kl},
                  {"worst_position", worst.position},
                  {"worst_text", worst_text},
                  {"same_top", same_top},
                  {"perplexity_ratio", ratio},
                  {"perplexity_ratio_error", ratio_error}});
      return WriteJson(out);
    }
    PrintHead(text, base);
    PrintSubjects(rows);
    fmt::print("\nKL(base || candidate)  mean {:.3e} +- {:.1e}, median {:.3e}, 99 % {:.3e}, 99.9 % {:.3e}\n",
               mean.mean, mean.standard_error, median, q99, q999);
    fmt::print("same first choice      {:.2f} %\n", 100 * same_top);
    fmt::print("perplexity ratio       {:.5f} +- {:.5f}\n", ratio, ratio_error);
    fmt::print("worst token            {:.3e} at token {}: {}\n", worst.divergence.kl, worst.position,
               Json(worst_text).dump(-1, ' ', false, Json::error_handler_t::replace));
    return {};
  }

  ModelFlags flags_;
  BenchFlags bench_;
  MethodsEval methods_;
  TasksEval tasks_;
  StreamEval stream_;
  AttentionEval attention_;
  BlendEval blend_;
  std::string text_, base_math_ = "f32", base_kv_type_ = "f32", evict_, json_;
  double prompt_share_ = 0.5;
  int64_t window_ = 512, stride_ = 0, max_tokens_ = 0;
};

}  // namespace

std::unique_ptr<Command> CreateEval() { return std::make_unique<Eval>(); }

}  // namespace larder
