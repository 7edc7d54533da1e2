// larder bench serve: what a client sees over HTTP, beside the engine without the server and the model
// without the engine, in the same interleaved run. One process: server, engine and client threads share its
// cores, as they do on a machine that does nothing else.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "compute/ops.h"
#include "engine/engine.h"
#include "larder/bench_figures.h"
#include "larder/session.h"
#include "larder/stream_client.h"
#include "larder/terminal.h"
#include "serve/engine_backend.h"
#include "serve/server.h"

namespace larder {
namespace {

using Prompts = std::vector<std::vector<int32_t>>;

// The same work, asked of a layer: greedy tokens for all prompts at once.
class Layer {
 public:
  virtual ~Layer() = default;
  virtual std::string name() const = 0;
  virtual Result<std::vector<StreamTimes>> Run(const Prompts& prompts, int64_t tokens) = 0;
};

// The model and a cache, step by step: what the layers above are compared with.
class ModelLayer final : public Layer {
 public:
  ModelLayer(Model& model, std::unique_ptr<Session> session) : model_(model), session_(std::move(session)) {}
  std::string name() const override { return "model"; }

  Result<std::vector<StreamTimes>> Run(const Prompts& prompts, int64_t tokens) override {
    const auto vocabulary = static_cast<size_t>(model_.spec().vocabulary);
    const auto width = static_cast<size_t>(model_.spec().width);
    const size_t n = prompts.size();
    hidden_.resize(n * width);
    logits_.resize(n * vocabulary);
    std::vector<std::unique_ptr<KvSequence>> sequences;
    std::vector<KvSequence*> pointers;
    std::vector<int32_t> last(n);
    std::vector<StreamTimes> times(n);
    const Stopwatch watch;
    for (size_t s = 0; s < n; ++s) {
      LARDER_ASSIGN(auto sequence, session_->Open());
      LARDER_TRY(session_->Append(*sequence, prompts[s], static_cast<int64_t>(prompts[s].size()) - 1,
                                  [&](int64_t, int, const float* hidden) {
                                    model_.Logits(hidden, 1, logits_.data());
                                    last[s] = Best(0);
                                  }));
      times[s].tokens.push_back(watch.WallSeconds());
      pointers.push_back(sequence.get());
      sequences.push_back(std::move(sequence));
    }
    for (int64_t i = 1; i < tokens; ++i) {
      LARDER_TRY(session_->Step(pointers, last, hidden_.data()));
      model_.Logits(hidden_.data(), static_cast<int>(n), logits_.data());
      for (size_t s = 0; s < n; ++s) {
        last[s] = Best(s);
        times[s].tokens.push_back(watch.WallSeconds());
      }
    }
    for (auto& sequence : sequences) session_->Close(std::move(sequence));
    return times;
  }

 private:
  int32_t Best(size_t s) const {
    const auto vocabulary = static_cast<size_t>(model_.spec().vocabulary);
    const float* row = logits_.data() + s * vocabulary;
    return static_cast<int32_t>(ArgMax(row, static_cast<int64_t>(vocabulary)));
  }

  Model& model_;
  std::unique_ptr<Session> session_;
  std::vector<float> hidden_, logits_;
};

class EngineLayer final : public Layer {
 public:
  explicit EngineLayer(Engine& engine) : engine_(engine) {}
  std::string name() const override { return "engine"; }

  Result<std::vector<StreamTimes>> Run(const Prompts& prompts, int64_t tokens) override {
    std::vector<std::shared_ptr<Sink>> sinks;
    const auto shared = std::make_shared<Shared>();
    shared->open = prompts.size();
    for (const auto& prompt : prompts) {
      Request request;
      request.prompt = prompt;
      request.max_tokens = tokens;
      request.sampling.temperature = 0;
      request.ignore_eos = true;
      sinks.push_back(std::make_shared<Sink>(shared));
      LARDER_TRY(engine_.Submit(std::move(request), sinks.back()));
    }
    std::unique_lock lock(shared->mutex);
    shared->done.wait(lock, [&] { return shared->open == 0; });
    std::vector<StreamTimes> out;
    for (const auto& sink : sinks) {
      if (!sink->error.empty()) return Fail(ErrorKind::kUnavailable, "{}", sink->error);
      out.push_back({std::move(sink->times)});
    }
    return out;
  }

 private:
  struct Shared {
    Stopwatch watch;
    std::mutex mutex;
    std::condition_variable done;
    size_t open = 0;  // guarded by mutex
  };
  struct Sink final : RequestSink {
    explicit Sink(std::shared_ptr<Shared> s) : shared(std::move(s)) {}
    void OnPromptLogprobs(std::vector<TokenOutput>) override {}
    void OnToken(TokenOutput) override { times.push_back(shared->watch.WallSeconds()); }
    void OnChoiceEnd(ChoiceEnd) override {}
    void OnFinish(const Usage&, const CacheReport&) override { End(); }
    void OnError(const Error& e) override {
      error = e.message;
      End();
    }
    void End() {
      const std::lock_guard lock(shared->mutex);
      if (--shared->open == 0) shared->done.notify_one();
    }
    std::shared_ptr<Shared> shared;
    std::vector<double> times;
    std::string error;
  };
  Engine& engine_;
};

class HttpLayer final : public Layer {
 public:
  HttpLayer(std::unique_ptr<StreamClient> client, std::string model)
      : client_(std::move(client)), model_(std::move(model)) {}
  std::string name() const override { return "http"; }
  Result<std::vector<StreamTimes>> Run(const Prompts& prompts, int64_t tokens) override {
    return client_->Run(model_, prompts, tokens);
  }

 private:
  std::unique_ptr<StreamClient> client_;
  std::string model_;
};

// Tokens a second while all streams were generating.
double StreamRate(const std::vector<StreamTimes>& streams) {
  double begin = 0, end = streams[0].tokens.back();
  for (const StreamTimes& s : streams) {
    begin = std::max(begin, s.tokens.front());
    end = std::min(end, s.tokens.back());
  }
  int64_t tokens = 0;
  for (const StreamTimes& s : streams)
    tokens += std::ranges::count_if(s.tokens, [&](double t) { return t > begin && t <= end; });
  return end > begin ? static_cast<double>(tokens) / (end - begin) : 0;
}

double MeanFirst(const std::vector<StreamTimes>& streams) {
  double sum = 0;
  for (const StreamTimes& s : streams) sum += s.tokens.front();
  return sum / static_cast<double>(streams.size());
}

struct Point {
  int64_t length, streams;
};

// All rounds of one layer at one point.
struct Samples {
  explicit Samples(int threads) : time(threads) {}
  TimedWork time;
  std::vector<double> first_ms, rates;
};

class ServeBench {
 public:
  ServeBench(const BenchSettings& settings, const Model& model, std::vector<Layer*> layers)
      : settings_(settings), model_(model), layers_(std::move(layers)) {}

  Status Measure(const std::vector<Point>& points, int threads, FigureReport& report) {
    std::vector<Samples> samples(points.size() * layers_.size(), Samples(threads));
    ProgressBar bar("measuring");
    for (int64_t round = 0; round <= settings_.rounds; ++round) {
      bar.Update(static_cast<double>(round) / static_cast<double>(settings_.rounds + 1));
      for (size_t i = 0; i < samples.size(); ++i)
        LARDER_TRY(Sample(points[i / layers_.size()], *layers_[i % layers_.size()], round > 0, samples[i]));
    }
    bar.Clear();
    for (size_t i = 0; i < samples.size(); ++i) AddRow(points[i / layers_.size()], i, samples, report);
    return {};
  }

 private:
  // Each run has prompts that were never seen.
  Status Sample(const Point& point, Layer& layer, bool keep, Samples& to) {
    Prompts prompts;
    for (int64_t s = 0; s < point.streams; ++s)
      prompts.push_back(FillerTokens(point.length, model_.tokenizer().size(), next_seed_++));
    Result<std::vector<StreamTimes>> times = std::vector<StreamTimes>();
    AddTimed(to.time, keep, [&] { times = layer.Run(prompts, settings_.tokens); });
    if (!times) return std::unexpected(times.error());
    if (!keep) return {};
    to.first_ms.push_back(MeanFirst(*times) * 1e3);
    to.rates.push_back(StreamRate(*times));
    return {};
  }

  void AddRow(const Point& point, size_t i, const std::vector<Samples>& samples, FigureReport& report) const {
    const size_t layer = i % layers_.size();
    const Samples& own = samples[i];
    const Samples& model = samples[i - layer];
    const double rate = SpreadOf(own.rates).median / SpreadOf(model.rates).median;
    const double first = SpreadOf(own.first_ms).median / SpreadOf(model.first_ms).median;
    report.rows.push_back(
        {.labels = {{"streams", std::to_string(point.streams)},
                    {"length", std::to_string(point.length)},
                    {"layer", layers_[layer]->name()}},
         .values = {SpreadValue("first_token_ms", own.first_ms), SpreadValue("tokens_per_s", own.rates),
                    SingleValue("first_to_model", first, 3), SingleValue("rate_to_model", rate, 3)},
         .warning = own.time.busy.Warning()});
  }

  const BenchSettings& settings_;
  const Model& model_;
  std::vector<Layer*> layers_;
  uint64_t next_seed_ = 1;
};

}  // namespace

Status BenchServe(const BenchSettings& settings) {
  SetLogLevel(LogLevel::kError);
  LARDER_ASSIGN(auto owned, settings.flags.Load());
  Model& model = *owned;  // the engine's; it rests while the model is measured alone
  const int64_t streams = settings.sequences > 0 ? settings.sequences : 16;
  LARDER_ASSIGN(const auto lengths, settings.Lengths("32,512", model.spec().context, settings.tokens + 1));
  std::vector<Point> points;
  for (const int64_t length : lengths)
    for (const int64_t together : {int64_t{1}, streams}) points.push_back({length, together});
  const int64_t rows = *std::ranges::max_element(lengths) + settings.tokens + 1;

  FigureReport report = BeginReport("serve", model, settings);
  report.threads = model.pool().threads();
  report.note =
      "model: steps of the model alone; engine: through the scheduler; http: through the server. "
      "first_token_ms: "
      "mean over the streams;\ntokens_per_s: of all streams together while all generate; *_to_model: to the "
      "first "
      "line of the same point";
  LARDER_ASSIGN(auto session, Session::Create(model, rows, streams));
  ModelLayer model_layer(model, std::move(session));
  EngineOptions options;
  options.cache.limit_bytes = KvLimitOrDefault(0);
  SystemClock clock;
  LARDER_ASSIGN(const auto engine, Engine::Create(std::move(owned), options, &clock));
  EngineLayer engine_layer(*engine);
  LARDER_ASSIGN(const auto backend, EngineBackend::Create(engine.get(), ""));
  ServeOptions serve;
  serve.port = 0;
  LARDER_ASSIGN(const auto server, Server::Create(backend.get(), serve));
  std::jthread serving([&server] { server->Run(); });
  Status status = [&]() -> Status {
    LARDER_ASSIGN(auto client, StreamClient::Connect(server->port(), streams));
    HttpLayer http_layer(std::move(client), backend->model_id());
    return ServeBench(settings, model, {&model_layer, &engine_layer, &http_layer})
        .Measure(points, report.threads, report);
  }();
  server->Stop();
  serving.join();
  LARDER_TRY(status);
  report.Print(settings.json);
  return {};
}

}  // namespace larder
