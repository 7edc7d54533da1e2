#include "larder/eval_blend.h"

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>

#include "engine/blend_driver.h"
#include "engine/blending.h"
#include "engine/hook_chain.h"
#include "larder/blend_prompts.h"
#include "larder/eval_methods.h"
#include "larder/evaluation.h"
#include "larder/measure.h"
#include "larder/session.h"
#include "larder/terminal.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;
using Tokens = std::vector<int32_t>;

struct BlendArm {
  std::string name, spec;  // of the reuse method; "": everything is computed
  bool computes() const { return spec.empty() || spec == "prefix"; }  // all rows are true
  std::vector<double> ttft_ms = {}, kl = {}, nll = {};                // by prompt
  int64_t exact = 0;  // prompts whose answer it would have given
  int64_t again = 0, covered = 0;
};

constexpr size_t kFullReuse = 2;  // of the arms: what the others are compared with

std::vector<BlendArm> Arms(double ratio) {
  const auto with = [&](const char* more) { return fmt::format("blend:ratio={}{}", ratio, more); };
  return {{"full prefill", ""},
          {"prefix and first chunk only", "prefix"},
          {"full reuse", "blend:ratio=0"},
          {"blend", with("")},
          {"blend, by keys", with(",by=k")},
          {"blend, by both", with(",by=kv")},
          {"random rows", with(",select=random")},
          {"first rows", with(",select=first")},
          {"most attended rows", with(",select=attention")},
          {"blend, gradually", with(",gradual=1.5")},
          {"blend, not re-positioned", with(",reposition=false")},
          {"full reuse, not re-positioned", "blend:ratio=0,reposition=false"}};
}

// How far stored values are from true ones, in every layer: [layer][covered row].
class Deviations final : public ForwardHooks {
 public:
  Deviations(const Model& model, const std::vector<ChunkSpan>& spans) : model_(model) {
    for (const ChunkSpan& span : spans) {
      for (int64_t row = 0; row < span.rows; ++row)
        covered_.push_back({span.begin + row, span.chunk.get(), span.first + row});
    }
    values.assign(static_cast<size_t>(model.kv_shape().layers()), std::vector<double>(covered_.size()));
  }
  void BeforeRotation(int layer, std::span<const Row> rows, const float*, const float* v) override {
    const int heads = model_.spec().kv_heads, dim = model_.spec().head_dim;
    float old_k[kMaxHeadDim], old_v[kMaxHeadDim];
    for (size_t i = 0; i < covered_.size(); ++i) {
      const int64_t row = covered_[i].position - rows.front().position;
      if (row < 0 || row >= std::ssize(rows)) continue;
      double sum = 0;
      for (int head = 0; head < heads; ++head) {
        covered_[i].chunk->Read(layer, head, covered_[i].row, old_k, old_v);
        const float* true_v = v + (row * heads + head) * dim;
        for (int j = 0; j < dim; ++j) sum += double{true_v[j] - old_v[j]} * double{true_v[j] - old_v[j]};
      }
      values[static_cast<size_t>(layer)][i] = sum;
    }
  }
  std::vector<std::vector<double>> values;

 private:
  struct Covered {
    int64_t position;
    const StoredChunk* chunk;
    int64_t row;
  };
  const Model& model_;
  std::vector<Covered> covered_;
};

std::vector<double> Ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> ranks(values.size());
  for (size_t i = 0; i < order.size(); ++i) ranks[order[i]] = static_cast<double>(i);
  return ranks;
}

// Spearman's: 1 where both order the rows alike.
double RankCorrelation(const std::vector<double>& a, const std::vector<double>& b) {
  const std::vector<double> x = Ranks(a), y = Ranks(b);
  const double n = static_cast<double>(a.size());
  double squares = 0;
  for (size_t i = 0; i < x.size(); ++i) squares += (x[i] - y[i]) * (x[i] - y[i]);
  return 1 - 6 * squares / (n * (n * n - 1));
}

// One prompt after the other, all arms on each.
class BlendRunner {
 public:
  static Result<std::unique_ptr<BlendRunner>> Create(Model& model, Tokens prefix, int64_t rows) {
    LARDER_ASSIGN(auto session, Session::Create(model, rows, 6));
    return std::unique_ptr<BlendRunner>(new BlendRunner(model, std::move(session), std::move(prefix)));
  }

  Status Store(const Tokens& chunk);
  // `tokens`: the prompt and the answer. Hidden states of the rows that predict the answer. The first
  // `cached` rows take no time.
  Result<std::vector<float>> Full(const Tokens& tokens, int64_t prompt, int64_t cached, double& ttft_ms,
                                  ForwardHooks* hooks = nullptr);
  Result<std::vector<float>> Blended(BlendArm& arm, const Tokens& tokens, int64_t prompt, double& ttft_ms);
  std::vector<ChunkSpan> Match(const Tokens& prompt) { return store_.Match(kTenant, prompt); }
  void Forget() { room_.Forget(kTenant); }

 private:
  static constexpr char kTenant[] = "eval";
  BlendRunner(Model& model, std::unique_ptr<Session> session, Tokens prefix)
      : model_(model),
        session_(std::move(session)),
        prefix_(std::move(prefix)),
        pages_(session_->cache().MakePageSource()),
        resources_(model, *pages_),
        room_(session_->cache().MakeBudget(), session_->cache().limit_bytes()),
        store_(&model.kv_shape(), model.kv_identity(), &room_),
        logits_(static_cast<size_t>(model.spec().vocabulary)) {}
  Status RunRows(BlendDriver& driver, const Tokens& tokens, int64_t from, int64_t end, int64_t hidden_from,
                 std::vector<float>& hidden);

  Model& model_;
  std::unique_ptr<Session> session_;
  Tokens prefix_;
  std::unique_ptr<PageSource> pages_;
  BlendResources resources_;
  DerivedRoom room_;
  ChunkStore store_;
  std::vector<float> logits_;
};

Status BlendRunner::Store(const Tokens& chunk) {
  LARDER_ASSIGN(auto stored, store_.Begin(kTenant, prefix_, chunk));
  LARDER_ASSIGN(auto sequence, session_->Open());
  ChunkCapture capture(model_, stored, sequence.get(), std::ssize(prefix_));
  Tokens all = prefix_;
  all.insert(all.end(), chunk.begin(), chunk.end());
  LARDER_TRY(session_->Append(*sequence, all, std::ssize(all), nullptr, &capture));
  session_->Close(std::move(sequence));
  store_.Finish(stored);
  return {};
}

Result<std::vector<float>> BlendRunner::Full(const Tokens& tokens, int64_t prompt, int64_t cached,
                                             double& ttft_ms, ForwardHooks* hooks) {
  std::vector<float> hidden;
  const auto keep = [&](int64_t, int n, const float* h) {
    hidden.insert(hidden.end(), h, h + static_cast<size_t>(n) * static_cast<size_t>(model_.spec().width));
  };
  LARDER_ASSIGN(auto sequence, session_->Open());
  const std::span<const int32_t> all(tokens), rest = all.first(static_cast<size_t>(prompt));
  if (cached > 0)
    LARDER_TRY(session_->Append(*sequence, rest.first(static_cast<size_t>(cached)), cached, nullptr, hooks));
  const Stopwatch watch;
  LARDER_TRY(session_->Append(*sequence, rest.subspan(static_cast<size_t>(cached)), prompt - 1, keep, hooks));
  model_.Logits(hidden.data(), 1, logits_.data());
  ttft_ms = watch.WallSeconds() * 1e3;
  LARDER_TRY(session_->Append(*sequence, all.subspan(static_cast<size_t>(prompt)), prompt, keep));
  session_->Close(std::move(sequence));
  return hidden;
}

// Rows [from, end) as the engine runs them. Hidden states of those from hidden_from on.
Status BlendRunner::RunRows(BlendDriver& driver, const Tokens& tokens, int64_t from, int64_t end,
                            int64_t hidden_from, std::vector<float>& hidden) {
  HookChain hooks;
  while (from < end) {
    int64_t next = driver.ChunkEnd(from) > 0 ? std::min(driver.ChunkEnd(from), end) : end;
    if (driver.WholeRows(from) == 0) next = std::min(next, from + Session::kChunkRows);
    LARDER_TRY(driver.Reserve(next - driver.rows()));
    std::vector<Row> rows;
    size_t wanted = 0;
    for (int64_t at = from; at < next; ++at) {
      Row row;
      row.token = tokens[static_cast<size_t>(at)];
      row.position = driver.PositionOf(at);
      row.kv = driver.store();
      row.wants_hidden = at >= hidden_from;
      wanted += row.wants_hidden;
      rows.push_back(row);
    }
    const size_t before = hidden.size();
    hidden.resize(before + wanted * static_cast<size_t>(model_.spec().width));
    hooks.Clear();
    hooks.Add(driver.HooksFor(from));
    model_.Forward(rows, hidden.data() + before, hooks.get());
    LARDER_TRY(driver.AfterRows(next, tokens));
    from = next;
  }
  return {};
}

Result<std::vector<float>> BlendRunner::Blended(BlendArm& arm, const Tokens& tokens, int64_t prompt,
                                                double& ttft_ms) {
  LARDER_ASSIGN(const auto method, CreateReuseMethod(arm.spec, ReuseModelOf(model_)));
  std::vector<float> hidden;
  const Stopwatch watch;
  auto spans = Match({tokens.begin(), tokens.begin() + prompt});
  if (spans.empty()) return Fail(ErrorKind::kInvalid, "no chunk was found in the prompt; give longer chunks");
  for (const ChunkSpan& span : spans) arm.covered += span.rows;
  BlendDriver driver(resources_, *method, std::move(spans), prompt);
  LARDER_TRY(driver.Begin(nullptr, 0));
  LARDER_TRY(RunRows(driver, tokens, 0, prompt, prompt - 1, hidden));
  model_.Logits(hidden.data(), 1, logits_.data());
  ttft_ms = watch.WallSeconds() * 1e3;
  arm.again -= driver.spared_rows();
  LARDER_TRY(RunRows(driver, tokens, prompt, std::ssize(tokens), prompt, hidden));
  return hidden;
}

// What an arm predicts of the answer, beside what full prefill predicts.
void Score(Model& model, const std::vector<float>& full, const std::vector<float>& other,
           std::span<const int32_t> answer, BlendArm& arm) {
  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  std::vector<float> base(vocabulary), candidate(vocabulary);
  double kl = 0, nll = 0;
  bool exact = true;
  for (size_t i = 0; i < answer.size(); ++i) {
    model.Logits(&full[i * width], 1, base.data());
    model.Logits(&other[i * width], 1, candidate.data());
    const Divergence one = Compare(base, candidate, answer[i]);
    kl += one.kl;
    nll += one.candidate_nll;
    exact &= one.candidate_right;
  }
  arm.kl.push_back(kl / static_cast<double>(answer.size()));
  arm.nll.push_back(nll / static_cast<double>(answer.size()));
  arm.exact += exact;
}

void PrintArms(const std::vector<BlendArm>& arms) {
  const double full_ms = Quantile(arms[0].ttft_ms, 0.5), reuse_kl = MeanOf(arms[kFullReuse].kl).mean;
  fmt::print("{:<30} {:>9} {:>9} {:>17} {:>12} {:>8} {:>8} {:>7}\n", "arm", "first ms", "speed-up", "KL mean",
             "x full reuse", "again", "nats", "exact");
  for (const BlendArm& arm : arms) {
    const MeanError kl = MeanOf(arm.kl);
    const double ms = Quantile(arm.ttft_ms, 0.5);
    fmt::print(
        "{:<30} {:>9.1f} {:>8.2f}x {:>17} {:>12.2f} {:>7.1f}% {:>8.3f} {:>7}\n", arm.name, ms, full_ms / ms,
        fmt::format("{:.4f} +- {:.4f}", kl.mean, kl.standard_error), kl.mean / reuse_kl,
        arm.covered == 0 ? 100.0 : 100.0 * static_cast<double>(arm.again) / static_cast<double>(arm.covered),
        MeanOf(arm.nll).mean, fmt::format("{}/{}", arm.exact, arm.nll.size()));
  }
}

Json ToJson(const std::vector<BlendArm>& arms) {
  Json out = Json::array();
  for (const BlendArm& arm : arms) {
    const MeanError kl = MeanOf(arm.kl);
    out.push_back({{"arm", arm.name},
                   {"method", arm.spec},
                   {"ttft_ms_median", Quantile(arm.ttft_ms, 0.5)},
                   {"ttft_ms_quartiles", {Quantile(arm.ttft_ms, 0.25), Quantile(arm.ttft_ms, 0.75)}},
                   {"speed_up", Quantile(arms[0].ttft_ms, 0.5) / Quantile(arm.ttft_ms, 0.5)},
                   {"kl_mean", kl.mean},
                   {"kl_mean_error", kl.standard_error},
                   {"kl_by_prompt", arm.kl},
                   {"answer_nll_mean", MeanOf(arm.nll).mean},
                   {"exact_answers", arm.exact},
                   {"rows_from_chunks", arm.covered},
                   {"rows_again", arm.again}});
  }
  return out;
}

// All prompts of a kind, all arms on each.
struct PromptSet {
  std::vector<BlendArm> arms;
  std::vector<double> correlations;  // of deviations between a layer and the next, a sum over prompts
};

Status RunArms(Model& model, BlendRunner& runner, const Tokens& prefix, const BlendPrompt& of,
               PromptSet& set) {
  Tokens tokens = prefix;
  for (const Tokens& chunk : of.chunks) {
    LARDER_TRY(runner.Store(chunk));
    tokens.insert(tokens.end(), chunk.begin(), chunk.end());
  }
  tokens.insert(tokens.end(), of.tail.begin(), of.tail.end());
  const int64_t prompt = std::ssize(tokens);
  tokens.insert(tokens.end(), of.answer.begin(), of.answer.end());
  std::vector<float> full;
  for (BlendArm& arm : set.arms) {
    double ms = 0;
    std::vector<float> hidden;
    if (arm.computes()) {
      const int64_t cached = arm.spec.empty() ? 0 : std::ssize(prefix) + std::ssize(of.chunks[0]);
      LARDER_ASSIGN(hidden, runner.Full(tokens, prompt, cached, ms));
    } else {
      LARDER_ASSIGN(hidden, runner.Blended(arm, tokens, prompt, ms));
    }
    if (full.empty()) full = hidden;
    arm.ttft_ms.push_back(ms);
    Score(model, full, hidden, of.answer, arm);
  }
  Deviations deviations(model, runner.Match({tokens.begin(), tokens.begin() + prompt}));
  double ms = 0;
  LARDER_TRY(runner.Full(tokens, prompt, 0, ms, &deviations));
  for (size_t layer = 0; layer < set.correlations.size(); ++layer)
    set.correlations[layer] += RankCorrelation(deviations.values[layer], deviations.values[layer + 1]);
  runner.Forget();
  return {};
}

}  // namespace

void BlendEval::Declare(Params& params) {
  params.Int("chunks", &chunks_, 2, 1024, "blend: in each prompt, in random order");
  params.Int("chunk-tokens", &chunk_tokens_, kChunkWindow, 1 << 20, "blend: of each chunk");
  params.Int("tail-tokens", &tail_tokens_, 1, 1 << 16, "blend: of text behind the chunks");
  params.Int("answer-tokens", &answer_tokens_, 1, 1 << 16, "blend: that follow the prompt and are predicted");
  params.Int("prompts", &prompts_, 1, 1 << 20, "blend: how many");
  params.Int("alias-prompts", &alias_prompts_, 0, 1 << 20,
             "blend: how many more whose answer takes two chunks, a name and what goes by it");
  params.Float("ratio", &ratio_, 0, 1, "blend: share of the rows from chunks that is computed again");
  params.String("prefix", &prefix_, "blend: text that chunks and prompts stand behind");
}

Status BlendEval::Run(Model& model, const std::string& text_path, const std::string& json) {
  const Tokenizer& tokenizer = model.tokenizer();
  LARDER_ASSIGN(const EvaluationText text, ReadEvaluationText(text_path, tokenizer, 2, 1, 0));
  const Tokens prefix = tokenizer.Encode(prefix_, {.add_special = true, .parse_special = true});
  const BlendPromptShape shape{chunks_, chunk_tokens_, tail_tokens_, answer_tokens_};
  const int64_t taken = shape.tokens(), have = std::ssize(text.tokens);
  if (have < taken) {
    return Fail(ErrorKind::kInvalid, "{} has {} tokens, and a prompt takes {}; lower --chunks", text_path,
                have, taken);
  }
  constexpr int64_t kQuestion = 128;  // at most; that of a prompt with aliases, and its answer
  const int64_t longest = std::ssize(prefix) + std::max(taken, chunks_ * chunk_tokens_ + kQuestion);
  if (longest > model.spec().context) {
    return Fail(ErrorKind::kInvalid,
                "a prompt takes {} tokens, and the model's context is {}; lower --chunks", longest,
                model.spec().context);
  }
  LARDER_ASSIGN(auto runner, BlendRunner::Create(model, prefix, longest));
  const std::vector<double> none(static_cast<size_t>(model.kv_shape().layers() - 1));
  PromptSet of_text{Arms(ratio_), none}, of_aliases{Arms(ratio_), none};
  std::mt19937 random(1);
  ProgressBar bar("blending");
  for (int64_t p = 0; p < prompts_ + alias_prompts_; ++p) {
    const bool alias = p >= prompts_;
    const int64_t number = alias ? p - prompts_ : p, of = alias ? alias_prompts_ : prompts_;
    const int64_t begin = number * (have - taken) / std::max<int64_t>(1, of - 1);
    const std::span<const int32_t> piece(&text.tokens[static_cast<size_t>(begin)],
                                         static_cast<size_t>(taken));
    BlendPrompt prompt = PromptOfText(shape, piece, random);
    if (alias) {
      LARDER_ASSIGN(prompt, PromptOfAliases(shape, piece, tokenizer, random));
    }
    LARDER_TRY(RunArms(model, *runner, prefix, prompt, alias ? of_aliases : of_text));
    bar.Update(static_cast<double>(p + 1) / static_cast<double>(prompts_ + alias_prompts_));
  }
  bar.Clear();
  for (PromptSet* set : {&of_text, &of_aliases}) {
    for (BlendArm& arm : set->arms) arm.again += arm.covered;  // less those that were spared
  }
  for (double& one : of_text.correlations) one /= static_cast<double>(prompts_);
  const int64_t prompt_tokens = std::ssize(prefix) + taken - answer_tokens_;
  if (!json.empty()) {
    Json out = {{"eval", "blend"},
                {"model", model.name()},
                {"weights", model.weights_digest().Hex()},
                {"text", text_path},
                {"prompts", prompts_},
                {"alias_prompts", alias_prompts_},
                {"prompt_tokens", prompt_tokens},
                {"chunks", chunks_},
                {"chunk_tokens", chunk_tokens_},
                {"prefix_tokens", prefix.size()},
                {"answer_tokens", answer_tokens_},
                {"ratio", ratio_},
                {"threads", model.pool().threads()},
                {"arms", ToJson(of_text.arms)},
                {"rank_correlation_with_next_layer", of_text.correlations}};
    if (alias_prompts_ > 0) out["alias_arms"] = ToJson(of_aliases.arms);
    return WriteText(json, out.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  fmt::print("{} on {}: {} prompts of {} tokens, {} chunks of {}, {} answer tokens, {} threads\n\n",
             model.name(), text_path, prompts_, prompt_tokens, chunks_, chunk_tokens_, answer_tokens_,
             model.pool().threads());
  PrintArms(of_text.arms);
  fmt::print("\nrank correlation of deviations between a layer and the next:");
  for (const double one : of_text.correlations) fmt::print(" {:.2f}", one);
  fmt::print("\n");
  if (alias_prompts_ == 0) return {};
  fmt::print("\n{} prompts that ask for what two chunks say together\n\n", alias_prompts_);
  PrintArms(of_aliases.arms);
  return {};
}

}  // namespace larder
