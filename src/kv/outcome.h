// What a look-up answers. Never a bool: every token that is not reused has a reason that a person can act on.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace larder {

enum class MissReason : uint8_t {
  kNone,         // all that could be reused was
  kNeverSeen,    // nothing in the cache continues like this
  kDiverged,     // a cached text agrees up to a token and then differs
  kEvicted,      // it was here; a policy let it go
  kOtherTenant,  // another tenant's copy exists; told to operators (metrics), never to tenants
  kWindow,       // the rows exist, but not the complete window a sliding layer needs to resume there
  kCodec,        // the rows exist, but only as codes, and the text goes on from the middle of their block
  kCollision,    // a name matched and its tokens did not: verified bad
  kRefused,      // the request asked not to read the cache
  kSlow,         // a tier has it, but failed, took too long, or computing was estimated to be faster
  kMethod,       // the method of the request reads no stored prefix, or none from this token on
};
std::string_view MissReasonName(MissReason reason);  // "never seen", "diverged", ...

struct CacheOutcome {
  int64_t rows_in_memory = 0;  // rows found in memory and usable
  MissReason reason = MissReason::kNone;
  int64_t token = 0;               // index of the first token that was not reused
  std::vector<int32_t> cached;     // kDiverged: what the cache has from `token` on, at most 16 tokens
  std::vector<int32_t> requested;  // kDiverged: what was asked for from `token` on, at most 16 tokens
  std::string policy;              // kEvicted: which
  int64_t evicted_wall_ms = 0;     // kEvicted: when
};

}  // namespace larder
