// larder bench schedule: what a step costs besides the model, with many sequences running and many waiting.
#include <algorithm>

#include "engine/core.h"
#include "larder/bench_figures.h"
#include "larder/session.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr int64_t kRunning = 64, kWaiting = 256;

struct SilentSink final : RequestSink {
  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput) override {}
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport&) override {}
  void OnError(const Error&) override {}
};

// Steps of one kind.
struct Steps {
  explicit Steps(int threads) : busy(threads) {}
  std::vector<double> plan_us, rest_us, model_ms;
  BusyWatch busy;
};

class ScheduleBench {
 public:
  ScheduleBench(Model& model, int64_t length) : model_(model), length_(length) {}

  // Prompts that share nothing, or all but their last token. Steps while all wait for the first prefix are
  // left out of "steady" and are what "shared" is about.
  Status Run(bool shared, int64_t steps, Steps& steady, Steps& admitting) {
    EngineOptions options;
    options.max_running = kRunning;
    options.cache.limit_bytes = KvLimitOrDefault(0);
    LARDER_ASSIGN(const auto core, EngineCore::Create(&model_, options, &clock_));
    const auto sink = std::make_shared<SilentSink>();
    for (int64_t i = 0; i < kRunning + kWaiting; ++i)
      core->Add(static_cast<uint64_t>(i) + 1, RequestOf(i, shared, steps), sink);
    // Until all that may run do: these steps admit and prefill.
    while (core->Stats().running < kRunning) LARDER_TRY(Step(*core, admitting));
    LARDER_TRY(Step(*core, admitting));
    for (int64_t i = 0; i < steps; ++i) {
      const uint64_t ended = core->Stats().requests_finished;
      LARDER_TRY(Step(
          *core, ended == ended_ ? steady : admitting));  // who ended in the last step is replaced in this
      ended_ = ended;
    }
    return {};
  }

 private:
  Request RequestOf(int64_t i, bool shared, int64_t steps) const {
    Request request;
    request.prompt =
        FillerTokens(length_, model_.tokenizer().size(), shared ? 1 : static_cast<uint64_t>(i) + 1);
    request.prompt.back() = static_cast<int32_t>(i % model_.tokenizer().size());
    // Every eighth ends early, so that there are steps that admit.
    request.max_tokens = i % 8 == 0 ? 2 + i % 64 : 4 * steps + length_;
    request.max_tokens = std::min(request.max_tokens, model_.spec().context - length_);
    request.sampling.temperature = 0;
    request.ignore_eos = true;
    return request;
  }

  Status Step(EngineCore& core, Steps& to) {
    const double busy = SystemBusySeconds();
    const Stopwatch watch;
    if (!core.Step()) return Fail(ErrorKind::kExhausted, "the cache is too small for {} sequences", kRunning);
    const double wall = watch.WallSeconds(), cpu = watch.CpuSeconds();
    const EngineStats stats = core.Stats();
    to.plan_us.push_back(stats.scheduling_us_last);
    to.model_ms.push_back(stats.model_us_last * 1e-3);
    to.rest_us.push_back(wall * 1e6 - stats.scheduling_us_last - stats.model_us_last);
    to.busy.Add(wall, cpu, SystemBusySeconds() - busy);
    return {};
  }

  Model& model_;
  SystemClock clock_;
  const int64_t length_;
  uint64_t ended_ = 0;
};

}  // namespace

Status BenchSchedule(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("32,512", model->spec().context, 8 * settings.tokens));
  FigureReport report = BeginReport("schedule", *model, settings);
  report.threads = model->pool().threads();
  report.rounds = settings.rounds;
  report.note = fmt::format(
      "{} sequences run, {} wait. steady: a token for each of them; admitting: steps that take in and "
      "prefill new "
      "ones.\nplan_us: choosing rows and reserving memory; rest_us: sampling, publishing and handing out "
      "tokens",
      kRunning, kWaiting);
  ProgressBar bar("measuring");
  for (const int64_t length : lengths) {
    for (const bool shared : {false, true}) {
      Steps steady(report.threads), admitting(report.threads);
      for (int64_t round = 0; round < settings.rounds; ++round) {
        bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds));
        ScheduleBench bench(*model, length);
        LARDER_TRY(bench.Run(shared, settings.tokens, steady, admitting));
      }
      const auto add = [&](const char* kind, const Steps& steps) {
        if (steps.plan_us.empty()) return;
        report.rows.push_back(
            {.labels = {{"prompts", shared ? "shared" : "distinct"},
                        {"length", std::to_string(length)},
                        {"steps", kind}},
             .values = {SpreadValue("plan_us", steps.plan_us), SpreadValue("rest_us", steps.rest_us),
                        SpreadValue("model_ms", steps.model_ms)},
             .warning = steps.busy.Warning()});
      };
      add("steady", steady);
      add("admitting", admitting);
    }
  }
  bar.Clear();
  report.Print(settings.json);
  return {};
}

}  // namespace larder
