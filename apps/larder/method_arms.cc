#include "larder/method_arms.h"

#include <algorithm>
#include <utility>

#include "engine/hook_chain.h"
#include "larder/arm_oracle.h"
#include "larder/measure.h"
#include "larder/method_run.h"

namespace larder {
namespace {

constexpr int64_t kLogitRows = 16;

// An arm's method at work.
struct ArmRun {
  size_t arm;
  std::unique_ptr<MethodRun> run;

  uint64_t resident_bytes() const { return run->driver().private_bytes() + run->driver().shared_bytes(); }
};

// A cache of codes: the same weights, another session.
struct CodecCache {
  CodecCache(std::string n, std::unique_ptr<Model> m, std::unique_ptr<Session> s)
      : name(std::move(n)),
        model(std::move(m)),
        session(std::move(s)),
        resources(*model, session->cache().MakePageSource()) {}

  std::string name;
  std::unique_ptr<Model> model;
  std::unique_ptr<Session> session;
  EvictResources resources;
  std::vector<ArmRun> runs;  // of one text
};

// A text on its way through the arms.
struct Text {
  std::span<const int32_t> tokens;   // the last one is only predicted
  int64_t prompt, first;             // rows of the prompt; the first row that predicts a scored token
  std::span<const int64_t> targets;  // positions of the scored tokens
  int64_t rows() const { return static_cast<int64_t>(tokens.size()) - 1; }
  std::span<const int32_t> Rows(int64_t from, int64_t end) const {
    return tokens.subspan(static_cast<size_t>(from), static_cast<size_t>(end - from));
  }
};

// The most that a cache's blocks take from here on, as far as it is looked at: before each layer.
class PeakBlocks final : public ForwardHooks {
 public:
  explicit PeakBlocks(const KvCache& cache) : cache_(cache), before_(cache.stats().block_bytes) {}
  void BeforeLayer(int, std::span<const Row>, float*) override { Look(); }
  void Look() { peak_ = std::max(peak_, cache_.stats().block_bytes - before_); }
  uint64_t peak() const { return peak_; }

 private:
  const KvCache& cache_;
  const uint64_t before_;
  uint64_t peak_ = 0;
};

}  // namespace

struct ArmRunner::Impl {
  Impl(Model& m, std::vector<Arm> list, std::unique_ptr<Session> s)
      : model(m),
        arms(std::move(list)),
        session(std::move(s)),
        resources(m, session->cache().MakePageSource()) {}

  Result<std::unique_ptr<KvSequence>> Full(const Text& text);
  Result<std::unique_ptr<EvictMethod>> MethodOf(const Arm& arm, const Model& on);
  Result<ArmRun> Begin(size_t arm, EvictResources& on, const KvSequence* full, const Text& text,
                       ArmDocument& out);
  Status Continue(Model& on, std::vector<ArmRun>& runs, const Text& text, std::vector<ArmDocument>& out);
  Status Step(Model& on, std::vector<ArmRun>& runs, const Text& text, int64_t at,
              std::vector<ArmDocument>& out);
  Status RunCodec(CodecCache& codec, size_t arm, const Text& text, ArmDocument& out);
  Status RunArms(const KvSequence& full, const Text& text, std::vector<ArmDocument>& out);
  CodecCache& CodecOf(const Arm& arm) {
    return **std::ranges::find_if(codecs, [&](const auto& codec) { return codec->name == arm.codec; });
  }
  Result<int64_t> PagesOf(const Arm& arm);
  Status EqualisePages(Arm& arm);
  Result<ArmAlone> MethodAlone(const Arm& arm, EvictResources& on, std::span<const int32_t> tokens);
  Result<ArmAlone> SessionAlone(Session& from, std::span<const int32_t> tokens);
  void Judge(const Text& text, std::vector<ArmDocument>& out);
  Session::OnRows Into(size_t arm) {
    return [this, arm](int64_t, int n, const float* h) {
      const int64_t values = int64_t{n} * model.spec().width;
      hidden[arm].insert(hidden[arm].end(), h, h + values);
    };
  }
  size_t base() const { return arms.size(); }  // the full cache's place in `hidden`

  Model& model;
  std::vector<Arm> arms;
  std::vector<std::unique_ptr<CodecCache>> codecs;
  std::unique_ptr<Session> session;
  EvictResources resources;
  FutureAttention future;
  std::vector<int32_t> context;
  std::unique_ptr<KvSequence> shared;      // the context's rows
  std::vector<float> last_state;           // of the context's last row
  std::vector<std::vector<float>> hidden;  // [arm, the full cache last][rows from Text::first on * width]
  uint64_t full_bytes = 0;
};

ArmRunner::ArmRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ArmRunner::~ArmRunner() {
  if (impl_->shared != nullptr) impl_->session->Close(std::move(impl_->shared));
}
const std::vector<Arm>& ArmRunner::arms() const { return impl_->arms; }
uint64_t ArmRunner::full_bytes() const { return impl_->full_bytes; }

Result<std::unique_ptr<ArmRunner>> ArmRunner::Create(Model& model, std::vector<Arm> arms,
                                                     std::vector<std::unique_ptr<Model>> codecs,
                                                     int64_t rows) {
  const std::vector<std::string> names = CodecsOf(arms);
  LARDER_CHECK(names.size() == codecs.size());
  LARDER_ASSIGN(auto session, Session::Create(model, rows, static_cast<int64_t>(arms.size()) + 3));
  auto impl = std::make_unique<Impl>(model, std::move(arms), std::move(session));
  for (size_t i = 0; i < codecs.size(); ++i) {
    const auto users = std::ranges::count(impl->arms, names[i], &Arm::codec);
    LARDER_ASSIGN(auto own, Session::Create(*codecs[i], rows, users + 1));
    impl->codecs.push_back(std::make_unique<CodecCache>(names[i], std::move(codecs[i]), std::move(own)));
  }
  return std::unique_ptr<ArmRunner>(new ArmRunner(std::move(impl)));
}

Status ArmRunner::Read(std::span<const int32_t> context) {
  Impl& m = *impl_;
  if (m.shared != nullptr) m.session->Close(std::move(m.shared));
  m.context.assign(context.begin(), context.end());
  LARDER_ASSIGN(m.shared, m.session->Open());
  const auto width = m.model.spec().width;
  return m.session->Append(*m.shared, context, static_cast<int64_t>(context.size()) - 1,
                           [&](int64_t, int, const float* h) { m.last_state.assign(h, h + width); });
}

Result<std::vector<int32_t>> ArmRunner::Greedy(int64_t tokens) {
  Impl& m = *impl_;
  LARDER_ASSIGN(auto sequence, m.session->Fork(*m.shared));
  KvSequence* const pointer = sequence.get();
  std::vector<float> state = m.last_state, logits(static_cast<size_t>(m.model.spec().vocabulary));
  std::vector<int32_t> out;
  while (static_cast<int64_t>(out.size()) < tokens) {
    m.model.Logits(state.data(), 1, logits.data());
    out.push_back(static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin()));
    if (m.model.tokenizer().IsEndOfGeneration(out.back())) break;
    LARDER_TRY(m.session->Step({&pointer, 1}, std::span(out).last(1), state.data()));
  }
  m.session->cache().Close(std::move(sequence));
  return out;
}

// The full cache reads prompt and continuation; what the rows that predict look at is the oracle's knowledge.
// The sequence that is returned ends with the prompt.
Result<std::unique_ptr<KvSequence>> ArmRunner::Impl::Full(const Text& text) {
  future.Reset(model.spec(), text.rows());
  const bool oracle = std::ranges::count(arms, ArmKind::kOracle, &Arm::kind) > 0;
  const auto append = [&](KvSequence& sequence, int64_t from, int64_t end) {
    FutureAttention::Capture capture(future, model, resources.scratch, sequence, text.first);
    return session->Append(sequence, text.Rows(from, end), text.first, Into(base()),
                           oracle ? &capture : nullptr);
  };
  LARDER_ASSIGN(auto full, session->Fork(*shared));
  LARDER_TRY(append(*full, static_cast<int64_t>(context.size()), text.prompt));
  full_bytes = session->cache().Held(*full).bytes;
  LARDER_ASSIGN(auto ahead, session->Fork(*full));
  LARDER_TRY(append(*ahead, text.prompt, text.rows()));
  session->cache().Close(std::move(ahead));
  return full;
}

Result<std::unique_ptr<EvictMethod>> ArmRunner::Impl::MethodOf(const Arm& arm, const Model& on) {
  if (arm.kind != ArmKind::kOracle) return CreateEvictMethod(arm.spec, EvictModelOf(on));
  return CreateOracle(std::string_view(arm.spec).substr(std::string_view("oracle:").size()), future);
}

// `full`: where the method may read its prompt's rows; null: it computes all of them.
Result<ArmRun> ArmRunner::Impl::Begin(size_t arm, EvictResources& on, const KvSequence* full,
                                      const Text& text, ArmDocument& out) {
  LARDER_ASSIGN(auto method, MethodOf(arms[arm], on.model));
  const Stopwatch watch;
  ArmRun one{arm, std::make_unique<MethodRun>(on, std::move(method), text.prompt)};
  LARDER_TRY(one.run->Prompt(full, text.tokens));
  out.method_ms = watch.WallSeconds() * 1e3;
  out.private_bytes = one.run->driver().private_bytes();
  out.resident_bytes = one.resident_bytes();
  out.entries = one.run->driver().LongestLane();
  for (const int layer : on.layers) {
    double entries = 0;
    for (int head = 0; head < on.model.spec().kv_heads; ++head)
      entries += static_cast<double>(one.run->driver().store()->Length(layer, head));
    out.layer_entries.push_back(entries / on.model.spec().kv_heads);
  }
  return one;
}

// Row `at` of all of one model's arms at once. The prompt's last row is there already: it reads what the
// choice has left.
Status ArmRunner::Impl::Step(Model& on, std::vector<ArmRun>& runs, const Text& text, int64_t at,
                             std::vector<ArmDocument>& out) {
  const int width = on.spec().width;
  HookChain hooks;
  std::vector<Row> rows;
  for (ArmRun& one : runs) {
    EvictDriver& driver = one.run->driver();
    if (at >= text.prompt) {
      LARDER_TRY(driver.Reserve(1));
      hooks.Add(driver.HooksFor(at));
    }
    if (at == text.prompt) out[one.arm].resident_bytes = one.resident_bytes();
    rows.push_back(one.run->RowAt(at, text.tokens[static_cast<size_t>(at)]));
    rows.back().wants_hidden = true;
  }
  std::vector<float> states(rows.size() * static_cast<size_t>(width));
  on.Forward(rows, states.data(), hooks.get());
  for (size_t i = 0; i < runs.size(); ++i) {
    const float* state = states.data() + i * static_cast<size_t>(width);
    std::vector<float>& own = hidden[runs[i].arm];
    if (at >= text.first) own.insert(own.end(), state, state + width);
    if (at >= text.prompt) LARDER_TRY(runs[i].run->driver().AfterRows(at + 1, text.tokens));
  }
  return {};
}

Status ArmRunner::Impl::Continue(Model& on, std::vector<ArmRun>& runs, const Text& text,
                                 std::vector<ArmDocument>& out) {
  if (runs.empty()) return {};
  for (int64_t at = std::min(text.first, text.prompt); at < text.rows(); ++at)
    LARDER_TRY(Step(on, runs, text, at, out));
  runs.clear();
  return {};
}

Status ArmRunner::Impl::RunCodec(CodecCache& codec, size_t arm, const Text& text, ArmDocument& out) {
  LARDER_ASSIGN(auto sequence, codec.session->Open());
  const Stopwatch watch;
  LARDER_TRY(codec.session->Append(*sequence, text.Rows(0, text.prompt), text.first, Into(arm)));
  out.method_ms = watch.WallSeconds() * 1e3;
  out.private_bytes = out.resident_bytes = codec.session->cache().Held(*sequence).bytes;
  out.entries = text.prompt;
  LARDER_TRY(codec.session->Append(*sequence, text.Rows(text.prompt, text.rows()), text.first, Into(arm)));
  codec.session->Close(std::move(sequence));
  return {};
}

void ArmRunner::Impl::Judge(const Text& text, std::vector<ArmDocument>& out) {
  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  std::vector<float> full(kLogitRows * vocabulary), other(full.size());
  // States of the rows that predict targets [begin, begin + n) to logits.
  const auto logits = [&](size_t arm, size_t begin, size_t n, std::vector<float>& values) {
    std::vector<float> states;
    for (size_t i = begin; i < begin + n; ++i) {
      const float* state = hidden[arm].data() + static_cast<size_t>(text.targets[i] - 1 - text.first) * width;
      states.insert(states.end(), state, state + width);
    }
    model.Logits(states.data(), static_cast<int>(n), values.data());
  };
  for (ArmDocument& document : out) document.tokens.resize(text.targets.size());
  for (size_t begin = 0; begin < text.targets.size(); begin += kLogitRows) {
    const size_t n = std::min<size_t>(kLogitRows, text.targets.size() - begin);
    logits(base(), begin, n, full);
    for (size_t arm = 0; arm < out.size(); ++arm) {
      logits(arms[arm].kind == ArmKind::kFull ? base() : arm, begin, n, other);
      model.pool().Run(static_cast<int64_t>(n), [&](int64_t i, int) {
        const size_t offset = static_cast<size_t>(i) * vocabulary, target = begin + static_cast<size_t>(i);
        out[arm].tokens[target] =
            Compare({full.data() + offset, vocabulary}, {other.data() + offset, vocabulary},
                    text.tokens[static_cast<size_t>(text.targets[target])]);
      });
    }
  }
}

// All but the full cache.
Status ArmRunner::Impl::RunArms(const KvSequence& full, const Text& text, std::vector<ArmDocument>& out) {
  std::vector<ArmRun> runs;
  for (const auto& codec : codecs) codec->runs.clear();
  for (size_t arm = 0; arm < arms.size(); ++arm) {
    if (arms[arm].kind == ArmKind::kCodec) {
      LARDER_TRY(RunCodec(CodecOf(arms[arm]), arm, text, out[arm]));
    } else if (arms[arm].kind == ArmKind::kFull) {
      out[arm].private_bytes = out[arm].resident_bytes = full_bytes;
      out[arm].entries = text.prompt;
    } else if (arms[arm].kind == ArmKind::kBoth) {
      CodecCache& codec = CodecOf(arms[arm]);
      LARDER_ASSIGN(ArmRun one, Begin(arm, codec.resources, nullptr, text, out[arm]));
      codec.runs.push_back(std::move(one));
    } else {
      LARDER_ASSIGN(ArmRun one, Begin(arm, resources, &full, text, out[arm]));
      runs.push_back(std::move(one));
    }
  }
  for (const auto& codec : codecs) LARDER_TRY(Continue(*codec->model, codec->runs, text, out));
  return Continue(model, runs, text, out);
}

Result<std::vector<ArmDocument>> ArmRunner::Run(std::span<const int32_t> rest, int64_t prompt,
                                                std::span<const int64_t> targets) {
  Impl& m = *impl_;
  LARDER_CHECK(!targets.empty() && targets.front() >= std::max<int64_t>(1, prompt) &&
               targets.back() < std::ssize(rest));
  const auto before = static_cast<int64_t>(m.context.size());
  std::vector<int32_t> tokens = m.context;
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  std::vector<int64_t> positions;
  for (const int64_t target : targets) positions.push_back(before + target);
  const Text text{tokens, before + prompt, positions.front() - 1, positions};

  m.hidden.assign(m.arms.size() + 1, {});
  std::vector<ArmDocument> out(m.arms.size());
  LARDER_ASSIGN(auto full, m.Full(text));
  LARDER_TRY(m.RunArms(*full, text, out));
  m.session->cache().Close(std::move(full));
  m.Judge(text, out);
  return out;
}

// Of the context as a prompt, behind which one row more has room.
Result<int64_t> ArmRunner::Impl::PagesOf(const Arm& arm) {
  const auto prompt = static_cast<int64_t>(context.size());
  LARDER_ASSIGN(auto method, MethodOf(arm, model));
  MethodRun run(resources, std::move(method), prompt);
  LARDER_TRY(run.Prompt(shared.get(), context));
  LARDER_TRY(run.driver().Reserve(1));
  int64_t pages = 0;
  for (const int layer : resources.layers) {
    for (int head = 0; head < model.spec().kv_heads; ++head)
      pages += run.driver().store()->Pages(layer, head);
  }
  return pages;
}

Status ArmRunner::Impl::EqualisePages(Arm& arm) {
  const auto lanes = static_cast<int>(resources.layers.size()) * model.spec().kv_heads;
  LARDER_ASSIGN(const EvictBudget budget, EvictBudget::Parse(arm.budget));
  const int64_t nominal = budget.Entries(model.kv_shape(), lanes, static_cast<int64_t>(context.size()));
  const int64_t pages = (nominal + kPageTokens - 1) / kPageTokens;  // of a lane
  LARDER_ASSIGN(const int64_t used, PagesOf(arm));
  if (used <= pages * lanes) return {};
  // What fills the pages together with the next token is the answer for lanes of equal length.
  int64_t best = 0, low = 0, too_many = nominal;
  for (int64_t trial = std::min(pages * kPageTokens, nominal) - 1; too_many - low > 1;
       trial = (low + too_many) / 2) {
    const Arm other = WithEntries(arm, trial);
    const auto needed = PagesOf(other);
    if (!needed && needed.error().kind != ErrorKind::kInvalid) return std::unexpected(needed.error());
    if (needed && *needed > pages * lanes) {
      too_many = trial;
    } else {
      low = trial;  // or too few for the method
      if (needed) best = trial;
    }
  }
  if (best > 0) arm = WithEntries(arm, best);
  return {};
}

Status ArmRunner::EqualisePages() {
  LARDER_CHECK(impl_->shared != nullptr);
  impl_->future.Reset(impl_->model.spec(), static_cast<int64_t>(impl_->context.size()));
  for (Arm& arm : impl_->arms) {
    if (!arm.budget.empty()) LARDER_TRY(impl_->EqualisePages(arm));
  }
  return {};
}

Result<ArmAlone> ArmRunner::Impl::MethodAlone(const Arm& arm, EvictResources& on,
                                              std::span<const int32_t> tokens) {
  const auto prompt = static_cast<int64_t>(context.size()), rows = std::ssize(tokens);
  std::vector<float> logits(static_cast<size_t>(model.spec().vocabulary));
  LARDER_ASSIGN(auto method, MethodOf(arm, on.model));
  ArmAlone out;
  Stopwatch watch;
  MethodRun run(on, std::move(method), prompt);
  LARDER_TRY(run.Prompt(nullptr, tokens));
  out.prompt_ms = watch.WallSeconds() * 1e3;
  watch.Restart();
  for (int64_t end = prompt + 1; end <= rows; ++end) {
    LARDER_TRY(run.Append(tokens.first(static_cast<size_t>(end)), 0, [&](int64_t, int, const float* hidden) {
      model.Logits(hidden, 1, logits.data());
    }));
  }
  out.tokens_per_s = static_cast<double>(rows - prompt) / watch.WallSeconds();
  out.peak_bytes = run.driver().peak_bytes();
  return out;
}

// The cache of a session, as it is.
Result<ArmAlone> ArmRunner::Impl::SessionAlone(Session& from, std::span<const int32_t> tokens) {
  const size_t prompt = context.size();
  std::vector<float> logits(static_cast<size_t>(model.spec().vocabulary));
  PeakBlocks peak(from.cache());
  ArmAlone out;
  LARDER_ASSIGN(auto sequence, from.Open());
  Stopwatch watch;
  LARDER_TRY(from.Append(*sequence, tokens.first(prompt), static_cast<int64_t>(prompt), nullptr, &peak));
  out.prompt_ms = watch.WallSeconds() * 1e3;
  watch.Restart();
  for (size_t at = prompt; at < tokens.size(); ++at) {
    LARDER_TRY(from.Append(*sequence, tokens.subspan(at, 1), 0, [&](int64_t, int, const float* hidden) {
      from.model().Logits(hidden, 1, logits.data());
    }));
  }
  out.tokens_per_s = static_cast<double>(tokens.size() - prompt) / watch.WallSeconds();
  peak.Look();
  out.peak_bytes = peak.peak();
  from.Close(std::move(sequence));
  return out;
}

Result<ArmAlone> ArmRunner::Alone(size_t arm, std::span<const int32_t> rest) {
  Impl& m = *impl_;
  std::vector<int32_t> tokens = m.context;
  tokens.insert(tokens.end(), rest.begin(), rest.end());
  const Arm& one = m.arms[arm];
  if (one.kind == ArmKind::kFull) return m.SessionAlone(*m.session, tokens);
  if (one.kind == ArmKind::kCodec) return m.SessionAlone(*m.CodecOf(one).session, tokens);
  return m.MethodAlone(one, one.codec.empty() ? m.resources : m.CodecOf(one).resources, tokens);
}

}  // namespace larder
