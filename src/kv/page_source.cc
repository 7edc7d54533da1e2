#include "kv/page_source.h"

#include <bit>
#include <utility>

#include "kv/pool.h"

namespace larder {
namespace {

constexpr uint32_t kMostRuns = 1u << 16;
constexpr uint16_t kAllFree = 0xffff;
static_assert(kRunPages == 16);
// The pool and what it touches of its tables, which have a page of their own each.
constexpr uint64_t kPoolCost = 64 << 10;
constexpr uint64_t kTablesPerRun = 64 + kRunPages * LaneTable::kTableBytesPerPage;  // the lane tables' too

}  // namespace

RunPageSource::RunPageSource(size_t page_bytes, std::shared_ptr<RunBudget> budget)
    : page_bytes_(page_bytes), budget_(std::move(budget)) {}

RunPageSource::~RunPageSource() { LARDER_CHECK(runs_ == 0); }

uint64_t RunPageSource::RunCost() const { return AllocationCost(page_bytes_ * kRunPages) + kTablesPerRun; }

Status RunPageSource::NewRun() {
  const uint64_t cost = RunCost() + (runs_ == 0 ? kPoolCost : 0);
  LARDER_TRY(budget_->Charge(cost));
  const Status status = [&]() -> Status {
    if (runs_ == 0) {
      LARDER_ASSIGN(
          pool_, ObjectPool<>::Create(
                     {.object_bytes = page_bytes_ * kRunPages, .max_objects = kMostRuns, .slab_objects = 1}));
    }
    const uint32_t run = pool_->Get();
    if (run == kNoObject)
      return Fail(ErrorKind::kExhausted, "no memory for another {} private pages; {} are in use", kRunPages,
                  runs_ * kRunPages);
    free_.resize(std::max<size_t>(free_.size(), run + 1));
    free_[run] = kAllFree;
    open_.push_back(run);
    ++runs_;
    return {};
  }();
  if (!status) {
    if (runs_ == 0) pool_.reset();
    budget_->Refund(cost);
  }
  return status;
}

Result<std::byte*> RunPageSource::Take() {
  if (open_.empty()) LARDER_TRY(NewRun());
  const uint32_t run = open_.back();
  const auto page = static_cast<unsigned>(std::countr_zero(free_[run]));
  free_[run] = static_cast<uint16_t>(free_[run] & (free_[run] - 1));
  if (free_[run] == 0) open_.pop_back();
  return pool_->At(run) + page_bytes_ * page;
}

void RunPageSource::Return(std::byte* page) {
  LARDER_CHECK(pool_ != nullptr);
  const auto [run, offset] = pool_->Find(page);
  const size_t index = offset / page_bytes_;
  LARDER_CHECK(offset % page_bytes_ == 0 && index < kRunPages && (free_[run] >> index & 1) == 0);
  if (free_[run] == 0) open_.push_back(run);
  free_[run] = static_cast<uint16_t>(free_[run] | 1u << index);
  if (free_[run] != kAllFree) return;
  std::erase(open_, run);
  pool_->Put(run);
  --runs_;
  if (runs_ > 0) {
    pool_->Trim(1);
    budget_->Refund(RunCost());
  } else {
    pool_.reset();
    budget_->Refund(RunCost() + kPoolCost);
  }
}

PageSource& RunPageSource::OfSize(size_t page_bytes) {
  if (page_bytes == page_bytes_) return *this;
  for (const auto& other : others_) {
    if (other->page_bytes_ == page_bytes) return *other;
  }
  return *others_.emplace_back(std::make_unique<RunPageSource>(page_bytes, budget_));
}

}  // namespace larder
