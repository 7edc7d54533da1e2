// larder serve: the engine behind the OpenAI API.
#include <fmt/core.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <future>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "engine/engine.h"
#include "kv/evict/method.h"
#include "kv/reuse/method.h"
#include "larder/command.h"
#include "larder/measure.h"
#include "larder/model_flags.h"
#include "larder/terminal.h"
#include "larder/tier_flags.h"
#include "serve/auth.h"
#include "serve/engine_backend.h"
#include "serve/server.h"
#include "store/evict/policy.h"

namespace larder {
namespace {

std::string PolicyNames() {
  std::string out;
  for (const SchedulePolicyEntry& entry : SchedulePolicies())
    out += fmt::format("{}{}", out.empty() ? "" : ", ", entry.name);
  return out;
}

LogLevel LevelOf(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "warn") return LogLevel::kWarn;
  return name == "error" ? LogLevel::kError : LogLevel::kInfo;
}

std::string Address(const ServeOptions& options, uint16_t port) {
  const bool v6 = options.host.find(':') != std::string::npos;
  return fmt::format("{}://{}{}{}:{}", options.tls_cert.empty() ? "http" : "https", v6 ? "[" : "",
                     options.host, v6 ? "]" : "", port);
}

class Serve final : public Command {
 public:
  void Declare(Params& params) override {
    flags_.Declare(params);
    DeclareServeOptions(params, serve_);
    params.String("chat-template", &chat_template_, "file with a Jinja template instead of the model's own");
    params.Int("context", &engine_.context, 0, int64_t{1} << 24,
               "longest prompt and answer in tokens; 0: the model's");
    params.Int("max-running", &engine_.max_running, 1, 4096,
               "sequences that are computed together; others wait");
    params.Int("max-waiting", &engine_.max_waiting, 1, 1'000'000,
               "requests that may wait; further ones get a 429");
    params.Size("kv-limit", &kv_limit_, 0, uint64_t{1} << 50,
                "memory for cached keys and values, tables included; 0: half of what is free after loading");
    tier_flags_.Declare(params);
    params.Bool("always-restore", &engine_.always_restore,
                "read stored blocks also where computing them again is estimated to be faster");
    params.String("policy", &engine_.policy, "scheduling, the first that decides wins: " + PolicyNames());
    params.String(
        "evict", &engine_.evict,
        "drop part of each request's cache: a method and its parameters, snapkv:budget=0.25; known: " +
            EvictMethodNames() + "; \"\": keep everything");
    params.String("reuse", &engine_.reuse,
                  "what stands in for computed rows: prefix (exact), or blend:ratio=0.15 (stored chunks, "
                  "approximate; larder methods blend)");
    params.String("evict-policy", &engine_.cache.policy,
                  "which cached blocks go first: " + EvictPolicyNames());
    params.Float("step-ms", &engine_.step_ms, 1, 60'000,
                 "a long prompt is cut so that a step stays below, while others generate");
    params.Int("drain-timeout", &drain_timeout_s_, 0, 86'400,
               "seconds that running requests get after SIGTERM");
    params.Choice("log-level", &log_level_, {"debug", "info", "warn", "error"},
                  "what goes to standard error");
  }

  Status Run(const std::string&) override {
    SetLogLevel(LevelOf(log_level_));
    SignalWatch signals({SIGINT, SIGTERM});
    // What is wrong with the options shows before a large model is loaded.
    LARDER_TRY(CheckServeOptions(serve_));
    LARDER_TRY(tier_flags_.Check());
    if (!serve_.api_keys.empty()) LARDER_TRY(ApiKeys::Load(serve_.api_keys));
    LARDER_TRY(CreateSchedulePolicies(engine_.policy));
    LARDER_TRY(CreateReuseMethod(engine_.reuse, {}));
    LARDER_TRY(CheckCombination(engine_.reuse, engine_.evict));
    serve_.reuse = engine_.reuse;
    LARDER_TRY(CreateEvictPolicy(engine_.cache.policy));
    const Stopwatch loading;
    LARDER_ASSIGN(auto model, flags_.Load());
    engine_.cache.limit_bytes = KvLimitOrDefault(kv_limit_);
    LogInfo("loaded {} in {:.0f} ms: weights {}{}, {} threads, cache up to {}", model->name(),
            loading.WallSeconds() * 1e3, FormatSize(model->weight_bytes()),
            model->packed_path().empty() ? "" : " mapped from " + model->packed_path(),
            model->pool().threads(), FormatSize(engine_.cache.limit_bytes));
    SystemClock clock;
    LARDER_ASSIGN(const Tiers tiers, OpenTiers(tier_flags_, engine_.cache.limit_bytes, &clock));
    tiers.AddTo(engine_);
    LARDER_ASSIGN(const auto engine, Engine::Create(std::move(model), engine_, &clock));
    LARDER_ASSIGN(const auto backend, EngineBackend::Create(engine.get(), chat_template_));
    LARDER_ASSIGN(const auto server, Server::Create(backend.get(), serve_));
    fmt::print("larder: serving {} on {}\n", backend->model_id(), Address(serve_, server->port()));
    std::fflush(stdout);
    ServeUntilSignal(*server, signals);
    return {};
  }

 private:
  // The first signal drains, the second drops everything.
  void ServeUntilSignal(Server& server, SignalWatch& signals) const {
    using namespace std::chrono_literals;
    std::future<void> serving = std::async(std::launch::async, [&server] { server.Run(); });
    std::future<void> draining;
    bool stopped = false;
    while (serving.wait_for(50ms) != std::future_status::ready) {
      if (!signals.Take()) continue;
      if (!draining.valid()) {
        LogInfo("draining: running requests have {} s; a second signal drops them", drain_timeout_s_);
        draining = std::async(std::launch::async, [&server, this] { server.Drain(drain_timeout_s_ * 1000); });
      } else if (!std::exchange(stopped, true)) {
        LogWarn("stopping at once");
        server.Stop();
      }
    }
    LogInfo("stopped");
  }

  ModelFlags flags_;
  ServeOptions serve_;
  TierFlags tier_flags_;
  EngineOptions engine_{.reuse = "prefix"};
  std::string chat_template_, log_level_ = "info";
  uint64_t kv_limit_ = 0;
  int64_t drain_timeout_s_ = 30;
};

}  // namespace

std::unique_ptr<Command> CreateServe() { return std::make_unique<Serve>(); }

}  // namespace larder
