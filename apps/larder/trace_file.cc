#include "larder/trace_file.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "base/file.h"

namespace larder {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMostBlockTokens = 1 << 20, kMostTokens = int64_t{1} << 40;

class TraceParser {
 public:
  Status Line(const Json& line) {
    if (!line.is_object()) return Fail(ErrorKind::kInvalid, "it is not a JSON object");
    if (line.contains("block_size") && !line.contains("hash_ids")) return Header(line);
    if (!line.contains("hash_ids") || !line["hash_ids"].is_array()) {
      return Fail(ErrorKind::kInvalid,
                  "it has no hash_ids; a trace of lengths alone says nothing about what is reused");
    }
    TraceRequest request;
    LARDER_ASSIGN(request.timestamp_ms, Number(line, "timestamp"));
    if (!trace_.requests.empty() && request.timestamp_ms < trace_.requests.back().timestamp_ms) {
      return Fail(ErrorKind::kInvalid, "its timestamp is earlier than the one before");
    }
    LARDER_ASSIGN(const int64_t tokens, Number(line, "input_length"));
    const Json& ids = line["hash_ids"];
    if (tokens == 0 || (tokens - 1) / trace_.block_tokens + 1 != static_cast<int64_t>(ids.size())) {
      return Fail(ErrorKind::kInvalid, "{} tokens are not {} blocks of {}", tokens, ids.size(),
                  trace_.block_tokens);
    }
    for (const Json& id : ids) {
      if (!id.is_number_integer() || id.get<int64_t>() < 0) {
        return Fail(ErrorKind::kInvalid, "a hash id is not a whole number from 0 on");
      }
      LARDER_TRY(Add(id.get<uint64_t>(), tokens, request));
    }
    trace_.requests.push_back(std::move(request));
    return {};
  }

  Trace Take() { return std::move(trace_); }

 private:
  static Result<int64_t> Number(const Json& line, const char* name) {
    const auto at = line.find(name);
    if (at == line.end() || !at->is_number_integer() || at->get<int64_t>() < 0 ||
        at->get<int64_t>() > kMostTokens) {
      return Fail(ErrorKind::kInvalid, "{} is not a whole number from 0 on", name);
    }
    return at->get<int64_t>();
  }

  Status Header(const Json& line) {
    LARDER_ASSIGN(trace_.block_tokens, Number(line, "block_size"));
    if (!trace_.requests.empty() || trace_.block_tokens < 1 || trace_.block_tokens > kMostBlockTokens) {
      return Fail(ErrorKind::kInvalid, "block_size is one number from 1 to {}, before all requests",
                  kMostBlockTokens);
    }
    return {};
  }

  Status Add(uint64_t id, int64_t request_tokens, TraceRequest& request) {
    TraceBlock block;
    block.parent = request.blocks.empty() ? kNoBlock : request.blocks.back();
    block.start = static_cast<int64_t>(request.blocks.size()) * trace_.block_tokens;
    block.tokens = std::min(trace_.block_tokens, request_tokens - block.start);
    const auto [at, fresh] = numbers_.emplace(id, static_cast<uint32_t>(trace_.blocks.size()));
    if (fresh) {
      if (trace_.blocks.size() >= kNoBlock) return Fail(ErrorKind::kInvalid, "there are too many blocks");
      trace_.blocks.push_back(block);
    }
    const TraceBlock& known = trace_.blocks[at->second];
    if (known.parent != block.parent || known.start != block.start || known.tokens != block.tokens) {
      return Fail(ErrorKind::kInvalid, "block {} stood after another one before, or was of another length",
                  id);
    }
    request.blocks.push_back(at->second);
    return {};
  }

  Trace trace_;
  std::unordered_map<uint64_t, uint32_t> numbers_;
};

}  // namespace

Result<Trace> ParseTrace(std::string_view text) {
  TraceParser parser;
  for (int64_t number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    const Json json = Json::parse(line, nullptr, false);
    const Status status =
        json.is_discarded() ? Fail(ErrorKind::kInvalid,
                                   "it is not JSON; lengths alone (a CSV file) would not say what is reused")
                            : parser.Line(json);
    if (!status) return Fail(status.error().kind, "line {}: {}", number, status.error().message);
  }
  Trace trace = parser.Take();
  if (trace.requests.empty()) return Fail(ErrorKind::kInvalid, "there are no requests in it");
  return trace;
}

Result<Trace> ReadTrace(const std::string& path) {
  LARDER_ASSIGN(const std::string text, ReadFile(path));
  auto trace = ParseTrace(text);
  if (!trace) return Fail(trace.error().kind, "{}: {}", path, trace.error().message);
  return trace;
}

}  // namespace larder
