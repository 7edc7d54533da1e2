#include "larder/eval_stream.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "larder/measure.h"
#include "larder/method_run.h"
#include "larder/terminal.h"

namespace larder {
namespace {

struct Form {
  int64_t tokens;
  const char* budgets;
};
constexpr const char* kMethods =
    "streaming:positions=rank+chunk=64,lacache:chunk=64,lacache:chunk=64+rungs=random+seed=1,"
    "lacache:chunk=64+rungs=random+seed=2,lacache:chunk=64+rungs=random+seed=3";
// With the next token these budgets fill pages.
constexpr Form kTable[] = {{1024, "127"}, {8192, "255,511"}, {65536, "255,511"}};
constexpr int64_t kLogitRows = 16;

nlohmann::ordered_json EstimateJson(const Estimate& e) {
  return {{"mean", e.mean}, {"low", e.interval.low}, {"high", e.interval.high}};
}

nlohmann::ordered_json CopiesJson(const StreamLine& line) {
  nlohmann::ordered_json json = {{"first_time", line.copies_first},
                                 {"gaps", nlohmann::ordered_json::array()}};
  for (const CopyScore& score : line.copies) {
    json["gaps"].push_back({{"gap", score.gap},
                            {"copies", score.copies},
                            {"log_probability", EstimateJson(score.second)},
                            {"more_than_first", EstimateJson(score.more)}});
  }
  return json;
}

Result<int64_t> EntriesOf(const std::string& budget) {
  int64_t entries = 0;
  const auto [end, error] = std::from_chars(budget.data(), budget.data() + budget.size(), entries);
  if (error == std::errc() && end == budget.data() + budget.size() && entries >= 2) return entries;
  return Fail(ErrorKind::kInvalid,
              "a stream has no end to take a share of; give --budgets as entries: 256,512");
}

Status CheckStream(const Arm& arm, const EvictNeeds& needs, int64_t rows, int64_t context) {
  if (needs.chunk == 0) {
    return Fail(ErrorKind::kInvalid,
                "{} would choose when the stream has ended; take a method that compacts while it reads: "
                "lacache:chunk=64 or streaming:positions=rank+chunk=64",
                arm.method);
  }
  if (needs.positions == PositionMode::kKeep && rows > context) {
    return Fail(ErrorKind::kUnsupported,
                "{} keeps true positions, and the stream has {} tokens where the model's context ends at {}; "
                "give --max-tokens {}",
                arm.method, rows, context, context);
  }
  return {};
}

std::string Shown(const Estimate& e) {
  return fmt::format("{:+.4f} {:+.4f}..{:+.4f}", e.mean, e.interval.low, e.interval.high);
}

double MeanOfRange(std::span<const double> values, size_t begin, size_t end) {
  return MeanOf(values.subspan(begin, end - begin)).mean;
}

// Means over blocks of tokens: neighbours are not independent.
std::vector<double> BlockMeans(std::span<const double> values) {
  constexpr size_t kBlock = 256;
  std::vector<double> means;
  for (size_t i = 0; i < values.size(); i += kBlock)
    means.push_back(MeanOfRange(values, i, std::min(values.size(), i + kBlock)));
  return means;
}

// What b's tokens cost more than a's.
std::vector<double> Less(const StreamPass& a, const StreamPass& b) {
  std::vector<double> out;
  for (size_t i = 0; i < a.nll.size(); ++i) out.push_back(b.nll[i] - a.nll[i]);
  return out;
}
// With the mean over tokens; the last block may be shorter than the others.
Estimate Below(const StreamPass& a, const StreamPass& b) {
  const std::vector<double> less = Less(a, b);
  return {MeanOf(less).mean, Bootstrap(BlockMeans(less))};
}

// Leaves the tokens that all passes have scored.
void TakeCommonTokens(std::vector<StreamPass>& passes) {
  int64_t first = 0, end = int64_t{1} << 62;
  for (const StreamPass& pass : passes) {
    first = std::max(first, pass.first);
    end = std::min(end, pass.first + std::ssize(pass.nll));
  }
  for (StreamPass& pass : passes) {
    pass.nll = {pass.nll.begin() + (first - pass.first), pass.nll.begin() + (end - pass.first)};
    pass.first = first;
  }
}

// A line a pass, a column a gap.
void PrintCopies(const StreamResult& r) {
  if (r.lines.front().copies.empty()) return;
  fmt::print(
      "\nstrings of {} tokens and their copies: mean log-probability of a token; less that of the first "
      "method\n{:<40} {:>7} {:>10}",
      kCopyTokens, "method", "budget", "first time");
  for (const CopyScore& score : r.lines.front().copies)
    fmt::print("  {:>30}", fmt::format("after {} ({} copies)", score.gap, score.copies));
  fmt::print("\n");
  for (const StreamLine& line : r.lines) {
    fmt::print("{:<40} {:>7} {:>10.3f}", line.pass.method, line.pass.budget, line.copies_first);
    for (const CopyScore& score : line.copies)
      fmt::print("  {:>30}", fmt::format("{:.3f} ({})", score.second.mean, Shown(score.more)));
    fmt::print("\n");
  }
}

void PrintTable(const StreamResult& r) {
  fmt::print(
      "{} on {}: a stream of {} tokens, scored from token {} on\n\n{:<40} {:>7} {:>10} {:>28} {:>28} {:>28} "
      "{:>10} {:>10} {:>9}  {}\n",
      r.model, r.text, r.tokens, r.first, "method", "budget", "perplexity", "log-perplexity less, 95 %",
      "less than windows", "excess, of the first's", "bytes", "peak", "tokens/s", "perplexity by eighths");
  for (const StreamLine& line : r.lines) {
    const StreamPass& p = line.pass;
    fmt::print("{:<40} {:>7} {:>10.3f} {:>28} {:>28} {:>28} {:>10} {:>10} {:>9.0f} ", p.method, p.budget,
               line.perplexity, Shown({line.less, {line.low, line.high}}),
               line.below_windows ? Shown(*line.below_windows) : "", line.excess ? Shown(*line.excess) : "",
               p.bytes_high, p.peak_bytes, static_cast<double>(r.tokens) / p.seconds);
    for (const double part : line.parts) fmt::print(" {:.2f}", part);
    fmt::print("\n");
    if (p.bytes_low != p.bytes_high)
      fmt::print("  its memory was not constant: between {} and {} bytes\n", p.bytes_low, p.bytes_high);
  }
  PrintCopies(r);
  fmt::print("{}", RefusalLines(r.refused));
}

}  // namespace

Result<StreamPass> RunStream(Model& model, Session& session, const Arm& arm, const EvaluationText& text) {
  if (arm.kind != ArmKind::kEvict)
    return Fail(ErrorKind::kInvalid, "'{}' has no bound; a stream takes eviction methods", arm.method);
  LARDER_ASSIGN(auto method, CreateEvictMethod(arm.spec, EvictModelOf(model)));
  std::vector<int32_t> tokens = text.tokens;
  if (text.bos) tokens.insert(tokens.begin(), model.tokenizer().bos());
  const int64_t rows = std::ssize(tokens) - 1;
  LARDER_TRY(CheckStream(arm, method->needs(), rows, model.spec().context));

  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  StreamPass out{.method = arm.method, .budget = arm.budget, .first = text.bos ? 0 : 1, .nll = {}};
  std::vector<float> logits(kLogitRows * vocabulary);
  const auto score = [&](int64_t first, int n, const float* hidden) {
    out.nll.resize(static_cast<size_t>(first + n));
    for (int64_t at = 0; at < n; at += kLogitRows) {
      const int64_t some = std::min<int64_t>(kLogitRows, n - at);
      model.Logits(hidden + static_cast<size_t>(at) * width, static_cast<int>(some), logits.data());
      model.pool().Run(some, [&](int64_t i, int) {
        const auto row = static_cast<size_t>(first + at + i);
        out.nll[row] = NegativeLogLikelihood(
            {logits.data() + static_cast<size_t>(i) * vocabulary, vocabulary}, tokens[row + 1]);
      });
    }
  };
  EvictResources resources(model, session.cache().MakePageSource());
  MethodRun run(resources, std::move(method), rows);
  const Stopwatch watch;
  ProgressBar bar(arm.method);
  for (int64_t at = 0; at < rows;) {
    LARDER_ASSIGN(at, run.Advance(at, rows, tokens, 0, score));
    bar.Update(static_cast<double>(at) / static_cast<double>(rows));
    if (at < rows / 2) continue;
    const uint64_t bytes = run.driver().private_bytes();
    out.bytes_low = out.bytes_low == 0 ? bytes : std::min(out.bytes_low, bytes);
    out.bytes_high = std::max(out.bytes_high, bytes);
  }
  bar.Clear();
  out.peak_bytes = run.driver().peak_bytes();
  out.seconds = watch.WallSeconds();
  return out;
}

Result<StreamPass> RunWindows(Subject& subject, const EvaluationText& text, int64_t tokens) {
  EvaluationText windows = text;
  windows.windows = PlanWindows(std::ssize(text.tokens), tokens, std::max<int64_t>(1, tokens / 2));
  StreamPass out{.method = kWindowsPass, .budget = std::to_string(tokens), .nll = {}};
  out.first = windows.windows.front().score_from;
  const Stopwatch watch;
  ProgressBar bar("windows");
  LARDER_ASSIGN(out.nll, ScoreText(subject, windows, [&](double f) { bar.Update(f); }));
  bar.Clear();
  out.bytes_low = out.bytes_high = out.peak_bytes = subject.kv_bytes();
  out.seconds = watch.WallSeconds();
  return out;
}

Result<StreamPass> RunFull(Subject& subject, const EvaluationText& text) {
  LARDER_ASSIGN(StreamPass out, RunWindows(subject, text, std::ssize(text.tokens)));
  out.method = kFullPass, out.budget = "";
  return out;
}

std::vector<StreamLine> SummariseStream(std::vector<StreamPass> passes, std::vector<Copy> copies) {
  TakeCommonTokens(passes);
  // A string of which a pass has not scored a part is compared by none.
  const int64_t begin = passes.front().first, end = begin + std::ssize(passes.front().nll);
  std::erase_if(copies,
                [&](const Copy& copy) { return copy.first < begin || copy.second + kCopyTokens > end; });
  const auto find = [&](const auto& is) {
    const auto pass = std::ranges::find_if(passes, is);
    return pass == passes.end() ? nullptr : &*pass;
  };
  const StreamPass* full = find([](const StreamPass& p) { return p.method == kFullPass; });
  std::vector<StreamLine> out;
  for (const StreamPass& pass : passes) {
    const StreamPass* first = find([&](const StreamPass& p) { return p.budget == pass.budget; });
    const StreamPass* windows =
        find([&](const StreamPass& p) { return p.budget == pass.budget && p.method == kWindowsPass; });
    StreamLine line;
    const Estimate less = Below(pass, *first);
    line.less = less.mean, line.low = less.interval.low, line.high = less.interval.high;
    if (windows != nullptr && windows != &pass) line.below_windows = Below(pass, *windows);
    if (full != nullptr && first != &pass)
      line.excess = PairedRatio(BlockMeans(Less(*full, pass)), BlockMeans(Less(*full, *first)));
    line.perplexity = std::exp(MeanOf(pass.nll).mean);
    constexpr size_t kParts = 8;
    const size_t n = pass.nll.size();
    for (size_t i = 0; i < kParts && n >= kParts; ++i)
      line.parts.push_back(std::exp(MeanOfRange(pass.nll, i * n / kParts, (i + 1) * n / kParts)));
    if (!copies.empty()) {
      const CopyLogProbabilities own = ScoreCopies(pass.nll, pass.first, copies);
      line.copies_first = MeanOf(own.first).mean;
      line.copies = CopiesByGap(copies, own.second, ScoreCopies(first->nll, first->first, copies).second);
    }
    out.push_back(std::move(line));
  }
  for (size_t i = 0; i < out.size(); ++i) out[i].pass = std::move(passes[i]);
  return out;
}

std::string StreamJson(const StreamResult& r) {
  nlohmann::ordered_json json = {{"eval", "stream"},   {"model", r.model},       {"weights", r.weights},
                                 {"text", r.text},     {"form", r.form},         {"command", r.command},
                                 {"tokens", r.tokens}, {"scored_from", r.first}, {"refused", r.refused}};
  json["passes"] = nlohmann::ordered_json::array();
  for (const StreamLine& line : r.lines) {
    const StreamPass& p = line.pass;
    nlohmann::ordered_json one = {{"method", p.method},
                                  {"budget", p.budget},
                                  {"perplexity", line.perplexity},
                                  {"perplexity_by_eighths", line.parts},
                                  {"log_perplexity_less", line.less},
                                  {"less_low", line.low},
                                  {"less_high", line.high},
                                  {"bytes_low", p.bytes_low},
                                  {"bytes_high", p.bytes_high},
                                  {"peak_bytes", p.peak_bytes},
                                  {"tokens_per_s", static_cast<double>(r.tokens) / p.seconds}};
    if (line.below_windows) one["less_than_windows"] = EstimateJson(*line.below_windows);
    if (line.excess) one["excess_of_first"] = EstimateJson(*line.excess);
    if (!line.copies.empty()) one["copies"] = CopiesJson(line);
    json["passes"].push_back(std::move(one));
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

void StreamEval::Declare(Params& params) {
  params.String("copy-gaps", &copy_gaps_,
                "stream: puts strings into the text that come again after so many tokens (128,512,2048), and "
                "shows how likely their second time is; empty: the text as it is");
}

Result<std::vector<Copy>> StreamEval::Plant(std::vector<int32_t>& tokens) const {
  if (copy_gaps_.empty()) return std::vector<Copy>();
  LARDER_ASSIGN(const std::vector<int64_t> gaps, ParseNumbers(copy_gaps_, 1, 1 << 20));
  std::vector<Copy> copies = PlantCopies(tokens, gaps);
  if (!copies.empty()) return copies;
  return Fail(ErrorKind::kInvalid, "no string comes again within {} tokens; give smaller --copy-gaps",
              tokens.size());
}

Status StreamEval::Run(const ModelFlags& flags, const BenchFlags& bench, const std::string& text_path,
                       int64_t max_tokens, const std::string& json) {
  const Form& form = FormOf(kTable, bench.form);
  if (max_tokens == 0) max_tokens = form.tokens;
  const std::string methods = bench.methods.empty() ? kMethods : bench.methods;
  const std::string budgets = bench.budgets.empty() ? form.budgets : bench.budgets;
  int64_t most = 0;
  for (const std::string& budget : Split(budgets, ',')) {
    LARDER_ASSIGN(const int64_t entries, EntriesOf(budget));
    most = std::max(most, entries);
  }
  LARDER_ASSIGN(auto model, LoadBase(flags));
  Refusals refused;
  LARDER_ASSIGN(const std::vector<Arm> arms,
                PlanArms(methods, budgets, bench.sinks, bench.last, *model, &refused));
  LARDER_ASSIGN(EvaluationText text, ReadEvaluationText(text_path, model->tokenizer(), 2, 1, max_tokens));
  if (std::ssize(text.tokens) <= 2 * most) {
    return Fail(ErrorKind::kInvalid, "{} tokens are no stream for a budget of {}; give a longer text",
                text.tokens.size(), most);
  }
  LARDER_ASSIGN(const std::vector<Copy> copies, Plant(text.tokens));
  LARDER_ASSIGN(
      auto session,
      Session::Create(*model, std::min<int64_t>(most + Session::kChunkRows, model->spec().context), 2));
  std::vector<StreamPass> passes;
  for (const Arm& arm : arms) {
    LARDER_ASSIGN(auto pass, RunStream(*model, *session, arm, text));
    passes.push_back(std::move(pass));
  }
  StreamResult result{.model = model->name(),
                      .weights = model->weights_digest().Hex(),
                      .text = text_path,
                      .form = bench.form,
                      .command = fmt::format("larder eval stream --methods {} --budgets {} --max-tokens {}{} "
                                             "--model FILE --text FILE",
                                             methods, budgets, max_tokens,
                                             copy_gaps_.empty() ? "" : " --copy-gaps " + copy_gaps_),
                      .tokens = std::ssize(text.tokens),
                      .refused = std::move(refused)};
  session.reset();
  const int64_t whole = std::ssize(text.tokens) - (text.bos ? 0 : 1);  // rows
  const bool fits = whole <= model->spec().context;
  LARDER_ASSIGN(Subject windows,
                Subject::Create("windows", std::move(model), std::max(most + 1, fits ? whole : 0)));
  for (const std::string& budget : Split(budgets, ',')) {
    LARDER_ASSIGN(const int64_t entries, EntriesOf(budget));
    LARDER_ASSIGN(auto pass, RunWindows(windows, text, entries));
    passes.push_back(std::move(pass));
  }
  if (fits) {  // the last one: its bytes are the most
    LARDER_ASSIGN(auto pass, RunFull(windows, text));
    passes.push_back(std::move(pass));
  }
  result.lines = SummariseStream(std::move(passes), copies);
  result.first = result.lines.front().pass.first;
  if (!json.empty()) return WriteText(json, StreamJson(result));
  PrintTable(result);
  return {};
}

}  // namespace larder
