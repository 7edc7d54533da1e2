#include "kv/page_source.h"

#include <utility>

#include "kv/pool.h"

namespace larder {

RunPageSource::RunPageSource(size_t page_bytes, std::unique_ptr<RunBudget> budget)
    : page_bytes_(page_bytes), budget_(std::move(budget)) {}

RunPageSource::~RunPageSource() { LARDER_CHECK(runs_.empty()); }

uint64_t RunPageSource::RunCost() const {
  constexpr uint64_t kTables =
      256 + kRunPages * sizeof(uint32_t);  // the run, its entry, its list of free pages
  return AllocationCost(page_bytes_ * kRunPages) + kTables;
}

Result<std::byte*> RunPageSource::Take() {
  if (open_.empty()) {
    LARDER_TRY(budget_->Charge(RunCost()));
    auto memory = AlignedBuffer::Allocate(page_bytes_ * kRunPages);
    if (!memory) {
      budget_->Refund(RunCost());
      return std::unexpected(std::move(memory).error());
    }
    const std::byte* first = memory->data();
    Run& run = runs_[first];
    run.memory = *std::move(memory);
    for (uint32_t page = kRunPages; page-- > 0;) run.free.push_back(page);
    open_.push_back(&run);
  }
  Run& run = *open_.back();
  std::byte* page = run.memory.data() + page_bytes_ * run.free.back();
  run.free.pop_back();
  if (run.free.empty()) open_.pop_back();
  return page;
}

void RunPageSource::Return(std::byte* page) {
  auto at = runs_.upper_bound(page);
  LARDER_CHECK(at != runs_.begin());
  Run& run = (--at)->second;
  const size_t offset = static_cast<size_t>(page - run.memory.data());
  LARDER_CHECK(offset < run.memory.size() && offset % page_bytes_ == 0);
  if (run.free.empty()) open_.push_back(&run);
  run.free.push_back(static_cast<uint32_t>(offset / page_bytes_));
  if (run.free.size() < kRunPages) return;
  std::erase(open_, &run);
  runs_.erase(at);
  budget_->Refund(RunCost());
}

}  // namespace larder
