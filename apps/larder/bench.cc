// larder bench: what is measured decides the file. Here prefill|decode|batch: speed of the model and the
// cache, without server and scheduler, beside other engines in the same run.
//
// A round measures every engine at every point once, A B C A B C, so that a slow minute falls on all of them;
// the median of the rounds is reported with its spread. Beside tokens a second stand bytes and
// multiplications a second, and the share of what this machine was measured to allow.
#include <fmt/core.h>

#include <algorithm>

#include "compute/probe.h"
#include "larder/bench_report.h"
#include "larder/bench_settings.h"
#include "larder/command.h"
#include "larder/model_flags.h"
#include "larder/peer_process.h"
#include "larder/terminal.h"

namespace larder {
namespace {

std::vector<std::string> Split(const std::string& list) {
  std::vector<std::string> out;
  for (size_t at = 0; at < list.size();) {
    const size_t end = std::min(list.find(',', at), list.size());
    if (end > at) out.push_back(list.substr(at, end - at));
    at = end + 1;
  }
  return out;
}

class Bench final : public Command {
 public:
  void Declare(Params& params) override {
    settings_.flags.Declare(params);
    params.String("lengths", &settings_.lengths,
                  "context lengths in tokens, separated by commas; end: the model's longest, at most 8192; "
                  "empty: short and long "
                  "ones that suit what is measured");
    params.String("other-kv-type", &other_kv_type_,
                  "prefill, decode, batch: measure Larder with this cache, too (as --kv-type); empty: no");
    params.String("methods", &settings_.methods,
                  "decode: eviction methods to measure beside the full cache, separated by commas, each with "
                  "parameters joined by '+': h2o:budget=256,snapkv:budget=256+window=16; all go on from one "
                  "prompt, round after round; empty: none");
    params.Int("rounds", &settings_.rounds, 1, 1000,
               "measurements of every engine at every length, interleaved");
    params.Int("tokens", &settings_.tokens, 1, 4096,
               "tokens a measurement, for each sequence; schedule: steps a round");
    params.Int("sequences", &settings_.sequences, 0, 256,
               "sequences that decode together; 0: 1 for decode and attention, 8 for batch, 16 for serve; "
               "turns: conversations, 0: 20");
    params.Int("turns", &settings_.turns, 2, 1000, "turns: how many each conversation has");
    params.String("rows", &settings_.rows, "matmul: rows that are multiplied together, separated by commas");
    params.String(
        "peers", &peers_,
        "Python interpreter of scripts/peers, to measure other engines in the same run; auto: the one in the "
        "cache directory if it is there; none");
    params.String("peer-models", &peer_models_,
                  "GGUF files that each peer is measured with, separated by commas; empty: the model itself");
    params.String("peer-engines", &peer_engines_, "peers to measure, separated by commas: llama, openvino");
    params.String("redis", &settings_.redis, "restore: URL of a Redis to measure with; empty: none");
    params.String(
        "disk", &settings_.disk,
        "store, restore, turns: directory on the disk to measure; a folder is made in it and removed. store "
        "writes several gigabytes. Beside the store "
        "are measured: the bare disk, a file per block, RocksDB's blob files if they are built in, and "
        "what code without a store does: one read after the other for each block and layer, on one "
        "thread, past the page cache, straight to its place");
    params.Int("blocks", &settings_.blocks, 128, 1 << 20,
               "store: blocks of the default model that are moved");
    params.String("records", &settings_.records,
                  "store: how many records of 4 KiB are found again, separated by commas");
    params.Bool("json", &settings_.json, "one object a line instead of a table");
  }

  Status Run(const std::string& what) override {
    for (const auto& [name, measure] : kOthers)
      if (name == what) return measure(settings_);
    if (what != "prefill" && what != "decode" && what != "batch")
      return Fail(ErrorKind::kInvalid,
                  "'{}' is not known; write prefill, decode, batch, serve, load, attention, matmul, "
                  "schedule, pool, memory, restore, overlap, turns, blend, store or neighbour",
                  what);
    if (settings_.methods.empty()) return MeasureEngines(what);
    if (what == "decode" && other_kv_type_.empty()) return BenchMethods(settings_);
    return Fail(ErrorKind::kInvalid, "--methods is of decode, and goes without --other-kv-type");
  }

 private:
  static constexpr std::pair<std::string_view, Status (*)(const BenchSettings&)> kOthers[] = {
      {"matmul", BenchMatMul},     {"attention", BenchAttention}, {"serve", BenchServe},
      {"schedule", BenchSchedule}, {"neighbour", BenchNeighbour}, {"load", BenchLoad},
      {"restore", BenchRestore},   {"store", BenchStore},         {"pool", BenchPool},
      {"memory", BenchMemory},     {"blend", BenchBlend},         {"overlap", BenchOverlap},
      {"turns", BenchTurns},
  };

  Status MeasureEngines(const std::string& what) {
    LARDER_ASSIGN(model_, settings_.flags.Load());
    LARDER_ASSIGN(const auto points, Points(what, model_->spec().context));
    report_.what = what;
    report_.model = model_->name();
    report_.weights =
        model_->weights_digest().Hex().substr(0, 16) + ", " + FormatSize(model_->weight_bytes());
    report_.simd = SimdTargetName();
    report_.math = settings_.flags.math;
    report_.kv_type = settings_.flags.kv_type;
    report_.threads = model_->pool().threads();
    report_.rounds = settings_.rounds;
    LARDER_ASSIGN(report_.roofline, MeasureRoofline(model_->pool()));
    LARDER_ASSIGN(auto own, CreateLarderEngine(*model_, std::string(kOwnEngine), points));
    engines_.push_back(std::move(own));
    if (!other_kv_type_.empty()) {
      LARDER_ASSIGN(other_model_, settings_.flags.LoadAs(settings_.flags.math, other_kv_type_));
      LARDER_ASSIGN(
          auto other,
          CreateLarderEngine(*other_model_, fmt::format("{}, {}", kOwnEngine, other_kv_type_), points));
      engines_.push_back(std::move(other));
    }
    LARDER_TRY(AddPeers(*model_, points[0].decode));
    LARDER_TRY(Measure(*model_, points));
    if (settings_.json) {
      report_.PrintJson();
    } else {
      report_.PrintTable();
    }
    return {};
  }

  // Both ends of the context for what is cheap at the far end.
  Result<std::vector<BenchPoint>> Points(const std::string& what, int64_t context) const {
    const bool decode = what == "decode";
    LARDER_ASSIGN(const auto lengths, settings_.Lengths(decode ? "32,2048,end" : "512,2048", context,
                                                        what == "prefill" ? 0 : settings_.tokens + 1));
    const int64_t together = what == "batch" ? 8 : 1;
    std::vector<BenchPoint> points;
    for (const int64_t length : lengths) {
      if (what == "prefill") {
        points.push_back({.decode = false, .length = length});
      } else {
        points.push_back({.decode = true,
                          .length = length,
                          .sequences = settings_.sequences > 0 ? settings_.sequences : together,
                          .tokens = settings_.tokens});
      }
    }
    return points;
  }

  // A peer that cannot start is left out, and the report says so.
  Status AddPeers(const Model& model, bool decode) {
    const std::string python = peers_ == "auto" ? FindPeersPython() : peers_ == "none" ? "" : peers_;
    if (python.empty()) return {};
    std::vector<std::string> files = Split(peer_models_);
    if (files.empty()) files.push_back(settings_.flags.model);
    for (const std::string& kind : Split(peer_engines_)) {
      if (kind != "llama" && kind != "openvino")
        return Fail(ErrorKind::kInvalid, "'{}' is no peer; write llama or openvino", kind);
      for (const std::string& file : files) {
        auto peer = CreatePeerEngine(kind, python, file, model, report_.threads, decode);
        if (peer) {
          engines_.push_back(*std::move(peer));
        } else {
          report_.not_measured.push_back(fmt::format("{} with {}: {}", kind, file, peer.error().message));
        }
      }
    }
    return {};
  }

  // Round 0 warms and is not kept. A peer that fails is left out from then on; Larder must not.
  Status Measure(const Model& model, const std::vector<BenchPoint>& points) {
    ProgressBar bar("measuring");
    std::vector<BenchSeries> series;
    for (const BenchPoint& point : points)
      for (const auto& engine : engines_)
        series.push_back({.engine = engine->name(),
                          .point = point,
                          .macs = PointMacs(model.spec(), point),
                          .seconds = {},
                          .note = {},
                          .busy = BusyWatch(report_.threads)});
    std::vector<bool> failed(engines_.size(), false);
    for (int64_t round = 0; round <= settings_.rounds; ++round) {
      for (size_t i = 0; i < series.size(); ++i) {
        const size_t e = i % engines_.size();
        bar.Update(
            static_cast<double>(round * static_cast<int64_t>(series.size()) + static_cast<int64_t>(i)) /
            static_cast<double>((settings_.rounds + 1) * static_cast<int64_t>(series.size())));
        if (failed[e]) continue;
        const auto sample = engines_[e]->Run(series[i].point);
        if (!sample) {
          if (engines_[e]->name().starts_with(kOwnEngine)) return std::unexpected(sample.error());
          failed[e] = true;
          report_.not_measured.push_back(fmt::format("{}: {}", engines_[e]->name(), sample.error().message));
        } else if (round > 0) {
          Keep(*sample, series[i]);
        }
      }
    }
    bar.Clear();
    for (size_t i = 0; i < series.size(); ++i)
      if (!failed[i % engines_.size()]) report_.series.push_back(std::move(series[i]));
    return {};
  }

  static void Keep(const BenchSample& sample, BenchSeries& series) {
    series.seconds.push_back(sample.seconds);
    series.bytes = sample.bytes;  // the same each time
    series.note = sample.note;
    series.busy.Add(sample.seconds, sample.cpu_seconds, sample.busy_seconds);
  }

  BenchSettings settings_;
  std::string peers_ = "auto", peer_models_, peer_engines_ = "llama,openvino";
  BenchReport report_;
  std::string other_kv_type_;
  std::unique_ptr<Model> model_, other_model_;  // outlive the engines
  std::vector<std::unique_ptr<BenchEngine>> engines_;
};

}  // namespace

std::unique_ptr<Command> CreateBench() { return std::make_unique<Bench>(); }

}  // namespace larder
