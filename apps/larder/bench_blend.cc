// larder bench blend: the first token of a prompt made of stored chunks, by how fast the tier is that has
// them. Reading and computing overlap, so it should come after the longer of the two, not after both.
#include <algorithm>

#include "larder/bench_figures.h"
#include "larder/bench_stepped.h"
#include "larder/session.h"
#include "larder/terminal.h"
#include "larder/throttled_tier.h"

namespace larder {
namespace {

constexpr int64_t kChunks = 8, kTail = 46;
constexpr double kRates[] = {20e6, 45e6, 100e6};  // bytes a second

class BlendBench {
 public:
  static Result<std::unique_ptr<BlendBench>> Create(Model& model, int64_t chunk_tokens) {
    std::unique_ptr<BlendBench> bench(new BlendBench(model, chunk_tokens));
    EngineOptions options;
    options.cache.limit_bytes = KvLimitOrDefault(0);
    options.tiers = {&bench->tier_};
    LARDER_ASSIGN(bench->engine_, SteppedEngine::Create(model, options));
    LARDER_TRY(bench->Store());
    return bench;
  }

  int64_t prompt_tokens() const { return std::ssize(prompt_); }
  double chunk_bytes() const { return static_cast<double>(kChunks) * static_cast<double>(bytes_); }

  // Seconds to the first token. The chunks lie in the tier alone, or in memory (rate 0).
  Result<double> FirstToken(const std::string& reuse, double rate) {
    tier_.SetRate(rate);
    engine_->ForgetMemory();
    while (rate > 0 && engine_->core().derived().DropOldest()) {
    }
    Request request = RequestOf(prompt_, reuse);
    request.read_cache = reuse != "prefix";
    LARDER_ASSIGN(const SteppedAnswer answer, engine_->Run(std::move(request)));
    if (reuse != "prefix" && answer.report.blend.covered < kChunks * chunk_tokens_)
      return Fail(ErrorKind::kUnavailable, "chunks were not found; give the cache more memory");
    return answer.first_s;
  }

 private:
  BlendBench(Model& model, int64_t chunk_tokens) : model_(model), chunk_tokens_(chunk_tokens) {}

  static Request RequestOf(std::vector<int32_t> prompt, const std::string& reuse) {
    Request request = SteppedEngine::RequestOf(std::move(prompt), 1);
    request.reuse = reuse;
    return request;
  }

  Status Store() {
    const Tokenizer& tokenizer = model_.tokenizer();
    prompt_ = {tokenizer.bos() != kNoToken ? tokenizer.bos() : 0};
    const std::vector<int32_t> prefix = prompt_;
    for (int64_t i = 0; i <= kChunks; ++i) {
      const std::vector<int32_t> text =
          FillerTokens(i < kChunks ? chunk_tokens_ : kTail, tokenizer.size(), static_cast<uint64_t>(i) + 1);
      prompt_.insert(prompt_.end(), text.begin(), text.end());
      if (i == kChunks) break;
      std::vector<int32_t> alone = prefix;
      alone.insert(alone.end(), text.begin(), text.end());
      Request store = RequestOf(std::move(alone), "prefix");
      store.chunk_from = std::ssize(prefix);
      store.max_tokens = 0;
      LARDER_TRY(engine_->Run(std::move(store)));
    }
    bytes_ = engine_->core().chunks().BytesFor(chunk_tokens_);
    tier_.Flush();
    engine_->core().Step();  // it takes notice
    return {};
  }

  Model& model_;
  const int64_t chunk_tokens_;
  uint64_t bytes_ = 0;  // of a chunk
  ThrottledTier tier_;
  std::unique_ptr<SteppedEngine> engine_;  // goes before the tier
  std::vector<int32_t> prompt_;
};

struct Line {
  std::string name, reuse;
  double rate;
  TimedWork time;
  std::vector<double> first_ms = {};
};

void AddRow(const Line& line, const std::vector<Line>& lines, double bytes, FigureReport& report) {
  const auto median = [](const Line& of) { return SpreadOf(of.first_ms).median; };
  const double memory = median(lines[1]), load = line.rate > 0 ? bytes / line.rate * 1e3 : 0;
  report.rows.push_back(
      {.labels = {{"chunks", line.name}},
       .values = {SingleValue("read_ms", load, 0), SpreadValue("first_token_ms", line.first_ms, 0),
                  SingleValue("to_longer", line.rate > 0 ? median(line) / std::max(load, memory) : 1, 3),
                  SingleValue("to_sum", line.rate > 0 ? median(line) / (load + memory) : 1, 3),
                  SingleValue("faster", median(lines[0]) / median(line), 2)},
       .warning = line.time.busy.Warning()});
}

}  // namespace

Status BenchBlend(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("256", model->spec().context / kChunks, kTail));
  if (lengths.size() != 1)
    return Fail(ErrorKind::kInvalid, "bench blend takes one length, that of a chunk; give --lengths 256");
  LARDER_ASSIGN(const auto bench, BlendBench::Create(*model, lengths[0]));
  FigureReport report = BeginReport("blend", *model, settings);
  report.threads = model->pool().threads();
  report.note = fmt::format(
      "a prompt of {} tokens, {} chunks of {} in it, ratio 0.15; read_ms: their bytes at the tier's rate; "
      "to_longer:\nfirst token to the longer of reading and blending from memory; to_sum: to both one after "
      "the other; faster: than full prefill",
      bench->prompt_tokens(), kChunks, lengths[0]);
  std::vector<Line> lines;
  lines.push_back({"computed", "prefix", 0, TimedWork(report.threads)});
  lines.push_back({"in memory", "blend:ratio=0.15", 0, TimedWork(report.threads)});
  for (const double rate : kRates)
    lines.push_back(
        {fmt::format("at {:.0f} MB/s", rate / 1e6), "blend:ratio=0.15", rate, TimedWork(report.threads)});
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    for (Line& line : lines) {
      Result<double> seconds = 0.0;
      AddTimed(line.time, round > 0, [&] { seconds = bench->FirstToken(line.reuse, line.rate); });
      if (!seconds) return std::unexpected(seconds.error());
      if (round > 0) line.first_ms.push_back(*seconds * 1e3);
    }
    bar.Update(static_cast<double>(round + 1) / static_cast<double>(settings.rounds + 1));
  }
  bar.Clear();
  for (const Line& line : lines) AddRow(line, lines, bench->chunk_bytes(), report);
  report.Print(settings.json);
  return {};
}

}  // namespace larder
