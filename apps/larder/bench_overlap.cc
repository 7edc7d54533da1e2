// larder bench overlap: the first token of a prompt whose beginning lies in a tier below memory and whose end
// is new. The new rows are computed layer by layer while later layers of the old ones are still being read,
// so it should come after the longer of reading and computing, not after both. How near that comes depends on
// how many layers are read together.
#include <algorithm>

#include "base/params.h"
#include "larder/bench_figures.h"
#include "larder/bench_stepped.h"
#include "larder/session.h"
#include "larder/terminal.h"
#include "larder/throttled_tier.h"

namespace larder {
namespace {

constexpr int64_t kNewRows[] = {512, 1024};  // as many as the engine computes in a step, and two steps
constexpr int kTries = 3;                    // that tell how long computing takes

// How long reading takes, to computing.
struct Pace {
  const char* name;
  double to_computing;  // 0: nothing is read
};
constexpr Pace kPaces[] = {{"nothing", 0}, {"half as long", 0.5}, {"as long", 1}, {"twice as long", 2}};

// Layers that are read together: of at least so many bytes a block.
struct Grouping {
  std::string name;
  uint64_t bytes;
};
std::vector<Grouping> Groupings() {
  const uint64_t stored = EngineOptions().tier_group_bytes;
  return {{"all layers", uint64_t{1} << 30}, {FormatSize(stored), stored}, {"each layer", 1}};
}

// A prompt's beginning in a tier, and an engine above it.
class StoredPrefix {
 public:
  static Result<std::unique_ptr<StoredPrefix>> Create(Model& model, int64_t length, uint64_t group_bytes) {
    std::unique_ptr<StoredPrefix> prefix(new StoredPrefix(model.tokenizer().size(), length));
    EngineOptions options;
    options.cache.limit_bytes = KvLimitOrDefault(0);
    options.tiers = {&prefix->tier_};
    options.always_restore = true;  // also where computing would be faster
    options.tier_group_bytes = group_bytes;
    LARDER_ASSIGN(prefix->engine_, SteppedEngine::Create(model, options));
    LARDER_TRY(prefix->engine_->Run(SteppedEngine::RequestOf(prefix->tokens_, 1)));
    prefix->engine_->core().cache().FlushTiers();
    uint64_t cursor = 0;
    for (const RecordHeader& header : prefix->tier_.List(cursor, SIZE_MAX, nullptr))
      prefix->bytes_ += header.payload_bytes();
    prefix->tier_.SetFull(true);  // what comes behind it is new every time
    return prefix;
  }

  double bytes() const { return static_cast<double>(bytes_); }

  // Seconds to the first token with so many new rows behind it, read at so many bytes a second; 0: it is in
  // memory.
  Result<double> FirstToken(int64_t new_rows, double rate) {
    tier_.SetRate(rate);
    if (rate > 0) {
      engine_->core().cache().FlushTiers();
      engine_->ForgetMemory();
    } else {
      LARDER_TRY(engine_->Run(SteppedEngine::RequestOf(tokens_, 1)));
    }
    std::vector<int32_t> prompt = tokens_;
    const std::vector<int32_t> fresh = FillerTokens(new_rows, vocabulary_, ++last_seed_);
    prompt.insert(prompt.end(), fresh.begin(), fresh.end());
    LARDER_ASSIGN(const SteppedAnswer answer, engine_->Run(SteppedEngine::RequestOf(std::move(prompt), 1)));
    const int64_t rows = rate > 0 ? answer.rows_from_tiers() : answer.report.read_memory;
    if (rows < std::ssize(tokens_))
      return Fail(ErrorKind::kIo, "only {} of {} rows came from {}", rows, tokens_.size(),
                  rate > 0 ? "the tier" : "memory; give the cache more of it");
    return answer.first_s;
  }

 private:
  StoredPrefix(int64_t vocabulary, int64_t length)
      : vocabulary_(vocabulary), tokens_(FillerTokens(length, vocabulary, 1)) {}

  const int64_t vocabulary_;
  const std::vector<int32_t> tokens_;
  uint64_t bytes_ = 0, last_seed_ = 1;
  ThrottledTier tier_;
  std::unique_ptr<SteppedEngine> engine_;  // goes before the tier
};

struct Line {
  int64_t new_rows;
  Pace pace;
  Grouping grouping;
  StoredPrefix* prefix;
  double rate;  // bytes a second
  TimedWork time;
  std::vector<double> first_ms = {};

  double median() const { return SpreadOf(first_ms).median; }
};

class OverlapBench {
 public:
  OverlapBench(Model& model, const BenchSettings& settings) : model_(model), settings_(settings) {}

  Status Prepare(int64_t length) {
    const std::vector<Grouping> groupings = Groupings();
    for (const Grouping& grouping : groupings) {
      LARDER_ASSIGN(auto prefix, StoredPrefix::Create(model_, length, grouping.bytes));
      prefixes_.push_back(std::move(prefix));
    }
    const int threads = model_.pool().threads();
    for (const int64_t rows : kNewRows) {
      if (length + rows >= model_.spec().context) continue;
      LARDER_ASSIGN(const double seconds, SecondsToCompute(rows));
      for (const Pace& pace : kPaces) {
        for (size_t g = 0; g < groupings.size(); ++g) {
          if (pace.to_computing == 0 && g > 0) continue;
          const double read_s = pace.to_computing * seconds;
          lines_.push_back({.new_rows = rows,
                            .pace = pace,
                            .grouping = groupings[g],
                            .prefix = prefixes_[g].get(),
                            .rate = read_s > 0 ? prefixes_[g]->bytes() / read_s : 0,
                            .time = TimedWork(threads)});
        }
      }
    }
    if (lines_.empty())
      return Fail(ErrorKind::kInvalid, "{} stored and {} new rows exceed the context of {}; give --lengths",
                  length, kNewRows[0], model_.spec().context);
    return {};
  }

  Status Measure() {
    ProgressBar bar("measuring");
    for (int64_t round = 0; round <= settings_.rounds; ++round) {
      for (Line& line : lines_) {
        Result<double> seconds = 0.0;
        AddTimed(line.time, round > 0, [&] { seconds = line.prefix->FirstToken(line.new_rows, line.rate); });
        if (!seconds) return std::unexpected(seconds.error());
        if (round > 0) line.first_ms.push_back(*seconds * 1e3);
      }
      bar.Update(static_cast<double>(round + 1) / static_cast<double>(settings_.rounds + 1));
    }
    return {};
  }

  void AddRows(int64_t length, FigureReport& report) const {
    const auto layers = static_cast<double>(model_.spec().layers.size());
    double computing = 0, together = 0;  // of the last line in memory; of the last one that reads all layers
    for (const Line& line : lines_) {
      const bool reads = line.rate > 0;
      if (!reads) computing = line.median();
      if (!reads || line.grouping.bytes == Groupings().front().bytes) together = line.median();
      const double read_ms = reads ? line.prefix->bytes() / line.rate * 1e3 : 0;
      report.rows.push_back(
          {.labels = {{"length", std::to_string(length)},
                      {"new_rows", std::to_string(line.new_rows)},
                      {"reading", line.pace.name},
                      {"groups_of", reads ? line.grouping.name : ""}},
           .values = {SingleValue("read_ms", read_ms, 0), SpreadValue("first_token_ms", line.first_ms, 0),
                      SingleValue("to_longer", line.median() / std::max(read_ms, computing), 3),
                      SingleValue("to_sum", line.median() / (read_ms + computing), 3),
                      SingleValue("sooner", together / line.median()),
                      SingleValue("stall_ms_per_layer", (line.median() - computing) / layers)},
           .warning = line.time.busy.Warning()});
    }
  }

 private:
  Result<double> SecondsToCompute(int64_t rows) {
    std::vector<double> seconds;
    for (int i = 0; i < kTries; ++i) {
      LARDER_ASSIGN(const double one, prefixes_.front()->FirstToken(rows, 0));
      seconds.push_back(one);
    }
    return SpreadOf(seconds).median;
  }

  Model& model_;
  const BenchSettings& settings_;
  std::vector<std::unique_ptr<StoredPrefix>> prefixes_;  // by grouping
  std::vector<Line> lines_;
};

}  // namespace

Status BenchOverlap(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  if (const size_t kinds = model->kv_shape().kinds().size(); kinds > 1)
    return Fail(
        ErrorKind::kUnsupported,
        "{} has layers of {} kinds, whose rows are all read before anything is computed; give a model "
        "whose layers are alike",
        model->name(), kinds);
  LARDER_ASSIGN(const auto lengths, settings.Lengths("2048", model->spec().context, kNewRows[0] + 1));
  FigureReport report = BeginReport("overlap", *model, settings);
  report.threads = model->pool().threads();
  report.note =
      "length: rows that lie in a tier; reading: how long they take, to computing the new rows; groups_of: "
      "how "
      "much of a\nblock of 64 tokens is read before it can be used. to_longer: first token to the longer of "
      "reading and computing;\nto_sum: to both one after the other; sooner: than with all layers together; "
      "stall: first token less computing";
  for (const int64_t length : lengths) {
    OverlapBench bench(*model, settings);
    LARDER_TRY(bench.Prepare(length));
    LARDER_TRY(bench.Measure());
    bench.AddRows(length, report);
  }
  report.Print(settings.json);
  return {};
}

}  // namespace larder
