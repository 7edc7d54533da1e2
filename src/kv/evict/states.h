// Compressed states: what an eviction method has left of a text, kept at the end of a request for the next
// one of the same tenant that begins with exactly these tokens and asks for the same method with the same
// parameters. A state is not the text's cache: it has a name of its own, over all that decided its bits, and
// nothing of it is ever found under a block's name.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "kv/derived.h"
#include "kv/evict/method.h"
#include "kv/lanes.h"
#include "kv/names.h"

namespace larder {

// A sequence as its method has left it between two rows.
struct EvictLeft {
  std::unique_ptr<EvictMethod> method;  // with what its later decisions need
  LaneTable lanes;                      // REQUIRES: borrows nothing
  // Where prompts ended, or will end, behind which the method chose: the same tokens with another history are
  // another state.
  std::vector<int32_t> prompts;
};

class EvictState {
 public:
  ~EvictState();
  EvictState(const EvictState&) = delete;
  EvictState& operator=(const EvictState&) = delete;

  const Digest& name() const { return name_; }
  const std::string& tenant() const { return tenant_; }
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int64_t rows() const { return std::ssize(tokens_); }  // whether their entries are still here or not
  const EvictMethod& method() const { return *left_.method; }
  const LaneTable& lanes() const { return left_.lanes; }
  const std::vector<int32_t>& prompts() const { return left_.prompts; }

 private:
  friend class EvictStates;
  explicit EvictState(EvictLeft left) : left_(std::move(left)) {}

  Digest name_;
  std::string tenant_;
  std::vector<int32_t> tokens_;
  EvictLeft left_;
  DerivedRoom* room_ = nullptr;  // once its bytes are counted
  uint64_t bytes_ = 0, table_bytes_ = 0, last_use_ = 0;
};

struct EvictStateStats {
  uint64_t states = 0, tokens = 0, bytes = 0, limit_bytes = 0;
  uint64_t stored = 0, refused = 0, evicted = 0;  // so far
  uint64_t hits = 0, hit_tokens = 0;
};

// A state as lists have it.
struct EvictStateListing {
  Digest name;
  std::string method;  // with all its parameters
  int64_t tokens = 0;
  uint64_t bytes = 0;
  bool held = false;  // by a request
};

// One thread at a time, the engine's. Outlives the states that it made.
class EvictStates final : public DerivedStore {
 public:
  EvictStates(const KvShape* shape, const KvIdentity& identity, DerivedRoom* room);
  ~EvictStates() override;

  Digest Name(const std::string& tenant, const std::string& method, std::span<const int32_t> prompts,
              std::span<const int32_t> tokens) const;
  // Keeps what is left of these tokens, unless there is no room for it (counted), or the tenant was wiped
  // after `begun`.
  void Keep(const std::string& tenant, std::span<const int32_t> tokens, EvictLeft left, uint64_t begun);
  void Refuse() { ++stats_.refused; }  // for want of room elsewhere
  // The longest state of this method that the prompt begins with and that leaves at least one row to compute;
  // of equally long ones the one last used. Holding it keeps it.
  std::shared_ptr<const EvictState> Find(const std::string& tenant, const std::string& method,
                                         std::span<const int32_t> prompt);
  // States of the tenant by their names, from behind `after` (nothing: from the first) on.
  std::vector<EvictStateListing> List(const std::string& tenant, const std::optional<Digest>& after,
                                      size_t limit) const;

  std::optional<uint64_t> OldestUse() const override;
  void DropOldest() override;
  void Clear(const std::string& tenant) override { Drop(tenant); }
  void Drop(const std::string& tenant) override;
  EvictStateStats stats() const;

 private:
  using States = std::map<Digest, std::shared_ptr<EvictState>>;
  States::const_iterator Oldest() const;

  const KvShape* shape_;
  NameChain names_;
  DerivedRoom* room_;
  States states_;
  EvictStateStats stats_;
};

}  // namespace larder
