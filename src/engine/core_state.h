// What the engine keeps of a request and of each of its choices. Private to src/engine: core.cc steps,
// admission.cc finds and gives back what their rows need.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engine/blend_driver.h"
#include "engine/core.h"
#include "engine/private_rows.h"
#include "kv/evict/states.h"
#include "kv/restore.h"

namespace larder {

// One choice of a request: a sequence of its own.
struct EngineCore::Choice {
  Choice(Live* owner, int32_t number, const Tokenizer* tokenizer);

  Live* live;
  int32_t index;
  ScheduledSequence scheduled;
  std::vector<int32_t> tokens;            // prompt and output
  std::unique_ptr<KvSequence> kv;         // while running
  std::unique_ptr<PrivateRows> own;       // while running, if a method shapes its cache
  std::unique_ptr<ChunkCapture> capture;  // while running, if its rows become a chunk
  // Chunks in the prompt, found when it is first admitted and kept, so that it goes on with them after a
  // preemption.
  std::vector<ChunkSpan> spans;
  bool matched = false;                     // it has been looked for chunks, or for a state
  std::shared_ptr<const EvictState> state;  // that it goes on from; found and kept in the same way
  std::shared_ptr<KvRestore> restore;       // while waiting for rows from below memory, until they are held
  int32_t restores = 0;                     // since it last ran
  bool layers_failed = false;               // it began before all of them were here, and some did not come
  std::optional<uint64_t> no_room_at;       // how many had ended when its method found no room
  OutputText text;
  TokenHistory history;
  bool done = false;
  int64_t prompt_scored = 0;  // prompt tokens whose log-probabilities are known

  int64_t generated() const;
  int64_t rows_present() const { return own != nullptr ? own->rows() : kv->length(); }
  // Where its rows are written and read.
  RowStore* store() const { return own != nullptr ? static_cast<RowStore*>(own->store()) : kv.get(); }
};

struct EngineCore::Live {
  Engine::RequestId id;
  Request request;
  std::string evict;                         // method, "": none
  uint64_t begun = 0;                        // DerivedRoom::Tick: of what was wiped since nothing is kept
  std::unique_ptr<ReuseMethod> reuse;        // if it uses chunks
  std::vector<Engine::RequestId> waits_for;  // those that store its parts
  bool endless = false;                      // its positions are ranks: the context does not end it
  std::shared_ptr<RequestSink> sink;
  std::vector<std::unique_ptr<Choice>> choices;
  std::vector<TokenOutput> prompt_scores;
  bool prompt_reported = false;
  bool answered = false;      // one of its choices, to its end
  bool miss_counted = false;  // in EngineCore::misses_
  // It has waited for what the tiers have of its tenant, and went on without knowing all of it.
  bool listed = false, lists_late = false;
  CacheReport report;
  Usage usage;
  int64_t arrival_ns, admitted_ns = 0, first_token_ns = 0;
  int64_t open_choices;
};

}  // namespace larder
