// Which blocks are worth writing below memory. Every write wears a disk, and most blocks of most workloads
// are never asked for again. A policy is one .cc file in this folder without a header, one line in list.cc
// and its test. Not thread-safe.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/params.h"
#include "base/result.h"
#include "store/evict/policy.h"

namespace larder {

class AdmitPolicy {
 public:
  virtual ~AdmitPolicy() = default;
  virtual std::string_view name() const = 0;
  // A request computed or used the block, wherever it was: to be called once for each, with a key.
  virtual void Use(const BlockMeta& block) {}
  // Whether the block may be written now. What is refused is asked for again at its next use.
  virtual bool Admit(const BlockMeta& block) const = 0;
  virtual uint64_t bytes() const { return 0; }  // of memory, besides the object
};

struct AdmitPolicyEntry {
  std::string_view name;
  std::string_view help;
  Result<std::unique_ptr<AdmitPolicy>> (*create)(std::string_view parameters);  // "key=value,..."
};
std::span<const AdmitPolicyEntry> AdmitPolicies();
std::string AdmitPolicyNames();  // "all, hits, ...", for help texts
// "all" or "name:key=value,..."; unknown names list the known ones.
Result<std::unique_ptr<AdmitPolicy>> CreateAdmitPolicy(std::string_view spec);

}  // namespace larder
