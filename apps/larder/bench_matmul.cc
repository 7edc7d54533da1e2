// larder bench matmul: the matrix products of a model's own shapes, without the rest of the model.
//
// One measurement goes through all layers in the model's order, as a step does, so that weights come from
// where they come from in a step: from memory, unless the whole model fits a cache.
#include <algorithm>
#include <array>

#include "compute/matmul.h"
#include "engine/sampler.h"
#include "larder/bench_figures.h"
#include "larder/terminal.h"
#include "model/weights.h"

namespace larder {
namespace {

constexpr double kLeastSeconds = 0.02;  // of a measurement; a single pass of one row takes milliseconds

// The products that a layer does in one call each, and the head.
enum Product { kQkv, kAttentionOut, kGateUp, kDown, kHead, kProducts };
constexpr std::array<const char*, kProducts> kNames = {"qkv", "attn_output", "gate_up", "down", "head"};

class MatMulBench {
 public:
  MatMulBench(const ModelSpec& spec, const ModelWeights& weights, ThreadPool& pool)
      : spec_(spec), weights_(weights), pool_(pool) {}

  // Times of all products of one kind in one pass, averaged over as many passes as a measurement needs.
  std::array<double, kProducts> Measure(int rows) {
    Prepare(rows);
    std::array<double, kProducts> seconds{};
    int passes = 0;
    const Stopwatch watch;
    do {
      Pass(rows, seconds);
      ++passes;
    } while (watch.WallSeconds() < kLeastSeconds);
    for (double& s : seconds) s /= passes;
    return seconds;
  }

  double Macs(Product product) const {
    double macs = 0;
    Visit(product, [&](const Matrix& m) {
      macs += static_cast<double>(m.inputs()) * static_cast<double>(m.outputs());
    });
    return macs;
  }
  double Bytes(Product product) const {
    double bytes = 0;
    Visit(product, [&](const Matrix& m) { bytes += static_cast<double>(m.bytes()); });
    return bytes;
  }

 private:
  template <class Each>
  void Visit(Product product, Each each) const {
    if (product == kHead) return each(weights_.head);
    for (const LayerWeights& w : weights_.layers) {
      if (product == kQkv) each(w.q), each(w.k), each(w.v);
      if (product == kAttentionOut) each(w.attention_out);
      if (product == kGateUp) each(w.gate), each(w.up);
      if (product == kDown) each(w.down);
    }
  }

  void Prepare(int rows) {
    const size_t n = static_cast<size_t>(rows);
    const int64_t q_width = int64_t{spec_.heads} * spec_.head_dim;
    const int64_t inputs = std::max({int64_t{spec_.width}, int64_t{spec_.feed_forward}, q_width});
    const int64_t outputs =
        std::max({inputs, 2 * int64_t{spec_.feed_forward}, q_width * 3, spec_.vocabulary});
    const size_t had = x_.size();
    x_.resize(std::max(had, n * static_cast<size_t>(inputs)));
    for (size_t i = had; i < x_.size(); ++i) x_[i] = static_cast<float>(CounterUniform(1, 0, i) - 0.5);
    y_.resize(std::max(y_.size(), n * static_cast<size_t>(outputs)));
  }

  void Pass(int rows, std::array<double, kProducts>& seconds) {
    for (const LayerWeights& w : weights_.layers) {
      seconds[kQkv] += Time(rows, {&w.q, &w.k, &w.v});
      seconds[kAttentionOut] += Time(rows, {&w.attention_out});
      seconds[kGateUp] += Time(rows, {&w.gate, &w.up});
      seconds[kDown] += Time(rows, {&w.down});
    }
    seconds[kHead] += Time(rows, {&weights_.head});
  }

  double Time(int rows, std::initializer_list<const Matrix*> matrices) {
    std::array<MatMulTarget, 3> targets;
    size_t count = 0;
    float* y = y_.data();
    for (const Matrix* m : matrices) {
      targets[count++] = {m, y, m->outputs()};
      y += static_cast<int64_t>(rows) * m->outputs();
    }
    const int64_t inputs = (*matrices.begin())->inputs();
    const Stopwatch watch;
    MatMul(pool_, scratch_, x_.data(), inputs, rows, std::span(targets).first(count));
    return watch.WallSeconds();
  }

  const ModelSpec& spec_;
  const ModelWeights& weights_;
  ThreadPool& pool_;
  MatMulScratch scratch_;
  std::vector<float> x_, y_;
};

std::string ShapeOf(const ModelSpec& spec, int product) {
  const int q = spec.heads * spec.head_dim, kv = spec.kv_heads * spec.head_dim;
  switch (product) {
    case kQkv:
      return fmt::format("{}x({}+{}+{})", spec.width, q, kv, kv);
    case kAttentionOut:
      return fmt::format("{}x{}", q, spec.width);
    case kGateUp:
      return fmt::format("{}x(2*{})", spec.width, spec.feed_forward);
    case kDown:
      return fmt::format("{}x{}", spec.feed_forward, spec.width);
    default:
      return fmt::format("{}x{}", spec.width, spec.vocabulary);
  }
}

}  // namespace

Status BenchMatMul(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto row_counts, ParseNumbers(settings.rows, 1, 1 << 14));
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  FigureReport report = BeginReport("matmul", *model, settings);
  ThreadPool& pool = model->pool();
  const MathMode math = model->math();
  LARDER_ASSIGN(const ModelWeights weights, PackWeights(model->file(), model->spec(), math, pool, nullptr));
  report.threads = pool.threads();
  report.has_roofline = true;
  LARDER_ASSIGN(report.roofline, MeasureRoofline(pool));
  report.note =
      "roof_pct: share of what reading those weights and multiplying so often (bytes; floats with --math "
      "f32) would "
      "allow here";

  MatMulBench bench(model->spec(), weights, pool);
  std::vector<std::array<std::vector<double>, kProducts>> seconds(row_counts.size());
  std::vector<BusyWatch> busy(row_counts.size(), BusyWatch(pool.threads()));
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    for (size_t i = 0; i < row_counts.size(); ++i) {
      const double before = SystemBusySeconds();
      const Stopwatch watch;
      const auto sample = bench.Measure(static_cast<int>(row_counts[i]));
      const double wall = watch.WallSeconds(), cpu = watch.CpuSeconds();
      if (round == 0) continue;
      busy[i].Add(wall, cpu, SystemBusySeconds() - before);
      for (size_t p = 0; p < kProducts; ++p) seconds[i][p].push_back(sample[p]);
    }
  }
  bar.Clear();

  const double gmac =
      math == MathMode::kFast ? report.roofline.byte_gmac_per_s : report.roofline.float_gmac_per_s;
  for (size_t i = 0; i < row_counts.size(); ++i) {
    for (int p = 0; p < kProducts; ++p) {
      const auto& times = seconds[i][static_cast<size_t>(p)];
      const double macs = bench.Macs(static_cast<Product>(p)) * static_cast<double>(row_counts[i]);
      const double bytes = bench.Bytes(static_cast<Product>(p));
      const double allowed = std::max(bytes / (report.roofline.read_gb_per_s * 1e9), macs / (gmac * 1e9));
      const double median = SpreadOf(times).median;
      report.rows.push_back(
          {.labels = {{"product", kNames[static_cast<size_t>(p)]},
                      {"shape", ShapeOf(model->spec(), p)},
                      {"rows", std::to_string(row_counts[i])}},
           .values = {RateOf("gmac_per_s", times, macs * 1e-9), RateOf("gb_per_s", times, bytes * 1e-9),
                      SingleValue("ms", median * 1e3, 3), SingleValue("roof_pct", 100 * allowed / median, 0)},
           .warning = busy[i].Warning()});
    }
  }
  report.Print(settings.json);
  return {};
}

}  // namespace larder
