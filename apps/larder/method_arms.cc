#include "larder/method_arms.h"

#include <algorithm>
#include <chrono>

#include "compute/column_sums.h"
#include "engine/evict_driver.h"
#include "engine/hook_chain.h"
#include "kv/evict/select.h"
#include "larder/measure.h"

namespace larder {
namespace {

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// Attention of the rows that will come, by layer: [layer][kv head][entry], the mean of the group's heads.
using Future = std::vector<std::vector<std::vector<float>>>;

// The bound of everything that scores entries once: it knows what will be looked at.
class Oracle final : public EvictMethod {
 public:
  Oracle(EvictBudget budget, int64_t sinks, int64_t last, const Future& future)
      : budget_(budget), sinks_(sinks), last_(last), future_(future) {}
  EvictNeeds needs() const override { return {}; }
  Status AfterPrompt(EvictView& view) override {
    const int64_t budget = budget_.Entries(view.shape, view.lane_count(), view.prompt_rows);
    for (const int layer : view.layers) {
      for (int head = 0; head < view.shape.kv_heads(); ++head) {
        if (view.lanes.Length(layer, head) <= budget) continue;
        const auto& scores = future_[static_cast<size_t>(layer)][static_cast<size_t>(head)];
        LARDER_TRY(view.lanes.Keep(
            layer, head,
            KeepHighest(scores, view.lanes.Positions(layer, head), budget, sinks_, view.rows - last_)));
      }
    }
    return {};
  }

 private:
  const EvictBudget budget_;
  const int64_t sinks_, last_;
  const Future& future_;
};

constexpr int64_t kLogitRows = 16;

}  // namespace

Result<std::vector<Arm>> PlanArms(const std::string& methods, const std::string& budgets, int64_t sinks,
                                  int64_t last, const Model& model) {
  std::vector<Arm> arms;
  // A comma between methods; inside one, semicolons would be unusual, so "name:a=1" may have one parameter,
  // or more with '+': "name:a=1+b=2".
  for (const std::string& text : Split(methods, ',')) {
    const std::string name = text.substr(0, text.find(':'));
    std::string own = name.size() < text.size() ? text.substr(name.size() + 1) : "";
    std::ranges::replace(own, '+', ',');
    for (const std::string& budget : Split(budgets, ',')) {
      Arm arm{text, budget, ""};
      arm.spec = fmt::format("{}:budget={}", name, budget);
      if (own.find("sinks=") == std::string::npos) arm.spec += fmt::format(",sinks={}", sinks);
      if (own.find("last=") == std::string::npos && name != "lacache")
        arm.spec += fmt::format(",last={}", last);
      if (!own.empty()) arm.spec += "," + own;
      if (name == "oracle") {
        EvictCommon common;
        Params params("oracle");
        LARDER_TRY(ReadEvictParams(params, std::string_view(arm.spec).substr(7), common));
      } else {
        LARDER_TRY(CreateEvictMethod(arm.spec, EvictModelOf(model)));
      }
      arms.push_back(std::move(arm));
    }
  }
  if (arms.empty())
    return Fail(ErrorKind::kInvalid, "no methods or no budgets; add --methods snapkv,h2o --budgets 0.25");
  return arms;
}

struct ArmRunner::Impl {
  Impl(Model& m, std::vector<Arm> list, int64_t prompt_rows, int64_t scored_rows, std::unique_ptr<Session> s)
      : model(m),
        arms(std::move(list)),
        prompt(prompt_rows),
        scored(scored_rows),
        session(std::move(s)),
        resources(m, session->cache().MakePageSource()) {}

  Status Prefill(KvSequence& full, std::span<const int32_t> tokens);
  Result<std::unique_ptr<EvictDriver>> Begin(const Arm& arm, const KvSequence& full,
                                             std::span<const int32_t> tokens, ArmDocument& out);
  Status RunPrompt(EvictDriver& driver, int64_t from, std::span<const int32_t> tokens);
  Status Continue(std::vector<std::unique_ptr<EvictDriver>>& drivers, std::span<const int32_t> tokens);
  void Judge(std::span<const int32_t> tokens, std::vector<ArmDocument>& out);

  Model& model;
  const std::vector<Arm> arms;
  const int64_t prompt, scored;
  std::unique_ptr<Session> session;
  EvictResources resources;
  Future future;
  std::vector<std::vector<float>> hidden;  // [arm, the full cache last][scored rows * width]
  uint64_t full_bytes = 0;
};

ArmRunner::ArmRunner(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ArmRunner::~ArmRunner() = default;
const std::vector<Arm>& ArmRunner::arms() const { return impl_->arms; }
uint64_t ArmRunner::full_bytes() const { return impl_->full_bytes; }

Result<std::unique_ptr<ArmRunner>> ArmRunner::Create(Model& model, std::vector<Arm> arms, int64_t prompt,
                                                     int64_t scored) {
  const auto sequences = static_cast<int64_t>(arms.size()) + 2;
  LARDER_ASSIGN(auto session, Session::Create(model, prompt + scored + 1, sequences));
  return std::unique_ptr<ArmRunner>(
      new ArmRunner(std::make_unique<Impl>(model, std::move(arms), prompt, scored, std::move(session))));
}

// The full cache reads prompt and continuation; what the continuation looks at is the oracle's knowledge.
Status ArmRunner::Impl::Prefill(KvSequence& full, std::span<const int32_t> tokens) {
  class Capture final : public ForwardHooks {
   public:
    Capture(Impl& impl, const KvSequence& full) : impl_(impl), full_(full) {}
    bool WantsLse(int) const override { return true; }
    void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
    void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
      const ModelSpec& spec = impl_.model.spec();
      std::vector<TapRow> taps;
      for (size_t r = 0; r < rows.size(); ++r) {
        if (rows[r].position < impl_.prompt) continue;
        taps.push_back({q_ + r * static_cast<size_t>(spec.heads * spec.head_dim),
                        lse + r * static_cast<size_t>(spec.heads), rows[r].position});
      }
      auto& scores = impl_.future[static_cast<size_t>(layer)];
      std::vector<float*> sums;
      for (auto& head : scores) sums.push_back(head.data());
      ColumnSums(impl_.model.pool(), impl_.resources.scratch,
                 {layer, spec.heads, spec.kv_heads, spec.head_dim, spec.attention_scale,
                  spec.layers[static_cast<size_t>(layer)].window, impl_.model.kv_shape().type()},
                 full_, taps, {sums, {}});
    }

   private:
    Impl& impl_;
    const KvSequence& full_;
    const float* q_ = nullptr;
  };
  const ModelSpec& spec = model.spec();
  const auto padded = static_cast<size_t>((prompt + scored + 1 + kPageTokens) / kPageTokens * kPageTokens);
  future.assign(spec.layers.size(), std::vector<std::vector<float>>(static_cast<size_t>(spec.kv_heads),
                                                                    std::vector<float>(padded)));
  const auto rows = [&](int64_t from, int64_t count) {
    return tokens.subspan(static_cast<size_t>(from), static_cast<size_t>(count));
  };
  const auto nothing = [](int64_t, int, const float*) {};
  LARDER_TRY(session->Append(full, rows(0, prompt), prompt, nothing));
  full_bytes = session->cache().Held(full).bytes;
  LARDER_ASSIGN(auto ahead, session->Fork(full));
  std::vector<float>& base = hidden.back();
  Capture capture(*this, *ahead);
  LARDER_TRY(session->Append(
      *ahead, rows(prompt, scored), prompt,
      [&](int64_t, int n, const float* h) {
        base.insert(base.end(), h, h + static_cast<size_t>(n) * static_cast<size_t>(spec.width));
      },
      &capture));
  session->cache().Close(std::move(ahead));
  return {};
}

// Rows of the prompt that the method wants to see computed.
Status ArmRunner::Impl::RunPrompt(EvictDriver& driver, int64_t from, std::span<const int32_t> tokens) {
  HookChain hooks;
  std::vector<Row> rows;
  for (int64_t at = from; at < prompt;) {
    const int64_t end = std::min({at + Session::kChunkRows, driver.ChunkEnd(at), prompt});
    LARDER_TRY(driver.Reserve(end - driver.rows()));
    rows.clear();
    for (int64_t p = at; p < end; ++p) {
      Row row;
      row.token = tokens[static_cast<size_t>(p)];
      row.position = driver.PositionOf(p);
      row.kv = driver.store();
      row.writes_kv = p >= driver.rows();
      rows.push_back(row);
    }
    hooks.Clear();
    hooks.Add(driver.HooksFor(at));
    model.Forward(rows, nullptr, hooks.get());
    LARDER_TRY(driver.AfterRows(end, tokens));
    at = end;
  }
  return {};
}

Result<std::unique_ptr<EvictDriver>> ArmRunner::Impl::Begin(const Arm& arm, const KvSequence& full,
                                                            std::span<const int32_t> tokens,
                                                            ArmDocument& out) {
  std::unique_ptr<EvictMethod> method;
  if (arm.spec.starts_with("oracle:")) {
    EvictCommon common;
    Params params("oracle");
    LARDER_TRY(ReadEvictParams(params, std::string_view(arm.spec).substr(7), common));
    method = std::make_unique<Oracle>(common.parsed, common.sinks, common.last, future);
  } else {
    LARDER_ASSIGN(method, CreateEvictMethod(arm.spec, EvictModelOf(model)));
  }
  const Stopwatch watch;
  auto driver = std::make_unique<EvictDriver>(resources, std::move(method), prompt);
  // The last row runs again: that is when the method chooses.
  const int64_t readable = driver->ReadableRows() == prompt ? prompt : 0;
  LARDER_TRY(driver->Begin(&full, readable));
  LARDER_TRY(RunPrompt(*driver, readable == prompt ? prompt - 1 : 0, tokens));
  out.method_ms = watch.WallSeconds() * 1e3;
  out.private_bytes = driver->private_bytes();
  // Who begins with the full cache's rows holds them until it has chosen.
  out.peak_bytes = driver->peak_bytes() + (readable == prompt ? full_bytes : 0);
  out.entries = driver->LongestLane();
  return driver;
}

// All arms take the same token at once: one row each.
Status ArmRunner::Impl::Continue(std::vector<std::unique_ptr<EvictDriver>>& drivers,
                                 std::span<const int32_t> tokens) {
  const auto width = static_cast<size_t>(model.spec().width);
  HookChain hooks;
  std::vector<float> step(drivers.size() * width);
  for (int64_t at = prompt; at < prompt + scored; ++at) {
    std::vector<Row> rows;
    hooks.Clear();
    for (const auto& driver : drivers) {
      LARDER_TRY(driver->Reserve(1));
      hooks.Add(driver->HooksFor(at));
      Row row;
      row.token = tokens[static_cast<size_t>(at)];
      row.position = driver->PositionOf(at);
      row.kv = driver->store();
      row.wants_hidden = true;
      rows.push_back(row);
    }
    model.Forward(rows, step.data(), hooks.get());
    for (size_t arm = 0; arm < drivers.size(); ++arm) {
      hidden[arm].insert(hidden[arm].end(), step.begin() + static_cast<int64_t>(arm * width),
                         step.begin() + static_cast<int64_t>((arm + 1) * width));
      LARDER_TRY(drivers[arm]->AfterRows(at + 1, tokens));
    }
  }
  return {};
}

void ArmRunner::Impl::Judge(std::span<const int32_t> tokens, std::vector<ArmDocument>& out) {
  const auto width = static_cast<size_t>(model.spec().width),
             vocabulary = static_cast<size_t>(model.spec().vocabulary);
  std::vector<float> base(kLogitRows * vocabulary), other(base.size());
  for (ArmDocument& document : out) document.tokens.resize(static_cast<size_t>(scored));
  for (int64_t first = 0; first < scored; first += kLogitRows) {
    const int64_t n = std::min(kLogitRows, scored - first);
    model.Logits(hidden.back().data() + static_cast<size_t>(first) * width, static_cast<int>(n), base.data());
    for (size_t arm = 0; arm < out.size(); ++arm) {
      model.Logits(hidden[arm].data() + static_cast<size_t>(first) * width, static_cast<int>(n),
                   other.data());
      model.pool().Run(n, [&](int64_t i, int) {
        const size_t offset = static_cast<size_t>(i) * vocabulary;
        out[arm].tokens[static_cast<size_t>(first + i)] =
            Compare({base.data() + offset, vocabulary}, {other.data() + offset, vocabulary},
                    tokens[static_cast<size_t>(prompt + first + i + 1)]);
      });
    }
  }
}

Result<std::vector<ArmDocument>> ArmRunner::Run(std::span<const int32_t> tokens) {
  Impl& m = *impl_;
  LARDER_CHECK(static_cast<int64_t>(tokens.size()) == m.prompt + m.scored + 1);
  m.hidden.assign(m.arms.size() + 1, {});
  std::vector<ArmDocument> out(m.arms.size());
  LARDER_ASSIGN(auto full, m.session->Open());
  LARDER_TRY(m.Prefill(*full, tokens));
  {
    std::vector<std::unique_ptr<EvictDriver>> drivers;
    for (size_t arm = 0; arm < m.arms.size(); ++arm) {
      LARDER_ASSIGN(auto driver, m.Begin(m.arms[arm], *full, tokens, out[arm]));
      drivers.push_back(std::move(driver));
    }
    LARDER_TRY(m.Continue(drivers, tokens));
  }
  m.session->Close(std::move(full));
  m.Judge(tokens, out);
  return out;
}

}  // namespace larder
