#include "larder/eval_methods.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include <fmt/format.h>

#include "larder/evaluation.h"
#include "larder/measure.h"
#include "larder/terminal.h"

namespace larder {
namespace {

struct Form {
  int64_t documents, prompt, scored;
  const char* budgets;
};
constexpr Form kTable[] = {
    {2, 96, 24, "0.5"}, {32, 512, 96, "0.5,0.25,0.2,0.125"}, {64, 1024, 128, "0.5,0.25,0.2,0.125,0.0625"}};
constexpr const char* kBases = "streaming,snapkv";
constexpr int64_t kGram = 16;  // tokens that, once repeated, end a greedy text: small models loop

double MeanKl(const std::vector<Divergence>& tokens) {
  double sum = 0;
  for (const Divergence& d : tokens) sum += d.kl;
  return sum / static_cast<double>(tokens.size());
}

void PrintTable(const MethodsResult& r) {
  fmt::print("{} on {}: {} documents of {} + {} tokens, sinks {}, last {}; full cache {}\n", r.model, r.text,
             r.documents, r.prompt_tokens, r.scored_tokens, r.sinks, r.last, FormatSize(r.full_bytes));
  if (r.evicting_layers < r.layers) fmt::print("{}\n", WindowsNote(r));
  fmt::print(
      "greedy: what the full cache chooses, before it repeats itself: {} documents, {:.0f} tokens each\n\n",
      r.greedy_documents, r.greedy_tokens);
  fmt::print("{:<22} {:>7} {:>7} {:>8} {:>19} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7} {:>10} {:>10} {:>9}",
             "method", "budget", "entries", "KL mean", "95 %", "median", "99 %", "top-1", "ppl ratio",
             "greedy KL", "top-1", "bytes", "peak", "tokens/s");
  for (const std::string& base : r.bases) fmt::print("  {:<26}", "KL less " + base + "'s, 95 %");
  fmt::print("\n");
  for (const ArmSummary& s : r.arms) {
    fmt::print(
        "{:<22} {:>7} {:>7.0f} {:>8.4f} {:>19} {:>9.5f} {:>9.4f} {:>6.1f}% {:>9.4f} {:>9.4f} {:>6.1f}% "
        "{:>10} {:>10} {:>9.1f}",
        s.arm.method, s.arm.budget, s.entries, s.text.kl_mean,
        fmt::format("{:.4f}..{:.4f}", s.text.kl_low, s.text.kl_high), s.text.kl_median, s.text.kl_99,
        100 * s.text.same_top, s.text.perplexity_ratio, s.greedy.kl_mean, 100 * s.greedy.same_top,
        FormatSize(static_cast<uint64_t>(s.resident_bytes)), FormatSize(s.alone.peak_bytes),
        s.alone.tokens_per_s);
    for (const std::string& base : r.bases) {
      const auto it = std::ranges::find(s.text.differences, base, &KlDifference::base);
      const bool none = it == s.text.differences.end();
      fmt::print("  {:<26}", none ? ""
                                  : fmt::format("{:+.4f} {:+.4f}..{:+.4f}", it->kl.mean, it->kl.interval.low,
                                                it->kl.interval.high));
    }
    fmt::print("\n");
  }
  fmt::print("{}", RefusalLines(r.refused));
}

// Documents of `each` tokens spread over the whole text, so that more of its subjects are seen.
std::vector<std::vector<int32_t>> CutDocuments(const EvaluationText& text, int64_t count, int64_t each,
                                               const Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> out;
  for (int64_t d = 0; d < count; ++d) {
    out.emplace_back();
    if (text.bos) out.back().push_back(tokenizer.bos());
    const int64_t begin =
        d * (static_cast<int64_t>(text.tokens.size()) - each) / std::max<int64_t>(1, count - 1);
    out.back().insert(out.back().end(), text.tokens.begin() + begin, text.tokens.begin() + begin + each);
  }
  return out;
}

std::vector<int64_t> From(int64_t first, int64_t end) {
  std::vector<int64_t> out(static_cast<size_t>(end - first));
  std::iota(out.begin(), out.end(), first);
  return out;
}

std::vector<LayerEntries> LayersOf(const std::vector<std::vector<ArmDocument>>& documents, size_t arm) {
  std::vector<LayerEntries> out(documents.front()[arm].layer_entries.size());
  for (size_t layer = 0; layer < out.size(); ++layer) {
    std::vector<double> entries;
    for (const auto& document : documents) entries.push_back(document[arm].layer_entries[layer]);
    const MeanError of = MeanOf(entries);
    out[layer] = {of.mean, of.standard_error * std::sqrt(static_cast<double>(entries.size())) / of.mean};
  }
  return out;
}

}  // namespace

Fidelity FidelityOf(const std::vector<std::vector<ArmDocument>>& documents, size_t arm) {
  Fidelity out;
  if (documents.empty()) return out;
  std::vector<double> means, kl;
  double change = 0;
  for (const auto& document : documents) {
    means.push_back(MeanKl(document[arm].tokens));
    for (const Divergence& d : document[arm].tokens) {
      kl.push_back(d.kl);
      out.same_top += d.same_top;
      change += d.candidate_nll - d.base_nll;
    }
  }
  const Interval interval = Bootstrap(means);
  out.kl_documents = means;
  out.kl_mean = MeanOf(means).mean;
  out.kl_low = interval.low, out.kl_high = interval.high;
  out.kl_median = Quantile(kl, 0.5);
  out.kl_99 = Quantile(kl, 0.99);
  out.same_top /= static_cast<double>(kl.size());
  out.perplexity_ratio = std::exp(change / static_cast<double>(kl.size()));
  return out;
}

std::vector<ArmSummary> Summarise(const std::vector<Arm>& arms,
                                  const std::vector<std::vector<ArmDocument>>& text,
                                  const std::vector<std::vector<ArmDocument>>& greedy) {
  std::vector<ArmSummary> out;
  for (size_t arm = 0; arm < arms.size(); ++arm) {
    ArmSummary s{.arm = arms[arm], .text = FidelityOf(text, arm), .greedy = FidelityOf(greedy, arm)};
    for (const auto& document : text) {
      const ArmDocument& one = document[arm];
      s.private_bytes += static_cast<double>(one.private_bytes);
      s.resident_bytes += static_cast<double>(one.resident_bytes);
      s.entries += static_cast<double>(one.entries);
      s.method_ms += one.method_ms;
    }
    const auto n = static_cast<double>(text.size());
    s.private_bytes /= n, s.resident_bytes /= n, s.entries /= n, s.method_ms /= n;
    s.layers = LayersOf(text, arm);
    out.push_back(std::move(s));
  }
  return out;
}

void CompareWith(const std::vector<std::string>& bases, std::vector<ArmSummary>& arms) {
  const auto find = [&](const std::string& method, const std::string& budget) -> const ArmSummary* {
    const auto it = std::ranges::find_if(
        arms, [&](const ArmSummary& s) { return s.arm.method == method && s.arm.budget == budget; });
    return it == arms.end() ? nullptr : &*it;
  };
  for (ArmSummary& s : arms) {
    const size_t at = s.arm.method.find('@');
    const bool both = at != std::string::npos;
    const ArmSummary* method = both ? find(s.arm.method.substr(0, at), s.arm.budget) : nullptr;
    const ArmSummary* codec = both ? find(s.arm.method.substr(at + 1), "") : nullptr;
    for (Fidelity ArmSummary::* which : {&ArmSummary::text, &ArmSummary::greedy}) {
      Fidelity& own = s.*which;
      if (own.kl_documents.empty()) continue;
      for (const std::string& name : bases) {
        const ArmSummary* base = find(name, s.arm.budget);
        if (base == nullptr || base == &s) continue;
        own.differences.push_back({name, PairedDifference(own.kl_documents, (base->*which).kl_documents)});
      }
      if (method == nullptr || codec == nullptr) continue;
      std::vector<double> sums = (method->*which).kl_documents;
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += (codec->*which).kl_documents[i];
      own.differences.push_back({kParts, PairedDifference(own.kl_documents, sums)});
    }
  }
}

int64_t BeforeRepetition(std::span<const int32_t> tokens, int64_t gram) {
  const auto at = [&](int64_t begin) {
    return tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(gram));
  };
  const auto size = static_cast<int64_t>(tokens.size());
  for (int64_t later = 1; later + gram <= size; ++later) {
    for (int64_t earlier = 0; earlier < later; ++earlier) {
      if (std::ranges::equal(at(earlier), at(later))) return later;
    }
  }
  return size;
}

void MethodsEval::Declare(Params& params) {
  params.Int("prompt-tokens", &prompt_tokens_, 0, 1 << 20, "methods: of each document; 0: as the form says");
  params.Int("scored-tokens", &scored_tokens_, 0, 1 << 16,
             "methods: that follow the prompt; 0: as the form says");
  params.Int("documents", &documents_, 0, 1 << 20, "methods: at most; 0: as the form says");
  params.String("bases", &bases_,
                "methods: of --methods, those whose divergence is taken from that of the others of the same "
                "budget, document by document; empty: streaming and snapkv, where they are");
  params.Bool("nominal", &nominal_,
              "methods: budgets as they are given; else those are lowered that need more pages than their "
              "entries fill, so that arms of one budget have equally many");
}

// Those that are among the arms; all of them where they were asked for.
Result<std::vector<std::string>> MethodsEval::Bases(const std::vector<Arm>& arms) const {
  std::vector<std::string> out;
  for (const std::string& name : Split(bases_.empty() ? kBases : bases_, ',')) {
    if (std::ranges::find(arms, name, &Arm::method) != arms.end()) {
      out.push_back(name);
    } else if (!bases_.empty()) {
      return Fail(ErrorKind::kInvalid, "'{}' of --bases is none of the methods; add it to --methods", name);
    }
  }
  return out;
}

Status MethodsEval::Measure(ArmRunner& runner, const std::vector<std::vector<int32_t>>& documents,
                            MethodsResult& out) {
  std::vector<std::vector<ArmDocument>> text, greedy;
  std::vector<ArmAlone> alone;
  const Stopwatch watch;
  ProgressBar bar("comparing");
  for (const auto& document : documents) {
    const std::span tokens(document);
    const auto rest = tokens.subspan(static_cast<size_t>(prompt_tokens_));
    LARDER_TRY(runner.Read(tokens.first(static_cast<size_t>(prompt_tokens_))));
    if (text.empty() && !nominal_) LARDER_TRY(runner.EqualisePages());
    // The first token of the rest is predicted by the prompt's last row, which read the full cache.
    LARDER_ASSIGN(auto real, runner.Run(rest, 0, From(1, scored_tokens_ + 1)));
    for (size_t arm = 0; text.empty() && arm < runner.arms().size(); ++arm) {
      LARDER_ASSIGN(const ArmAlone one, runner.Alone(arm, rest));
      alone.push_back(one);
    }
    text.push_back(std::move(real));
    LARDER_ASSIGN(auto chosen, runner.Greedy(scored_tokens_ + 1));
    chosen.resize(static_cast<size_t>(BeforeRepetition(chosen, kGram)));
    if (chosen.size() >= 2) {
      LARDER_ASSIGN(auto own, runner.Run(chosen, 0, From(1, std::ssize(chosen))));
      out.greedy_tokens += static_cast<double>(chosen.size() - 1);
      greedy.push_back(std::move(own));
    }
    bar.Update(static_cast<double>(text.size()) / static_cast<double>(documents.size()));
  }
  bar.Clear();
  out.greedy_documents = std::ssize(greedy);
  out.greedy_tokens /= static_cast<double>(std::max<size_t>(1, greedy.size()));
  out.full_bytes = runner.full_bytes();
  out.seconds = watch.WallSeconds();
  out.arms = Summarise(runner.arms(), text, greedy);
  for (size_t arm = 0; arm < alone.size(); ++arm) out.arms[arm].alone = alone[arm];
  CompareWith(out.bases, out.arms);
  const bool parts = std::ranges::any_of(out.arms, [](const ArmSummary& s) {
    return std::ranges::find(s.text.differences, kParts, &KlDifference::base) != s.text.differences.end();
  });
  if (parts) out.bases.push_back(kParts);
  return {};
}

Status MethodsEval::Run(const ModelFlags& flags, const BenchFlags& bench, const std::string& text_path,
                        int64_t max_tokens, const std::string& json) {
  const Form& form = FormOf(kTable, bench.form);
  if (prompt_tokens_ == 0) prompt_tokens_ = form.prompt;
  if (scored_tokens_ == 0) scored_tokens_ = form.scored;
  if (documents_ == 0) documents_ = form.documents;
  const std::string methods = bench.methods.empty()
                                  ? DefaultMethods({"h2o:decode=false", "streaming:sinks=0", "t4:center=0"},
                                                   {"t4"})  // key means have to be there
                                  : bench.methods;
  const std::string budgets = bench.budgets.empty() ? form.budgets : bench.budgets;
  LARDER_ASSIGN(auto model, LoadBase(flags));
  Refusals refused;
  LARDER_ASSIGN(std::vector<Arm> arms, PlanArms(methods, budgets, bench.sinks, bench.last, *model, &refused));
  LARDER_ASSIGN(std::vector<std::string> bases, Bases(arms));
  LARDER_ASSIGN(const EvaluationText text,
                ReadEvaluationText(text_path, model->tokenizer(), 2, 1, max_tokens));
  // BOS, where the model wants one, is part of the prompt.
  const int64_t each = prompt_tokens_ - (text.bos ? 1 : 0) + scored_tokens_ + 1;
  const int64_t count = std::min(documents_, static_cast<int64_t>(text.tokens.size()) / each);
  if (count < 1) {
    return Fail(ErrorKind::kInvalid, "{} has {} tokens, and a document needs {}; lower --prompt-tokens",
                text_path, text.tokens.size(), each);
  }
  LARDER_ASSIGN(auto codecs, LoadCodecs(flags, arms));
  LARDER_ASSIGN(auto runner, ArmRunner::Create(*model, std::move(arms), std::move(codecs),
                                               prompt_tokens_ + scored_tokens_ + 1));
  const int64_t evicting = std::ranges::count(model->spec().layers, 0, &LayerSpec::window);
  MethodsResult result{
      .model = model->name(),
      .weights = model->weights_digest().Hex(),
      .text = text_path,
      .form = bench.form,
      .command =
          fmt::format("larder eval methods --methods {} --budgets {} --prompt-tokens {} "
                      "--scored-tokens {} --documents {} --sinks {} --last {}{}{} --model FILE --text FILE",
                      methods, budgets, prompt_tokens_, scored_tokens_, count, bench.sinks, bench.last,
                      nominal_ ? " --nominal" : "", bases_.empty() ? "" : " --bases " + bases_),
      .bases = std::move(bases),
      .refused = std::move(refused),
      .layers = std::ssize(model->spec().layers),
      .evicting_layers = evicting,
      .evicting_bytes = static_cast<uint64_t>(evicting * model->spec().kv_heads *
                                              ((prompt_tokens_ + kPageTokens - 1) / kPageTokens)) *
                        model->kv_shape().page_bytes(),
      .documents = count,
      .prompt_tokens = prompt_tokens_,
      .scored_tokens = scored_tokens_,
      .sinks = bench.sinks,
      .last = bench.last};
  LARDER_TRY(Measure(*runner, CutDocuments(text, count, each, model->tokenizer()), result));
  if (!bench.report.empty()) LARDER_TRY(WriteText(bench.report, MethodsHtml(result)));
  if (!json.empty()) return WriteText(json, MethodsJson(result));
  PrintTable(result);
  return {};
}

}  // namespace larder
