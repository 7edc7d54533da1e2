// Names of blocks: SHA-256 over tagged fields, chained from block to block. docs/formats/block-names.md has
// the bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "kv/shape.h"

namespace larder {

inline constexpr uint64_t kBlockNameVersion = 1;

// Hashes everything of one model and cache setting; then per tenant a root, then a name per block.
class NameChain {
 public:
  // `weaken` as in KvCacheOptions: applied to the names of blocks, not to roots; null for none.
  NameChain(const KvShape& shape, const KvIdentity& identity, std::function<Digest(const Digest&)> weaken);

  // Where the chain of one kind of one tenant starts.
  Digest Root(int kind, std::string_view tenant) const;
  // The name of the block that holds `tokens` (1..64) after `parent`, a root or the name of a full block.
  Digest Block(const Digest& parent, std::span<const int32_t> tokens) const;
  // The name of another kind's block of the same tokens as the block `name`.
  Digest OfKind(int kind, const Digest& name) const;

 private:
  std::vector<Digest> kinds_;  // identity of each kind, without the tenant
  std::function<Digest(const Digest&)> weaken_;
};

}  // namespace larder
