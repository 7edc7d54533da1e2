#include "larder/eval_methods.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>

#include <fmt/format.h>

#include "base/file.h"
#include "larder/evaluation.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr int kDraws = 1000;

double MeanKl(const std::vector<std::vector<ArmDocument>>& documents, size_t document, size_t arm) {
  double sum = 0;
  const auto& tokens = documents[document][arm].tokens;
  for (const Divergence& d : tokens) sum += d.kl;
  return sum / static_cast<double>(tokens.size());
}

void Bootstrap(const std::vector<std::vector<ArmDocument>>& documents, size_t arm, ArmSummary& out) {
  std::vector<double> kl, draws;
  for (size_t d = 0; d < documents.size(); ++d) kl.push_back(MeanKl(documents, d, arm));
  out.kl_mean = MeanOf(kl).mean;
  std::mt19937 random(1);  // the same for each arm: the same documents are drawn
  for (int i = 0; i < kDraws; ++i) {
    double sum = 0;
    for (size_t d = 0; d < kl.size(); ++d) sum += kl[random() % kl.size()];
    draws.push_back(sum / static_cast<double>(kl.size()));
  }
  out.kl_low = Quantile(draws, 0.025);
  out.kl_high = Quantile(draws, 0.975);
}

void PrintTable(const MethodsResult& result) {
  fmt::print("{} on {}: {} documents of {} + {} tokens, sinks {}, last {}; full cache {}\n\n", result.model,
             result.text, result.documents, result.prompt_tokens, result.scored_tokens, result.sinks,
             result.last, FormatSize(result.full_bytes));
  fmt::print("{:<22} {:>7} {:>8} {:>19} {:>9} {:>9} {:>7} {:>9} {:>10} {:>10}\n", "method", "budget",
             "KL mean", "95 %", "median", "99 %", "top-1", "ppl ratio", "bytes", "peak");
  for (const ArmSummary& s : result.arms) {
    fmt::print("{:<22} {:>7} {:>8.4f} {:>19} {:>9.5f} {:>9.4f} {:>6.1f}% {:>9.4f} {:>10} {:>10}\n",
               s.arm.method, s.arm.budget, s.kl_mean, fmt::format("{:.4f}..{:.4f}", s.kl_low, s.kl_high),
               s.kl_median, s.kl_99, 100 * s.same_top, s.perplexity_ratio,
               FormatSize(static_cast<uint64_t>(s.private_bytes)),
               FormatSize(static_cast<uint64_t>(s.peak_bytes)));
  }
}

}  // namespace

std::vector<ArmSummary> Summarise(const std::vector<Arm>& arms,
                                  const std::vector<std::vector<ArmDocument>>& documents) {
  std::vector<ArmSummary> out;
  for (size_t arm = 0; arm < arms.size(); ++arm) {
    ArmSummary s{.arm = arms[arm]};
    Bootstrap(documents, arm, s);
    std::vector<double> kl;
    double change = 0;
    for (const auto& document : documents) {
      const ArmDocument& one = document[arm];
      for (const Divergence& d : one.tokens) {
        kl.push_back(d.kl);
        s.same_top += d.same_top;
        change += d.candidate_nll - d.base_nll;
      }
      s.private_bytes += static_cast<double>(one.private_bytes);
      s.peak_bytes += static_cast<double>(one.peak_bytes);
      s.entries += static_cast<double>(one.entries);
      s.method_ms += one.method_ms;
    }
    const auto tokens = static_cast<double>(kl.size()), n = static_cast<double>(documents.size());
    s.kl_median = Quantile(kl, 0.5);
    s.kl_99 = Quantile(kl, 0.99);
    s.same_top /= tokens;
    s.perplexity_ratio = std::exp(change / tokens);
    s.private_bytes /= n, s.peak_bytes /= n, s.entries /= n, s.method_ms /= n;
    out.push_back(std::move(s));
  }
  return out;
}

Status WriteText(const std::string& where, const std::string& text) {
  if (where != "-") return WriteFileAtomically(where, text + "\n");
  fmt::print("{}\n", text);
  return {};
}

void MethodsEval::Declare(Params& params) {
  params.String("methods", &methods_,
                "methods: which, each with parameters of its own if it needs them, joined by '+': "
                "snapkv:window=16+kernel=5; oracle knows what will be looked at");
  params.String("budgets", &budgets_, "methods: shares of the prompt, entries of a lane, or bytes");
  params.Int("prompt-tokens", &prompt_tokens_, 16, 1 << 20, "methods: of each document");
  params.Int("scored-tokens", &scored_tokens_, 1, 1 << 16, "methods: that follow the prompt");
  params.Int("documents", &documents_, 1, 1 << 20, "methods: at most");
  params.Int("sinks", &sinks_, 0, 1 << 16, "methods: first tokens that every arm keeps");
  params.Int("last", &last_, 0, 1 << 16, "methods: newest tokens that every arm keeps");
  params.String("report", &report_, "methods: a page with plots, into this file");
}

Status MethodsEval::Run(Model& model, const std::string& text_path, int64_t max_tokens,
                        const std::string& json) {
  if (model.kv_shape().codec() != nullptr) {
    return Fail(ErrorKind::kUnsupported,
                "methods are compared with a full cache of rows; leave the codec out of --kv-type");
  }
  LARDER_ASSIGN(std::vector<Arm> arms, PlanArms(methods_, budgets_, sinks_, last_, model));
  // BOS, where the model wants one, is part of the prompt.
  const int64_t bos = model.tokenizer().add_bos() && model.tokenizer().bos() != kNoToken ? 1 : 0;
  const int64_t each = prompt_tokens_ - bos + scored_tokens_ + 1;
  LARDER_ASSIGN(const EvaluationText text,
                ReadEvaluationText(text_path, model.tokenizer(), 2, 1, max_tokens));
  const int64_t documents = std::min(documents_, static_cast<int64_t>(text.tokens.size()) / each);
  if (documents < 1) {
    return Fail(ErrorKind::kInvalid, "{} has {} tokens, and a document needs {}; lower --prompt-tokens",
                text_path, text.tokens.size(), each);
  }
  LARDER_ASSIGN(auto runner, ArmRunner::Create(model, std::move(arms), prompt_tokens_, scored_tokens_));
  std::vector<std::vector<ArmDocument>> measured;
  ProgressBar bar("comparing");
  for (int64_t d = 0; d < documents; ++d) {
    std::vector<int32_t> tokens;
    if (bos == 1) tokens.push_back(model.tokenizer().bos());
    // Spread over the whole text, so that more of its subjects are seen.
    const int64_t begin =
        d * (static_cast<int64_t>(text.tokens.size()) - each) / std::max<int64_t>(1, documents - 1);
    tokens.insert(tokens.end(), text.tokens.begin() + begin, text.tokens.begin() + begin + each);
    LARDER_ASSIGN(auto one, runner->Run(tokens));
    measured.push_back(std::move(one));
    bar.Update(static_cast<double>(d + 1) / static_cast<double>(documents));
  }
  bar.Clear();
  MethodsResult result{
      .model = model.name(),
      .weights = model.weights_digest().Hex(),
      .text = text_path,
      .command = fmt::format("larder eval methods --methods {} --budgets {} --prompt-tokens {} "
                             "--scored-tokens {} --documents {} --sinks {} --last {} --text {}",
                             methods_, budgets_, prompt_tokens_, scored_tokens_, documents_, sinks_, last_,
                             text_path),
      .documents = documents,
      .prompt_tokens = prompt_tokens_,
      .scored_tokens = scored_tokens_,
      .sinks = sinks_,
      .last = last_,
      .full_bytes = runner->full_bytes(),
      .arms = Summarise(runner->arms(), measured)};
  if (!report_.empty()) LARDER_TRY(WriteText(report_, MethodsHtml(result)));
  if (!json.empty()) return WriteText(json, MethodsJson(result));
  PrintTable(result);
  return {};
}

}  // namespace larder
