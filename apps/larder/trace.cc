// larder trace replay: the eviction and admission policies on a recorded trace.
#include <fmt/core.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "larder/command.h"
#include "larder/trace_file.h"
#include "larder/trace_replay.h"
#include "store/admit/policy.h"
#include "store/evict/policy.h"

namespace larder {
namespace {

struct Capacity {
  uint64_t memory = 0, disk = 0;
};

// Parts between `separator`; a part in which parameters follow a colon goes on over "key=value" parts.
std::vector<std::string> Split(std::string_view list, char separator) {
  std::vector<std::string> parts;
  while (!list.empty()) {
    const size_t end = std::min(list.find(separator), list.size());
    const std::string part(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
    const bool more = part.find('=') != std::string::npos && part.find(':') == std::string::npos;
    if (more && !parts.empty()) {
      parts.back() += separator + part;
    } else {
      parts.push_back(part);
    }
  }
  return parts;
}

Result<uint64_t> Blocks(std::string_view text) {
  uint64_t blocks = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), blocks);
  if (error != std::errc() || end != text.data() + text.size() || blocks == 0 || blocks >= UINT32_MAX) {
    return Fail(ErrorKind::kInvalid,
                "\"{}\" is no number of blocks; write --capacities 1000,5000 or 1000+20000", text);
  }
  return blocks;
}

Result<std::vector<Capacity>> ParseCapacities(const std::string& list) {
  std::vector<Capacity> capacities;
  for (const std::string& part : Split(list, ',')) {
    const size_t plus = part.find('+');
    Capacity capacity;
    LARDER_ASSIGN(capacity.memory, Blocks(std::string_view(part).substr(0, plus)));
    if (plus != std::string::npos) {
      LARDER_ASSIGN(capacity.disk, Blocks(std::string_view(part).substr(plus + 1)));
    }
    capacities.push_back(capacity);
  }
  if (capacities.empty()) return Fail(ErrorKind::kInvalid, "--capacities is empty");
  return capacities;
}

double Share(double part, double whole) { return whole == 0 ? 0 : part / whole; }
double HitRatio(const ReplayFigures& figures) {
  return Share(static_cast<double>(figures.hit_tokens), static_cast<double>(figures.tokens));
}

class TraceCommand final : public Command {
 public:
  void Declare(Params& params) override {
    params.String("trace", &trace_, "a trace of requests with hash_ids, in the Mooncake format (JSON lines)");
    params.String(
        "capacities", &capacities_,
        "what the cache holds, in blocks of the trace: memory, or memory+disk; several with commas");
    params.String("policies", &policies_, "eviction policies to compare: " + EvictPolicyNames());
    params.String("admit", &admit_,
                  "what is written to the disk, several with commas: " + AdmitPolicyNames());
    params.Int("token-bytes", &token_bytes_, 1, int64_t{1} << 30,
               "KV bytes of a token, for the bytes written; 23040 is SmolLM2-135M in 16 bits");
    params.Bool("json", &json_, "figures as JSON instead of a table");
  }

  Status Run(const std::string& what) override {
    if (what != "replay") return Fail(ErrorKind::kInvalid, "write larder trace replay --trace FILE");
    if (trace_.empty()) return Fail(ErrorKind::kInvalid, "no trace is given; write --trace FILE");
    LARDER_ASSIGN(const auto capacities, ParseCapacities(capacities_));
    for (const std::string& policy : Split(policies_, ',')) LARDER_TRY(CreateEvictPolicy(policy));
    for (const std::string& admit : Split(admit_, ',')) LARDER_TRY(CreateAdmitPolicy(admit));
    LARDER_ASSIGN(const Trace trace, ReadTrace(trace_));
    for (const Capacity& capacity : capacities) LARDER_TRY(Compare(trace, capacity));
    Print(trace);
    return {};
  }

 private:
  struct Row {
    Capacity capacity;
    std::string policy, admit;
    ReplayFigures figures;
    double gap_closed;
  };

  Status Compare(const Trace& trace, const Capacity& capacity) {
    const ReplayFigures bound = ReplayBelady(trace, capacity.memory + capacity.disk);
    LARDER_ASSIGN(const ReplayFigures lru, Replay(trace, {capacity.memory, capacity.disk, "lru", "all"}));
    const double gap = HitRatio(bound) - HitRatio(lru);
    const auto add = [&](std::string policy, std::string admit, const ReplayFigures& figures) {
      rows_.push_back({capacity, std::move(policy), std::move(admit), figures,
                       Share(HitRatio(figures) - HitRatio(lru), gap)});
    };
    const auto admits = capacity.disk > 0 ? Split(admit_, ',') : std::vector<std::string>{"all"};
    for (const std::string& policy : Split(policies_, ',')) {
      for (const std::string& admit : admits) {
        LARDER_ASSIGN(const ReplayFigures figures,
                      Replay(trace, {capacity.memory, capacity.disk, policy, admit}));
        add(policy, capacity.disk > 0 ? admit : "", figures);
      }
    }
    add("(belady)", "", bound);
    return {};
  }

  double WrittenBytes(const ReplayFigures& figures) const {
    return static_cast<double>(figures.written_tokens) * static_cast<double>(token_bytes_);
  }

  void Print(const Trace& trace) const {
    if (json_) return PrintJson(trace);
    fmt::print("{}: {} requests, {} tokens, {} different blocks of {}\n\n", trace_, trace.requests.size(),
               rows_[0].figures.tokens, trace.blocks.size(), trace.block_tokens);
    fmt::print("{:>14} {:<22} {:<16} {:>8} {:>8} {:>9} {:>10} {:>12}\n", "blocks", "policy", "admit",
               "hits %", "disk %", "saved %", "gap %", "written GiB");
    for (const Row& row : rows_) {
      const ReplayFigures& figures = row.figures;
      const bool disk = row.capacity.disk > 0 && row.policy != "(belady)";
      const std::string blocks = row.capacity.disk > 0
                                     ? fmt::format("{}+{}", row.capacity.memory, row.capacity.disk)
                                     : std::to_string(row.capacity.memory);
      const auto percent = [](double share) { return fmt::format("{:.2f}", 100 * share); };
      fmt::print(
          "{:>14} {:<22} {:<16} {:>8} {:>8} {:>9} {:>10} {:>12}\n", blocks, row.policy, row.admit,
          percent(HitRatio(figures)),
          disk ? percent(Share(static_cast<double>(figures.disk_tokens), static_cast<double>(figures.tokens)))
               : "-",
          percent(Share(figures.work_saved, figures.work)), percent(row.gap_closed),
          disk ? fmt::format("{:.1f}", WrittenBytes(figures) / 0x1p30) : "-");
    }
    fmt::print(
        "\nhits: prompt tokens found; saved: computation, attention included; gap: from lru with everything "
        "written\nto Belady's bound, which knows the future.\n");
  }

  void PrintJson(const Trace& trace) const {
    nlohmann::ordered_json rows = nlohmann::ordered_json::array();
    for (const Row& row : rows_) {
      const ReplayFigures& figures = row.figures;
      rows.push_back({{"memory_blocks", row.capacity.memory},
                      {"disk_blocks", row.capacity.disk},
                      {"policy", row.policy},
                      {"admit", row.admit},
                      {"hit_ratio", HitRatio(figures)},
                      {"hit_tokens", figures.hit_tokens},
                      {"disk_tokens", figures.disk_tokens},
                      {"hit_blocks", figures.hit_blocks},
                      {"work_saved", Share(figures.work_saved, figures.work)},
                      {"gap_closed", row.gap_closed},
                      {"evicted_blocks", figures.evicted_blocks},
                      {"written_bytes", WrittenBytes(figures)}});
    }
    const nlohmann::ordered_json all = {{"trace", trace_},
                                        {"requests", trace.requests.size()},
                                        {"tokens", rows_[0].figures.tokens},
                                        {"block_uses", rows_[0].figures.blocks},
                                        {"blocks", trace.blocks.size()},
                                        {"block_tokens", trace.block_tokens},
                                        {"rows", rows}};
    fmt::print("{}\n", all.dump(2));
  }

  std::string trace_, capacities_ = "1000,5000,10000,20000,50000",
                      policies_ = "lru,lfu,fifo,slru,s3-fifo,cost";
  std::string admit_ = "all";
  int64_t token_bytes_ = 23040;
  bool json_ = false;
  std::vector<Row> rows_;
};

}  // namespace

std::unique_ptr<Command> CreateTrace() { return std::make_unique<TraceCommand>(); }

}  // namespace larder
