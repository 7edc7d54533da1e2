// larder bench attention: attention of a model's shape over a filled cache, without the rest of the model.
// All layers in turn, as in a step, so that pages come from memory where they would.
#include <algorithm>
#include <map>

#include "compute/attention.h"
#include "engine/sampler.h"
#include "larder/bench_figures.h"
#include "larder/session.h"
#include "larder/terminal.h"
#include "model/attention_shape.h"

namespace larder {
namespace {

constexpr int64_t kPrefillRows = 128;  // of one chunk, the last rows of the context
constexpr int64_t kFillRows = 512;     // made writable at a time

// One point: rows at the end of contexts of this length.
struct Point {
  bool decode;
  int64_t length;
  int64_t rows;  // decode: one a sequence; prefill: all of one
};

class AttentionBench {
 public:
  AttentionBench(Session& session, KvType type)
      : session_(session), spec_(session.model().spec()), type_(type) {}
  ~AttentionBench() {
    for (auto& [length, filled] : filled_)
      for (auto& sequence : filled) session_.Close(std::move(sequence));
  }

  // Sequences of this length whose rows are noise.
  Status Fill(int64_t length, int64_t sequences) {
    const size_t kv_width = static_cast<size_t>(spec_.kv_heads) * static_cast<size_t>(spec_.head_dim);
    std::vector<float> noise(kv_width + 1024);
    for (size_t i = 0; i < noise.size(); ++i) noise[i] = static_cast<float>(CounterUniform(2, 0, i) * 2 - 1);
    auto& filled = filled_[length];
    while (static_cast<int64_t>(filled.size()) < sequences) {
      LARDER_ASSIGN(auto sequence, session_.Open());
      const auto tokens = FillerTokens(length, spec_.vocabulary, filled.size() + 1);
      for (int64_t begin = 0; begin < length; begin += kFillRows) {
        const int64_t n = std::min(kFillRows, length - begin);
        LARDER_TRY(session_.cache().Reserve(*sequence, n));
        for (int64_t position = begin; position < begin + n; ++position) Write(*sequence, position, noise);
        session_.cache().Publish(
            *sequence, std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(n)));
      }
      filled.push_back(std::move(sequence));
    }
    return {};
  }

  void Run(ThreadPool& pool, const Point& point) {
    const size_t q_width = static_cast<size_t>(spec_.heads) * static_cast<size_t>(spec_.head_dim);
    const size_t n = static_cast<size_t>(point.rows);
    const size_t had = q_.size();
    q_.resize(std::max(had, n * q_width));
    for (size_t i = had; i < q_.size(); ++i) q_[i] = static_cast<float>(CounterUniform(3, 0, i) * 2 - 1);
    out_.resize(std::max(out_.size(), n * q_width));
    rows_.clear();
    const auto& sequences = filled_[point.length];
    for (size_t r = 0; r < n; ++r) {
      const int64_t position =
          point.decode ? point.length - 1 : point.length - point.rows + static_cast<int64_t>(r);
      rows_.push_back({&q_[r * q_width], &out_[r * q_width], nullptr, sequences[point.decode ? r : 0].get(),
                       static_cast<int32_t>(position)});
    }
    for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
      Attention(pool, scratch_, AttentionShapeOf(spec_, layer, type_), rows_);
    }
  }

  uint64_t pages_read() const { return scratch_.pages_read(); }

 private:
  void Write(KvSequence& sequence, int64_t position, const std::vector<float>& noise) {
    for (int layer = 0; layer < static_cast<int>(spec_.layers.size()); ++layer) {
      for (int head = 0; head < spec_.kv_heads; ++head) {
        const size_t at = static_cast<size_t>(position * 7 + layer * 31 + head * 3) % 1024;
        StoreKvRow(type_, spec_.head_dim, &noise[at], &noise[at + 1],
                   sequence.WritablePage(layer, head, position), static_cast<int>(position % kPageTokens));
        if (position % kPageTokens == kPageTokens - 1)
          sequence.CompletePage(layer, head, position / kPageTokens);
      }
    }
  }

  Session& session_;
  const ModelSpec& spec_;
  const KvType type_;
  AttentionScratch scratch_;
  std::map<int64_t, std::vector<std::unique_ptr<KvSequence>>> filled_;  // by length
  std::vector<float> q_, out_;
  std::vector<AttentionRow> rows_;
};

double PointMacsOf(const ModelSpec& spec, const Point& point) {
  if (point.decode) return static_cast<double>(point.rows) * AttentionMacs(spec, point.length);
  double macs = 0;
  for (int64_t r = 0; r < point.rows; ++r) macs += AttentionMacs(spec, point.length - r);
  return macs;
}

}  // namespace

Status BenchAttention(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  LARDER_ASSIGN(const auto lengths, settings.Lengths("32,512,2048,end", model->spec().context, 0));
  FigureReport report = BeginReport("attention", *model, settings);
  ThreadPool& pool = model->pool();
  report.threads = pool.threads();
  report.has_roofline = true;
  LARDER_ASSIGN(report.roofline, MeasureRoofline(pool));
  report.note =
      "roof_pct: share of what reading those pages and multiplying floats so often would allow here";

  const int64_t together = std::max<int64_t>(1, settings.sequences);
  std::vector<Point> points;
  int64_t longest = 1;
  for (const int64_t length : lengths) {
    longest = std::max(longest, length);
    points.push_back({true, length, together});
    points.push_back({false, length, std::min(kPrefillRows, length)});
  }
  LARDER_ASSIGN(const auto session,
                Session::Create(*model, longest, together * static_cast<int64_t>(lengths.size())));
  AttentionBench bench(*session, model->kv_shape().type());
  ProgressBar bar("measuring");
  for (const int64_t length : lengths) LARDER_TRY(bench.Fill(length, together));

  std::vector<TimedWork> times(points.size(), TimedWork(pool.threads()));
  std::vector<double> bytes(points.size());
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    for (size_t i = 0; i < points.size(); ++i) {
      const uint64_t pages = bench.pages_read();
      AddTimed(times[i], round > 0, [&] { bench.Run(pool, points[i]); });
      bytes[i] = static_cast<double>(bench.pages_read() - pages) *
                 static_cast<double>(model->kv_shape().page_bytes(model->kv_shape().FullForm(1)));
    }
  }
  bar.Clear();
  for (size_t i = 0; i < points.size(); ++i) {
    const double macs = PointMacsOf(model->spec(), points[i]), median = times[i].Median();
    const double allowed = std::max(bytes[i] / (report.roofline.read_gb_per_s * 1e9),
                                    macs / (report.roofline.float_gmac_per_s * 1e9));
    report.rows.push_back(
        {.labels = {{"rows_of", points[i].decode ? "decode" : "prefill"},
                    {"length", std::to_string(points[i].length)},
                    {"rows", std::to_string(points[i].rows)}},
         .values = {RateOf("gmac_per_s", times[i].seconds, macs * 1e-9),
                    RateOf("gb_per_s", times[i].seconds, bytes[i] * 1e-9), SingleValue("ms", median * 1e3, 3),
                    SingleValue("roof_pct", 100 * allowed / median, 0)},
         .warning = times[i].busy.Warning()});
  }
  report.Print(settings.json);
  return {};
}

}  // namespace larder
