#include "larder/bench_stepped.h"

#include <utility>

#include "larder/measure.h"

namespace larder {
namespace {

constexpr char kTenant[] = "bench";
constexpr SpaceId kSpace = {1};

struct AnswerSink final : RequestSink {
  Stopwatch watch;
  SteppedAnswer answer;
  std::string error;

  void OnPromptLogprobs(std::vector<TokenOutput>) override {}
  void OnToken(TokenOutput out) override {
    if (answer.tokens.empty()) answer.first_s = watch.WallSeconds();
    answer.tokens.push_back(out.token);
  }
  void OnChoiceEnd(ChoiceEnd) override {}
  void OnFinish(const Usage&, const CacheReport& report) override { answer.report = report; }
  void OnError(const Error& e) override { error = e.message; }
};

}  // namespace

int64_t SteppedAnswer::rows_from_tiers() const {
  int64_t rows = 0;
  for (const auto& [tier, read] : report.read_tiers) rows += read;
  return rows;
}

Result<std::unique_ptr<SteppedEngine>> SteppedEngine::Create(Model& model, const EngineOptions& options) {
  std::unique_ptr<SteppedEngine> engine(new SteppedEngine());
  LARDER_ASSIGN(engine->core_, EngineCore::Create(&model, options, &engine->clock_, [raw = engine.get()] {
                  const std::lock_guard lock(raw->mutex_);
                  raw->called_ = true;
                  raw->changed_.notify_all();
                }));
  engine->core_->SetSpace(kTenant, kSpace);
  return engine;
}

Request SteppedEngine::RequestOf(std::vector<int32_t> prompt, int64_t max_tokens) {
  Request request;
  request.tenant = kTenant;
  request.space = kSpace;
  request.prompt = std::move(prompt);
  request.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.ignore_eos = true;
  return request;
}

Result<SteppedAnswer> SteppedEngine::Run(Request request) {
  LARDER_TRY(core_->Validate(request));
  const auto sink = std::make_shared<AnswerSink>();
  core_->Add(next_++, std::move(request), sink);
  while (core_->unfinished() > 0) {
    if (core_->Step()) continue;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return called_; });
    called_ = false;
  }
  if (!sink->error.empty()) return Fail(ErrorKind::kUnavailable, "{}", sink->error);
  return std::move(sink->answer);
}

void SteppedEngine::ForgetMemory() { core_->cache().Clear(kTenant); }

}  // namespace larder
