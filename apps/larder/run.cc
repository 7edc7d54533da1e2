// larder run: a conversation in the terminal. History is kept as messages and rendered by the chat template
// each time; the cache makes that cheap. A model without a template completes text instead.
#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <limits>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "base/file.h"
#include "engine/engine.h"
#include "larder/answer.h"
#include "larder/command.h"
#include "larder/model_flags.h"
#include "larder/terminal.h"
#include "model/chat_template.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;
using SteadyClock = std::chrono::steady_clock;

double SecondsBetween(SteadyClock::time_point from, SteadyClock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

class Chat final : public Command {
 public:
  void Declare(Params& params) override {
    flags_.Declare(params);
    params.String("prompt", &prompt_, "answer this and end, instead of a conversation");
    params.String("system", &system_, "system message");
    params.Int("max-tokens", &max_tokens_, 1, int64_t{1} << 24, "longest answer");
    params.Float("temperature", &temperature_, 0, 100, "0: always the most probable token");
    params.Float("top-p", &top_p_, 0, 1, "draws from the most probable tokens of this total probability");
    params.Int("top-k", &top_k_, 0, 1 << 24, "draws from that many most probable tokens; 0: all");
    params.Int("seed", &seed_, 0, std::numeric_limits<int64_t>::max(),
               "the same seed gives the same answers");
    params.Int("context", &engine_options_.context, 0, int64_t{1} << 24,
               "longest conversation in tokens; 0: the model's");
    params.Size("kv-limit", &kv_limit_, 0, uint64_t{1} << 50,
                "memory for cached keys and values; 0: half of what is free after loading");
    params.String("evict", &engine_options_.evict,
                  "drop part of the conversation's cache: a method and its parameters (larder methods)");
    params.String("reuse", &engine_options_.reuse,
                  "what stands in for computed rows: prefix, or blend (larder methods)");
    params.String("chat-template", &chat_template_, "file with a Jinja template instead of the model's own");
    params.Bool("verbose", &verbose_, "show tokens a second and cached rows after each answer");
  }

  Status Run(const std::string&) override {
    SignalWatch signals({SIGINT, SIGTERM});
    LARDER_ASSIGN(auto model, flags_.Load());
    engine_options_.cache.limit_bytes = KvLimitOrDefault(kv_limit_);
    SystemClock clock;
    LARDER_ASSIGN(engine_, Engine::Create(std::move(model), engine_options_, &clock));
    LARDER_TRY(LoadTemplate());
    try {
      if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
      const Status status = prompt_.empty() ? Converse(signals) : Turn(prompt_, signals);
      engine_.reset();  // before the clock
      return status;
    } catch (const Json::exception& error) {
      engine_.reset();
      return Fail(ErrorKind::kInvalid, "the conversation is not valid UTF-8: {}", error.what());
    }
  }

 private:
  Status LoadTemplate() {
    std::string source(engine_->model().file().StringOr("tokenizer.chat_template", ""));
    if (!chat_template_.empty()) {
      LARDER_ASSIGN(source, ReadFile(chat_template_));
    }
    if (source.empty()) return {};
    LARDER_ASSIGN(template_, ChatTemplate::Parse(source));
    return {};
  }

  // Until the input ends or a signal comes while nothing is being generated.
  Status Converse(SignalWatch& signals) {
    const bool terminal = isatty(STDIN_FILENO) == 1;
    if (terminal)
      fmt::print(stderr, "{}. {} Ctrl-C stops an answer, Ctrl-D ends.\n", engine_->model().name(),
                 template_ ? "Ask something." : "No chat template: it continues what you write.");
    LineReader lines(&signals);
    while (true) {
      if (terminal) {
        fmt::print(stderr, "> ");
        std::fflush(stderr);
      }
      const std::optional<std::string> line = lines.Next();
      if (!line) break;
      if (line->empty()) continue;
      if (const Status status = Turn(*line, signals); !status) {
        // A conversation that has become too long ends; a pipe of prompts reports the first that fails.
        if (!terminal) return status;
        fmt::print(stderr, "{}\n", status.error().message);
      }
    }
    if (terminal) fmt::print(stderr, "\n");
    return {};
  }

  Result<std::vector<int32_t>> PromptTokens(const std::string& text) {
    const Tokenizer& tokenizer = engine_->model().tokenizer();
    if (!template_) return tokenizer.Encode(text, {.add_special = true, .parse_special = false});
    const auto token = [&](int32_t id) {
      return id == kNoToken ? std::string() : std::string(tokenizer.Text(id));
    };
    const Json context = {{"messages", messages_},
                          {"tools", nullptr},
                          {"add_generation_prompt", true},
                          {"bos_token", token(tokenizer.bos())},
                          {"eos_token", token(tokenizer.eos())}};
    LARDER_ASSIGN(const std::string rendered, template_->Render(context.dump()));
    // The template writes BOS itself.
    return tokenizer.Encode(rendered, {.add_special = false, .parse_special = true});
  }

  Status Turn(const std::string& text, SignalWatch& signals) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    auto answer = Generate(text, signals);
    if (!answer) {
      messages_.erase(messages_.size() - 1);
      return std::unexpected(answer.error());
    }
    messages_.push_back({{"role", "assistant"}, {"content", *std::move(answer)}});
    return {};
  }

  Result<std::string> Generate(const std::string& text, SignalWatch& signals) {
    Request request;
    request.id = fmt::format("run-{}", messages_.size());
    request.tenant = "default";
    LARDER_ASSIGN(request.prompt, PromptTokens(text));
    request.max_tokens =
        std::min(max_tokens_, engine_->context() - static_cast<int64_t>(request.prompt.size()));
    if (request.max_tokens < 1)
      return Fail(ErrorKind::kExhausted, "{} tokens fill the context of {}; begin a new conversation",
                  request.prompt.size(), engine_->context());
    request.sampling.temperature = static_cast<float>(temperature_);
    request.sampling.top_p = static_cast<float>(top_p_);
    request.sampling.top_k = static_cast<int32_t>(top_k_);
    request.sampling.seed = static_cast<uint64_t>(seed_);
    const auto prompt_tokens = static_cast<int64_t>(request.prompt.size());
    const auto answer = std::make_shared<Answer>();
    const uint64_t steps = engine_->Stats().steps;
    const auto begin = SteadyClock::now();
    LARDER_ASSIGN(const Engine::RequestId id, engine_->Submit(std::move(request), answer));
    return Show(*answer, id, signals, prompt_tokens, steps, begin);
  }

  // Prints the answer as it comes; a signal ends it early.
  Result<std::string> Show(Answer& answer, Engine::RequestId id, SignalWatch& signals, int64_t prompt_tokens,
                           uint64_t steps_before, SteadyClock::time_point begin) {
    using namespace std::chrono_literals;
    ProgressBar bar("reading the prompt");
    const bool long_prompt = prompt_tokens > engine_options_.max_batch_rows;
    std::string all;
    auto first = begin;
    while (true) {
      const std::string piece = answer.Take(50ms);
      if (answer.started() && first == begin) {
        first = SteadyClock::now();
        bar.Clear();
      } else if (long_prompt && first == begin) {
        // Each step takes as many rows as fit while nobody else is being served.
        const auto steps = static_cast<int64_t>(engine_->Stats().steps - steps_before);
        bar.Update(static_cast<double>(steps * engine_options_.max_batch_rows) /
                   static_cast<double>(prompt_tokens));
      }
      all += piece;
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
      if (signals.Take()) engine_->Cancel(id);
      const auto end = answer.Ended();
      if (!end) continue;
      bar.Clear();
      if (end->error) return std::unexpected(*end->error);
      fmt::print("\n");
      std::fflush(stdout);
      if (verbose_) Explain(*end, SecondsBetween(begin, first), SecondsBetween(first, SteadyClock::now()));
      return all;
    }
  }

  static void Explain(const Answer::End& end, double first_s, double rest_s) {
    const Usage& usage = end.usage;
    fmt::print(stderr, "[{} prompt tokens, {} cached, {} computed; first token after {:.2f} s",
               usage.prompt_tokens, usage.cached_tokens, end.report.recomputed, first_s);
    if (usage.completion_tokens > 1 && rest_s > 0)
      fmt::print(stderr, "; {} tokens at {:.1f} a second", usage.completion_tokens,
                 static_cast<double>(usage.completion_tokens - 1) / rest_s);
    if (end.report.outcome.reason != MissReason::kNone)
      fmt::print(stderr, "; from token {}: {}", end.report.outcome.token,
                 MissReasonName(end.report.outcome.reason));
    fmt::print(stderr, "]\n");
  }

  ModelFlags flags_;
  EngineOptions engine_options_;
  std::string prompt_, system_, chat_template_;
  int64_t max_tokens_ = 512, top_k_ = 0, seed_ = 0;
  double temperature_ = 0.7, top_p_ = 0.95;
  uint64_t kv_limit_ = 0;
  bool verbose_ = false;
  std::unique_ptr<Engine> engine_;
  std::optional<ChatTemplate> template_;
  Json messages_ = Json::array();
};

}  // namespace

std::unique_ptr<Command> CreateRun() { return std::make_unique<Chat>(); }

}  // namespace larder
