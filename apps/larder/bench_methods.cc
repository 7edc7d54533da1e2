// larder bench decode --methods: what a decoded token takes behind a prompt, with the full cache and with
// what eviction methods have left of it. Everything goes on from where it was, round after round, so that the
// last rounds are those of a longer text: a bounded cache takes as long as at first.
#include <algorithm>
#include <memory>

#include "compute/ops.h"
#include "larder/arm.h"
#include "larder/bench_figures.h"
#include "larder/bench_rows.h"
#include "larder/method_run.h"
#include "larder/scoring.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr char kFull[] = "full";

// A prompt and what follows it, one token at a time, with one way to keep its cache.
class Decoder {
 public:
  Decoder(Model& model, std::vector<int32_t> prompt) : model_(model), tokens_(std::move(prompt)) {}
  virtual ~Decoder() = default;

  virtual Status Prompt() = 0;
  // The row of the last token, and the token that it chooses.
  virtual Status Step() = 0;
  virtual uint64_t bytes() const = 0;
  virtual int64_t entries() const = 0;  // of the longest lane
  virtual double method_seconds() const { return 0; }
  // One token's attention in all layers, over what is kept.
  virtual void Attend(DecodeAttention& attention) = 0;

 protected:
  Session::OnRows Choose() {
    return [this](int64_t, int, const float* hidden) {
      logits_.resize(static_cast<size_t>(model_.spec().vocabulary));
      model_.Logits(hidden, 1, logits_.data());
      tokens_.push_back(static_cast<int32_t>(ArgMax(logits_.data(), std::ssize(logits_))));
    };
  }
  Model& model_;
  std::vector<int32_t> tokens_;  // the last one's row is still to be computed

 private:
  std::vector<float> logits_;
};

class FullDecoder final : public Decoder {
 public:
  FullDecoder(Session& session, std::vector<int32_t> prompt)
      : Decoder(session.model(), std::move(prompt)), session_(session) {}
  ~FullDecoder() override {
    if (sequence_ != nullptr) session_.Close(std::move(sequence_));
  }

  Status Prompt() override {
    LARDER_ASSIGN(sequence_, session_.Open());
    return session_.Append(*sequence_, std::span(tokens_).first(tokens_.size() - 1), std::ssize(tokens_),
                           nullptr);
  }
  Status Step() override { return session_.Append(*sequence_, std::span(tokens_).last(1), 0, Choose()); }
  uint64_t bytes() const override { return session_.cache().Held(*sequence_).bytes; }
  int64_t entries() const override { return sequence_->length(); }
  void Attend(DecodeAttention& attention) override {
    const TileProvider* const one = sequence_.get();
    attention.Run({&one, 1}, sequence_->length());
  }

 private:
  Session& session_;
  std::unique_ptr<KvSequence> sequence_;
};

class MethodDecoder final : public Decoder {
 public:
  MethodDecoder(EvictResources& resources, std::unique_ptr<EvictMethod> method, std::vector<int32_t> prompt)
      : Decoder(resources.model, std::move(prompt)),
        run_(resources, std::move(method), std::ssize(tokens_) - 1) {}

  Status Prompt() override { return run_.Prompt(nullptr, tokens_); }
  Status Step() override { return run_.Append(tokens_, 0, Choose()); }
  uint64_t bytes() const override { return run_.driver().private_bytes(); }
  int64_t entries() const override { return run_.driver().LongestLane(); }
  double method_seconds() const override { return run_.method_seconds(); }
  void Attend(DecodeAttention& attention) override {
    EvictDriver& driver = run_.driver();
    const TileProvider* const one = driver.store();
    attention.Run({&one, 1}, driver.PositionOf(driver.rows()));
  }

 private:
  MethodRun run_;
};

// What was measured of one decoder.
struct Measured {
  explicit Measured(int threads) : decode(threads), attention(threads) {}
  std::string method;
  int64_t length = 0;
  std::unique_ptr<Decoder> decoder;
  double prompt_s = 0, prompt_method_s = 0;
  uint64_t prompt_bytes = 0;
  TimedWork decode, attention;  // of all tokens of a round
  double method_s = 0;          // of all rounds
  uint64_t pages = 0;           // likewise
};

class MethodsBench {
 public:
  MethodsBench(const BenchSettings& settings, Model& model) : settings_(settings), model_(model) {}

  Status Prepare();
  Status Measure();
  void Report() const;

 private:
  Status Add(const std::string& method, int64_t length);
  Status Round(Measured& one, bool keep);
  std::vector<FigureValue> ValuesOf(const Measured& one, const Measured& full) const;
  // Of a round.
  double Tokens() const { return static_cast<double>(settings_.tokens); }

  const BenchSettings& settings_;
  Model& model_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<EvictResources> resources_;
  std::vector<Measured> all_;  // length by length, the full cache first
};

Status MethodsBench::Prepare() {
  const int64_t behind = (settings_.rounds + 1) * settings_.tokens + 1;
  LARDER_ASSIGN(const auto lengths, settings_.Lengths("512,2048", model_.spec().context, behind));
  const auto methods = static_cast<int64_t>(Split(settings_.methods, ',').size());
  LARDER_ASSIGN(session_, Session::Create(model_, *std::ranges::max_element(lengths) + behind,
                                          std::ssize(lengths) * (methods + 1) + 1));
  resources_ = std::make_unique<EvictResources>(model_, session_->cache().MakePageSource());
  ProgressBar bar("reading prompts");
  for (const int64_t length : lengths) {
    LARDER_TRY(Add(kFull, length));
    for (const std::string& method : Split(settings_.methods, ',')) LARDER_TRY(Add(method, length));
    bar.Update(static_cast<double>(std::ssize(all_)) /
               static_cast<double>(std::ssize(lengths) * (methods + 1)));
  }
  bar.Clear();
  return {};
}

Status MethodsBench::Add(const std::string& method, int64_t length) {
  Measured one(model_.pool().threads());
  one.method = method;
  one.length = length;
  std::vector<int32_t> tokens = FillerTokens(length + 1, model_.spec().vocabulary, 1);
  if (method == kFull) {
    one.decoder = std::make_unique<FullDecoder>(*session_, std::move(tokens));
  } else {
    std::string spec = method;
    std::ranges::replace(spec, '+', ',');
    LARDER_ASSIGN(auto made, CreateEvictMethod(spec, EvictModelOf(model_)));
    one.decoder = std::make_unique<MethodDecoder>(*resources_, std::move(made), std::move(tokens));
  }
  const Stopwatch watch;
  LARDER_TRY(one.decoder->Prompt());
  one.prompt_s = watch.WallSeconds();
  one.prompt_method_s = one.decoder->method_seconds();
  one.prompt_bytes = one.decoder->bytes();
  all_.push_back(std::move(one));
  return {};
}

Status MethodsBench::Measure() {
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings_.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings_.rounds + 1));
    for (Measured& one : all_) LARDER_TRY(Round(one, round > 0));
  }
  bar.Clear();
  return {};
}

Status MethodsBench::Round(Measured& one, bool keep) {
  Status status;
  const double method_s = one.decoder->method_seconds();
  const uint64_t pages = model_.attention_pages_read();
  AddTimed(one.decode, keep, [&] {
    for (int64_t i = 0; i < settings_.tokens && status; ++i) status = one.decoder->Step();
  });
  LARDER_TRY(status);
  if (keep) {
    one.method_s += one.decoder->method_seconds() - method_s;
    one.pages += model_.attention_pages_read() - pages;
  }
  DecodeAttention attention(model_);
  one.decoder->Attend(attention);  // takes its scratch
  AddTimed(one.attention, keep, [&] {
    for (int64_t i = 0; i < settings_.tokens; ++i) one.decoder->Attend(attention);
  });
  return {};
}

// The median of the last third of the rounds over that of the first.
double LastOverFirst(const std::vector<double>& seconds) {
  const auto third = std::max<ptrdiff_t>(1, std::ssize(seconds) / 3);
  return SpreadOf({seconds.end() - third, seconds.end()}).median /
         SpreadOf({seconds.begin(), seconds.begin() + third}).median;
}

std::vector<FigureValue> MethodsBench::ValuesOf(const Measured& one, const Measured& full) const {
  const auto milliseconds = [&](const TimedWork& work) {
    std::vector<double> out = work.seconds;
    for (double& s : out) s *= 1e3 / Tokens();
    return out;
  };
  const double decode = one.decode.Median(), attention = one.attention.Median();
  const double decoded = Tokens() * static_cast<double>(settings_.rounds);
  const double total =
      MeanOf(one.decode.seconds).mean * static_cast<double>(settings_.rounds);  // as method_s is
  return {SpreadValue("ms_per_token", milliseconds(one.decode), 2),
          SingleValue("of_full", decode / full.decode.Median()),
          SingleValue("last_over_first", LastOverFirst(one.decode.seconds)),
          SpreadValue("attention_ms", milliseconds(one.attention), 3),
          SingleValue("attention_pct", 100 * attention / decode, 1),
          SingleValue("attention_x_less", full.attention.Median() / attention, 1),
          SingleValue("pages_per_token", static_cast<double>(one.pages) / decoded, 0),
          SingleValue("method_pct", 100 * one.method_s / total, 1),
          SingleValue("cache_mib", static_cast<double>(one.prompt_bytes) / (1 << 20), 2),
          SingleValue("cache_x_less",
                      static_cast<double>(full.prompt_bytes) / static_cast<double>(one.prompt_bytes), 1),
          SingleValue("entries", static_cast<double>(one.decoder->entries()), 0),
          SingleValue("prompt_ms", 1e3 * one.prompt_s, 0),
          SingleValue("prompt_of_full", one.prompt_s / full.prompt_s),
          SingleValue("prompt_method_pct", 100 * one.prompt_method_s / one.prompt_s, 1)};
}

void MethodsBench::Report() const {
  FigureReport report = BeginReport("decode", model_, settings_);
  report.threads = model_.pool().threads();
  report.note = fmt::format(
      "rounds of {} tokens, each behind those before; last_over_first: rounds, the last third over the "
      "first; "
      "attention: by itself, in all layers; method_pct, prompt_method_pct: of a step and of the prompt, what "
      "the method itself takes; cache: behind the prompt; entries: of the longest lane at the end; prompts "
      "once each",
      settings_.tokens);
  const Measured* full = nullptr;
  for (const Measured& one : all_) {
    if (one.method == kFull) full = &one;
    report.rows.push_back({.labels = {{"method", one.method}, {"length", std::to_string(one.length)}},
                           .values = ValuesOf(one, *full),
                           .warning = one.decode.busy.Warning()});
  }
  report.Print(settings_.json);
}

}  // namespace

Status BenchMethods(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  MethodsBench bench(settings, *model);
  LARDER_TRY(bench.Prepare());
  LARDER_TRY(bench.Measure());
  bench.Report();
  return {};
}

}  // namespace larder
