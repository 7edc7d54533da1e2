// Single pages for private lane tables, carved from runs out of the cache's budget. Private to src/kv.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "base/memory.h"
#include "kv/lanes.h"

namespace larder {

inline constexpr size_t kRunPages = 16;

// Where runs get their bytes from.
class RunBudget {
 public:
  virtual ~RunBudget() = default;
  virtual Status Charge(uint64_t bytes) = 0;  // kExhausted
  virtual void Refund(uint64_t bytes) = 0;
};

class RunPageSource final : public PageSource {
 public:
  RunPageSource(size_t page_bytes, std::unique_ptr<RunBudget> budget);
  ~RunPageSource() override;  // REQUIRES: every page was returned

  Result<std::byte*> Take() override;
  void Return(std::byte* page) override;

 private:
  struct Run {
    AlignedBuffer memory;
    std::vector<uint32_t> free;  // pages not taken
  };
  uint64_t RunCost() const;

  const size_t page_bytes_;
  std::unique_ptr<RunBudget> budget_;
  std::map<const std::byte*, Run> runs_;  // by address of their first page
  std::vector<Run*> open_;                // with free pages
};

}  // namespace larder
