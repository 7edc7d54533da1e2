// What the engine is asked and what it answers. Nothing here knows about HTTP.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "engine/hints.h"
#include "kv/outcome.h"
#include "store/tier.h"

namespace larder {

struct SamplingParams {
  float temperature = 1.0f;  // 0: greedy
  int32_t top_k = 0;         // 0: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;  // over prompt and output
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  std::vector<std::pair<int32_t, float>> logit_bias = {};
  uint64_t seed = 0;  // noise is keyed by (seed, choice, position): batching cannot change it
};

// A part of a prompt that is worth storing as a chunk (kv/reuse/chunks.h).
struct PromptPart {
  int64_t begin = 0, rows = 0;
};

struct Request {
  std::string id;  // for logs and answers
  std::string tenant;
  std::optional<SpaceId> space = {};  // of the tenant's records below memory; the engine fills it in
  std::vector<int32_t> prompt;        // at least one token
  SamplingParams sampling;
  int32_t n = 1;            // choices; they share the prompt
  int64_t max_tokens = -1;  // -1: up to the context length
  int64_t min_tokens = 0;   // end tokens and stops are ignored before
  bool ignore_eos = false;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_tokens;
  bool skip_special = true;      // control tokens give no text
  int32_t logprobs = -1;         // alternatives reported for each generated token; -1: no logprobs
  int32_t prompt_logprobs = -1;  // the same for prompt tokens (echo)
  int32_t priority = 0;          // lower runs first
  bool explain = false;
  bool read_cache = true;
  CacheHints hints = {};
  std::string evict = {};   // "snapkv:budget=0.25" (kv/evict), "none"; "": as the engine was started
  bool keep_state = false;  // what its method leaves is kept for others with this set, and theirs is read
  std::string reuse = {};   // "blend:ratio=0.15" (kv/reuse), "prefix"; "": as the engine was started
  // Parts to be stored, if they are not yet: with a method that reuses chunks before it runs, else behind it.
  std::vector<PromptPart> parts = {};
  // The prompt's rows from here on become a stored chunk, run behind those before; -1: none do.
  int64_t chunk_from = -1;
  std::vector<int32_t> forced_output;  // replay: emitted whatever the logits say; ends after the last
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct TokenOutput {
  int32_t choice = 0;
  int32_t token = 0;
  std::string text;   // whole UTF-8, possibly empty (held back: part of a character or of a stop string)
  float logprob = 0;  // if asked for
  std::vector<TokenLogprob> top;  // best first, if asked for
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kError };

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // prompt rows that were not recomputed
};

// Memory that the first choice of a request held: with an eviction method at the end of the prompt, when the
// method had chosen, else at its end.
struct HeldBytes {
  uint64_t private_bytes = 0;       // pages and tables that are its own
  uint64_t peak_private_bytes = 0;  // the most so far
  uint64_t shared_bytes = 0;        // blocks that it reads together with others, or that others may read
  uint64_t reclaimable_bytes = 0;   // of these, what nobody else held
  int64_t entries = 0;              // of its longest lane
};

// What stored chunks did for a request.
struct BlendReport {
  struct Use {
    std::string chunk;  // its name
    int64_t begin = 0, rows = 0;
  };
  std::string method;     // "": no chunk was used, and the answer is exact
  std::vector<Use> uses;  // by place in the prompt
  int64_t covered = 0;    // prompt rows that chunks have
  int64_t again = 0;      // of these, computed in all layers
  int64_t fresh = 0;      // prompt rows that nobody had
  int64_t stored = 0;     // tokens of parts that were stored for it before it began
};

// The compressed state that a request went on from.
struct StateReport {
  std::string name;     // "": none
  int64_t rows = 0;     // of the prompt that it stood for
  int64_t entries = 0;  // that it had left of them, in its longest lane
};

// A stored chunk, as those see it who asked for it.
struct ChunkInfo {
  std::string name;  // "": none
  uint64_t bytes = 0;
};

// What the cache did for a request.
struct CacheReport {
  int64_t read_memory = 0;                                  // rows read from memory
  std::vector<std::pair<std::string, int64_t>> read_tiers;  // rows read from below it: "disk", "redis"
  int64_t recomputed = 0;                                   // prompt rows computed
  int64_t written = 0;                                      // rows added to the cache (prompt and output)
  int32_t preemptions = 0;
  double queue_ms = 0, prefill_ms = 0;
  CacheOutcome outcome;
  int64_t read_chunks = 0;  // rows that stored chunks stood in for, approximately
  BlendReport blend;
  ChunkInfo chunk;    // that the request stored
  std::string evict;  // the method that shaped what later rows saw; "": none, nothing was dropped
  StateReport state;
  HeldBytes held;
  std::vector<LeaseReport> leases;  // that it took at its end, or was refused
};

struct ChoiceEnd {
  int32_t choice = 0;
  FinishReason reason = FinishReason::kStop;
  std::string text;          // text that was held back and is now known to belong to the answer
  std::string matched_stop;  // the stop string, if one ended it
};

// Receives a request's life on the engine's thread: prompt logprobs (if asked), then tokens and ends of all
// choices in any interleaving, then exactly one of OnFinish / OnError. Must not block and must not call back
// into the engine.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void OnPromptLogprobs(
      std::vector<TokenOutput> tokens) = 0;  // one per prompt token; the first has no logprob (NaN)
  virtual void OnToken(TokenOutput output) = 0;
  virtual void OnChoiceEnd(ChoiceEnd end) = 0;
  virtual void OnFinish(const Usage& usage, const CacheReport& report) = 0;
  virtual void OnError(const Error& error) = 0;
};

}  // namespace larder
