// Larder in a benchmark: the model and the cache, without server and scheduler.
#include <algorithm>
#include <map>

#include "compute/ops.h"
#include "larder/bench_engine.h"

namespace larder {
namespace {

class LarderEngine final : public BenchEngine {
 public:
  LarderEngine(Model& model, std::string name) : model_(model), name_(std::move(name)) {}

  Status Init(std::span<const BenchPoint> points) {
    // All sequences stand at once; each of them may be as long as the longest.
    int64_t rows = 1, sequences = 0;
    for (const BenchPoint& point : points) {
      const int64_t needed = point.decode ? point.length + point.tokens + 1 : point.length;
      if (needed > model_.spec().context)
        return Fail(ErrorKind::kInvalid, "{} tokens are past the model's context of {}", needed,
                    model_.spec().context);
      rows = std::max(rows, needed);
      sequences += point.decode ? 2 * point.sequences : 0;
    }
    LARDER_ASSIGN(session_, Session::Create(model_, rows, std::max<int64_t>(sequences, 1)));
    return {};
  }

  ~LarderEngine() override {
    for (auto& [key, standing] : standing_)
      for (auto& sequence : standing.sequences) session_->Close(std::move(sequence));
  }

  std::string name() const override { return name_; }

  Result<BenchSample> Run(const BenchPoint& point) override {
    return point.decode ? Decode(point) : Prefill(point);
  }

 private:
  // Sequences that stand at the same length and are forked for every measurement, so that the prefill is paid
  // once.
  struct Standing {
    std::vector<std::unique_ptr<KvSequence>> sequences;
    std::vector<int32_t> last;
  };

  struct Counters {
    Stopwatch watch;
    double busy = SystemBusySeconds();
    uint64_t pages;
  };
  Counters Begin() const { return {.pages = model_.attention_pages_read()}; }
  BenchSample End(const Counters& begin, int64_t passes) const {
    BenchSample sample;
    sample.seconds = begin.watch.WallSeconds();
    sample.cpu_seconds = begin.watch.CpuSeconds();
    sample.busy_seconds = SystemBusySeconds() - begin.busy;
    sample.bytes = static_cast<double>(passes) * static_cast<double>(model_.weight_bytes()) +
                   static_cast<double>(model_.attention_pages_read() - begin.pages) *
                       static_cast<double>(model_.kv_shape().page_bytes(model_.kv_shape().FullForm(1)));
    return sample;
  }

  // A prompt, cold, up to the logits of its last token.
  Result<BenchSample> Prefill(const BenchPoint& point) {
    const std::vector<int32_t> tokens = FillerTokens(point.length, model_.spec().vocabulary, 1);
    std::vector<float> logits(static_cast<size_t>(model_.spec().vocabulary));
    LARDER_ASSIGN(auto sequence, session_->Open());
    const Counters begin = Begin();
    LARDER_TRY(session_->Append(
        *sequence, tokens, point.length - 1,
        [&](int64_t, int rows, const float* hidden) { model_.Logits(hidden, rows, logits.data()); }));
    BenchSample sample = End(begin, (point.length + Session::kChunkRows - 1) / Session::kChunkRows);
    session_->Close(std::move(sequence));
    return sample;
  }

  Result<const Standing*> Stand(const BenchPoint& point) {
    Standing& standing = standing_[{point.length, point.sequences}];
    while (static_cast<int64_t>(standing.sequences.size()) < point.sequences) {
      const auto seed = static_cast<uint64_t>(standing.sequences.size()) + 1;
      const auto tokens = FillerTokens(point.length, model_.spec().vocabulary, seed);
      LARDER_ASSIGN(auto sequence, session_->Open());
      LARDER_TRY(session_->Append(*sequence, tokens, point.length, nullptr));
      standing.sequences.push_back(std::move(sequence));
      standing.last.push_back(tokens.back());
    }
    return &standing;
  }

  Result<BenchSample> Decode(const BenchPoint& point) {
    LARDER_ASSIGN(const Standing* standing, Stand(point));
    std::vector<std::unique_ptr<KvSequence>> forks;
    std::vector<KvSequence*> pointers;
    for (const auto& sequence : standing->sequences) {
      LARDER_ASSIGN(auto fork, session_->Fork(*sequence));
      pointers.push_back(fork.get());
      forks.push_back(std::move(fork));
    }
    std::vector<int32_t> tokens = standing->last;
    hidden_.resize(forks.size() * static_cast<size_t>(model_.spec().width));
    logits_.resize(forks.size() * static_cast<size_t>(model_.spec().vocabulary));
    LARDER_TRY(Step(pointers, tokens));  // pays for copied rows; not measured
    const Counters begin = Begin();
    for (int64_t i = 0; i < point.tokens; ++i) LARDER_TRY(Step(pointers, tokens));
    BenchSample sample = End(begin, point.tokens);
    for (auto& fork : forks) session_->cache().Close(std::move(fork));
    return sample;
  }

  Status Step(std::span<KvSequence* const> sequences, std::vector<int32_t>& tokens) {
    LARDER_TRY(session_->Step(sequences, tokens, hidden_.data()));
    model_.Logits(hidden_.data(), static_cast<int>(sequences.size()), logits_.data());
    const auto vocabulary = static_cast<size_t>(model_.spec().vocabulary);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const float* row = logits_.data() + s * vocabulary;
      tokens[s] = static_cast<int32_t>(ArgMax(row, static_cast<int64_t>(vocabulary)));
    }
    return {};
  }

  Model& model_;
  const std::string name_;
  std::unique_ptr<Session> session_;
  std::map<std::pair<int64_t, int64_t>, Standing> standing_;  // (length, sequences)
  std::vector<float> hidden_, logits_;
};

}  // namespace

Result<std::unique_ptr<BenchEngine>> CreateLarderEngine(Model& model, std::string name,
                                                        std::span<const BenchPoint> points) {
  auto engine = std::make_unique<LarderEngine>(model, std::move(name));
  LARDER_TRY(engine->Init(points));
  return engine;
}

double PointMacs(const ModelSpec& spec, const BenchPoint& point) {
  const ModelWork work = ModelWork::Of(spec);
  double macs = 0;
  if (!point.decode) {
    macs = static_cast<double>(point.length) * work.layer_macs + work.head_macs;
    for (int64_t position = 0; position < point.length; ++position) macs += AttentionMacs(spec, position + 1);
    return macs;
  }
  for (int64_t i = 0; i < point.tokens; ++i)
    macs += work.layer_macs + work.head_macs + AttentionMacs(spec, point.length + i + 2);
  return macs * static_cast<double>(point.sequences);
}

}  // namespace larder
