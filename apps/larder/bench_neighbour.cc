// larder bench neighbour: one thread against several, alone and beside processes that compute all the time. A
// thread that waits at a barrier for a partner without a core can make two threads slower than one; this
// shows whether.
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "larder/bench_engine.h"
#include "larder/bench_figures.h"
#include "larder/bench_report.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr int64_t kPrefill = 256;

// Child processes that count, bound to no core, while this lives.
class Neighbours {
 public:
  explicit Neighbours(int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      const pid_t pid = fork();
      if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (volatile uint64_t counted = 0;;) counted = counted + 1;
      }
      if (pid > 0) pids_.push_back(pid);
    }
  }
  ~Neighbours() {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
    for (const pid_t pid : pids_) waitpid(pid, nullptr, 0);
  }
  Neighbours(const Neighbours&) = delete;
  Neighbours& operator=(const Neighbours&) = delete;

 private:
  std::vector<pid_t> pids_;
};

// The same model with its own number of threads.
struct Contestant {
  std::unique_ptr<Model> model;
  std::unique_ptr<BenchEngine> engine;
};

Result<Contestant> Load(const ModelFlags& flags, int64_t threads, const std::vector<BenchPoint>& points) {
  ModelFlags own = flags;
  own.threads = threads;
  Contestant out;
  LARDER_ASSIGN(out.model, own.Load());
  LARDER_ASSIGN(out.engine, CreateLarderEngine(*out.model, std::string(kOwnEngine), points));
  return out;
}

}  // namespace

Status BenchNeighbour(const BenchSettings& settings) {
  ModelFlags flags = settings.flags;
  const int64_t many = flags.threads > 1 ? flags.threads : 2;
  LARDER_ASSIGN(const auto file, GgufFile::Open(flags.model));
  LARDER_ASSIGN(const ModelSpec spec, DescribeModel(*file));
  LARDER_ASSIGN(const auto lengths, settings.Lengths("32,2048", spec.context, settings.tokens + 1));
  std::vector<BenchPoint> points = {{.decode = false, .length = std::min(kPrefill, spec.context)}};
  for (const int64_t length : lengths)
    points.push_back({.decode = true, .length = length, .tokens = settings.tokens});
  LARDER_ASSIGN(const Contestant one, Load(flags, 1, points));
  LARDER_ASSIGN(const Contestant several, Load(flags, many, points));

  constexpr std::array<int64_t, 3> kNeighbours = {0, 1, 2};
  std::vector<std::array<std::vector<double>, 2>> seconds(points.size() * kNeighbours.size());
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    for (size_t n = 0; n < kNeighbours.size(); ++n) {
      bar.Update(static_cast<double>(static_cast<size_t>(round) * kNeighbours.size() + n) /
                 static_cast<double>(static_cast<size_t>(settings.rounds + 1) * kNeighbours.size()));
      const Neighbours neighbours(round > 0 ? kNeighbours[n] : 0);
      for (size_t p = 0; p < points.size(); ++p) {
        for (size_t t = 0; t < 2; ++t) {
          LARDER_ASSIGN(const BenchSample sample, (t == 0 ? one : several).engine->Run(points[p]));
          if (round > 0) seconds[n * points.size() + p][t].push_back(sample.seconds);
        }
      }
    }
  }
  bar.Clear();

  FigureReport report = BeginReport("neighbour", *several.model, settings);
  report.threads = static_cast<int>(many);
  report.note = fmt::format(
      "tokens a second; ratio: {} threads to one thread just before, beside so many processes that compute",
      many);
  for (size_t i = 0; i < seconds.size(); ++i) {
    const BenchPoint& point = points[i % points.size()];
    const double tokens = static_cast<double>(point.TokensProcessed());
    std::vector<double> ratios;  // of measurements that followed each other
    for (size_t r = 0; r < seconds[i][0].size(); ++r) ratios.push_back(seconds[i][0][r] / seconds[i][1][r]);
    report.rows.push_back({.labels = {{"neighbours", std::to_string(kNeighbours[i / points.size()])},
                                      {"work", point.decode ? "decode" : "prefill"},
                                      {"length", std::to_string(point.length)}},
                           .values = {RateOf("1_thread", seconds[i][0], tokens),
                                      RateOf(fmt::format("{}_threads", many), seconds[i][1], tokens),
                                      SpreadValue("ratio", ratios, 2)},
                           .warning = ""});
  }
  report.Print(settings.json);
  return {};
}

}  // namespace larder
