// Single pages for private lane tables, carved from runs out of the cache's budget. A run is an object of an
// ObjectPool (base/pool); it is charged when its memory is taken, and refunded and given back when its last
// page returns. Private to src/kv.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/pool/object_pool.h"
#include "kv/lanes.h"

namespace larder {

inline constexpr size_t kRunPages = 16;

// Where runs, and stored chunks, get their bytes from.
class RunBudget {
 public:
  virtual ~RunBudget() = default;
  virtual Status Charge(uint64_t bytes) = 0;  // kExhausted
  virtual void Refund(uint64_t bytes) = 0;
};

class RunPageSource final : public PageSource {
 public:
  RunPageSource(size_t page_bytes, std::shared_ptr<RunBudget> budget);
  ~RunPageSource() override;  // REQUIRES: every page was returned

  Result<std::byte*> Take() override;
  void Return(std::byte* page) override;
  PageSource& OfSize(size_t page_bytes) override;

 private:
  uint64_t RunCost() const;
  Status NewRun();

  const size_t page_bytes_;
  const std::shared_ptr<RunBudget> budget_;
  std::unique_ptr<ObjectPool<>> pool_;  // of runs; null while no page is taken
  std::vector<uint16_t> free_;          // by run: bit i: its page i is not taken
  std::vector<uint32_t> open_;          // runs with free pages
  size_t runs_ = 0;
  std::vector<std::unique_ptr<RunPageSource>> others_;  // of other sizes
};

}  // namespace larder
