#include "larder/method_run.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "larder/measure.h"

namespace larder {
namespace {

// Hooks, and the time that they take.
class TimedHooks final : public ForwardHooks {
 public:
  TimedHooks(ForwardHooks& hooks, double& seconds) : hooks_(hooks), seconds_(seconds) {}
  void BeforeLayer(int layer, std::span<const Row> rows, float* x) override {
    Time([&] { hooks_.BeforeLayer(layer, rows, x); });
  }
  void BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) override {
    Time([&] { hooks_.BeforeRotation(layer, rows, k, v); });
  }
  void AfterQkv(int layer, std::span<const Row> rows, float* q, float* k, float* v) override {
    Time([&] { hooks_.AfterQkv(layer, rows, q, k, v); });
  }
  bool MayDismiss(int layer) const override { return hooks_.MayDismiss(layer); }
  void Dismiss(int layer, std::span<const Row> rows, std::span<uint8_t> leaves) override {
    Time([&] { hooks_.Dismiss(layer, rows, leaves); });
  }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
    Time([&] { hooks_.AfterAttention(layer, rows, lse); });
  }
  bool WantsLse(int layer) const override { return hooks_.WantsLse(layer); }

 private:
  template <class Call>
  void Time(const Call& call) {
    const Stopwatch watch;
    call();
    seconds_ += watch.WallSeconds();
  }
  ForwardHooks& hooks_;
  double& seconds_;
};

}  // namespace

MethodRun::MethodRun(EvictResources& resources, std::unique_ptr<EvictMethod> method, int64_t prompt_rows)
    : resources_(resources), driver_(resources, std::move(method), prompt_rows), prompt_rows_(prompt_rows) {}

Row MethodRun::RowAt(int64_t row, int32_t token) {
  Row out;
  out.token = token;
  out.position = driver_.PositionOf(row);
  out.kv = driver_.store();
  out.writes_kv = row >= driver_.rows();
  return out;
}

Result<int64_t> MethodRun::Advance(int64_t from, int64_t end, std::span<const int32_t> tokens,
                                   int64_t hidden_from, const Session::OnRows& on_rows) {
  const ModelSpec& spec = resources_.model.spec();
  end = std::min(end, from + Session::kChunkRows);
  if (const int64_t stop = driver_.ChunkEnd(from); stop > 0) end = std::min(end, stop);
  LARDER_TRY(driver_.Reserve(end - driver_.rows()));
  std::vector<Row> rows;
  int wanted = 0;
  for (int64_t at = from; at < end; ++at) {
    rows.push_back(RowAt(at, tokens[static_cast<size_t>(at)]));
    rows.back().wants_hidden = at >= hidden_from;
    wanted += rows.back().wants_hidden;
  }
  std::vector<float> hidden(static_cast<size_t>(wanted) * static_cast<size_t>(spec.width));
  if (ForwardHooks* const hooks = driver_.HooksFor(from); hooks != nullptr) {
    TimedHooks timed(*hooks, method_s_);
    resources_.model.Forward(rows, hidden.data(), &timed);
  } else {
    resources_.model.Forward(rows, hidden.data());
  }
  if (wanted > 0) on_rows(end - wanted, wanted, hidden.data());
  const Stopwatch watch;
  LARDER_TRY(driver_.AfterRows(end, tokens));
  method_s_ += watch.WallSeconds();
  return end;
}

Status MethodRun::Prompt(const KvSequence* full, std::span<const int32_t> tokens) {
  // Some methods read all of a prefix or nothing here: part of one would be worth nothing to a comparison.
  read_prefix_ = full != nullptr && driver_.ReadableRows() == prompt_rows_;
  LARDER_TRY(driver_.Begin(full, read_prefix_ ? prompt_rows_ : 0));
  // Behind a prefix the last row runs again: that is when the method chooses.
  for (int64_t at = read_prefix_ ? prompt_rows_ - 1 : 0; at < prompt_rows_;) {
    LARDER_ASSIGN(at, Advance(at, prompt_rows_, tokens, prompt_rows_, nullptr));
  }
  return {};
}

Status MethodRun::Append(std::span<const int32_t> tokens, int64_t hidden_from,
                         const Session::OnRows& on_rows) {
  const auto end = static_cast<int64_t>(tokens.size());
  for (int64_t at = driver_.rows(); at < end;) {
    LARDER_ASSIGN(at, Advance(at, end, tokens, hidden_from, on_rows));
  }
  return {};
}

}  // namespace larder
