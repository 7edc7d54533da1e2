#include "compute/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "base/result.h"

namespace larder {
namespace {

// A barrier between two small operations takes a few microseconds; a worker that finds no work for longer
// than this gives its core back.
constexpr std::chrono::microseconds kSpinTime{20};
constexpr int kPausesPerClockRead = 16;

inline void CpuPause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True as soon as `ready` is; false when the spin time is over.
template <class Ready>
bool SpinUntil(bool may_spin, Ready ready) {
  if (ready()) return true;
  if (!may_spin) return false;
  const auto end = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      CpuPause();
      if (ready()) return true;
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// The job word. A worker takes part in a job only by raising `active` while the job is open, in one
// compare-exchange; the caller closes the job and waits for `active` to fall to zero. So a worker that sleeps
// or has lost its core is never waited for unless it holds an item.
constexpr uint32_t kActiveMask = 0xFFFF;
constexpr uint32_t kOpen = 1u << 16;
constexpr uint32_t kEpochStep = 1u << 17;
constexpr uint32_t kEpochMask = ~(kEpochStep - 1);

}  // namespace

// Items begin as one share a worker, neighbours in the order of the memory that they read: a worker's
// prefetches then fetch what itself will need. Who has finished helps with the shares of the others.
struct alignas(64) Share {
  std::atomic<int64_t> next{0};
  int64_t end = 0;
};

struct ThreadPool::State {
  explicit State(size_t threads) : shares(threads) {}
  alignas(64) std::atomic<uint32_t> word{0};
  alignas(64) std::atomic<uint32_t> finished{
      0};  // counts jobs left by their last worker; the caller sleeps on it
  alignas(64) std::atomic<bool> stop{false};
  // The open job; written before `word` opens it.
  ErasedBody body = nullptr;
  void* context = nullptr;
  std::vector<Share> shares;
  bool may_spin = false;
  std::vector<std::thread> workers;

  void CutShares(int64_t items) {
    const auto count = static_cast<int64_t>(shares.size());
    for (int64_t i = 0; i < count; ++i) {
      shares[i].next.store(items * i / count, std::memory_order_relaxed);
      shares[i].end = items * (i + 1) / count;
    }
  }

  void Drain(int worker) {
    for (size_t i = 0; i < shares.size(); ++i) {
      Share& share = shares[(static_cast<size_t>(worker) + i) % shares.size()];
      for (int64_t item; (item = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;)
        body(context, item, worker);
    }
  }

  void WorkerLoop(int worker) {
    uint32_t seen_epoch = 0;
    for (;;) {
      uint32_t now = word.load(std::memory_order_acquire);
      if (stop.load(std::memory_order_acquire)) return;  // after `word`, whose last change follows `stop`
      const bool joinable = (now & kOpen) != 0 && (now & kEpochMask) != seen_epoch;
      if (!joinable) {
        const auto changed = [&] { return word.load(std::memory_order_relaxed) != now; };
        if (!SpinUntil(may_spin, changed)) word.wait(now, std::memory_order_acquire);
        continue;
      }
      if (!word.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
      seen_epoch = now & kEpochMask;
      Drain(worker);
      const uint32_t left = word.fetch_sub(1, std::memory_order_acq_rel) - 1;
      if ((left & (kOpen | kActiveMask)) == 0) {
        finished.fetch_add(1, std::memory_order_release);
        finished.notify_one();
      }
    }
  }

  void WaitForWorkers() {
    for (;;) {
      const uint32_t before = finished.load(std::memory_order_acquire);
      const auto idle = [&] { return (word.load(std::memory_order_acquire) & kActiveMask) == 0; };
      if (SpinUntil(may_spin, idle)) return;
      finished.wait(before, std::memory_order_acquire);
    }
  }
};

ThreadPool::ThreadPool(int threads) {
  LARDER_CHECK(threads >= 1 && threads <= static_cast<int>(kActiveMask));
  state_ = std::make_unique<State>(static_cast<size_t>(threads));
  state_->may_spin = threads <= AvailableCores();
  state_->workers.reserve(static_cast<size_t>(threads) - 1);
  for (int worker = 1; worker < threads; ++worker) {
    state_->workers.emplace_back([state = state_.get(), worker] { state->WorkerLoop(worker); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_release);
  state_->word.fetch_add(kEpochStep, std::memory_order_acq_rel);
  state_->word.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return static_cast<int>(state_->workers.size()) + 1; }

void ThreadPool::RunErased(int64_t items, ErasedBody body, void* context) {
  State& state = *state_;
  if (items <= 1 || state.workers.empty()) {
    for (int64_t item = 0; item < items; ++item) body(context, item, 0);
    return;
  }
  state.body = body;
  state.context = context;
  state.CutShares(items);
  const uint32_t epoch = (state.word.load(std::memory_order_relaxed) & kEpochMask) + kEpochStep;
  state.word.store(epoch | kOpen, std::memory_order_release);
  state.word.notify_all();
  state.Drain(0);
  state.word.fetch_and(~kOpen, std::memory_order_acq_rel);
  state.WaitForWorkers();
}

namespace {

// Whole cores of a quota: a fraction of a core would stall every barrier when its period runs out.
int QuotaCores(double quota, double period) {
  return quota > 0 && period > 0 ? std::max(1, static_cast<int>(quota / period)) : 0;
}

int QuotaOfGroupV2(const std::string& directory) {
  std::ifstream in(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(in >> quota >> period) || quota == "max") return 0;
  return QuotaCores(std::atof(quota.c_str()), period);
}

int QuotaOfGroupV1(const std::string& directory) {
  std::ifstream quota_file(directory + "/cpu.cfs_quota_us"), period_file(directory + "/cpu.cfs_period_us");
  double quota = 0, period = 0;
  if (!(quota_file >> quota) || !(period_file >> period)) return 0;
  return QuotaCores(quota, period);
}

// The smallest quota of a group and its ancestors; 0: none.
template <class QuotaOf>
int SmallestQuota(const std::string& mount, std::string path, QuotaOf quota_of) {
  int smallest = 0;
  for (;;) {
    const int cores = quota_of(mount + path);
    if (cores > 0) smallest = smallest == 0 ? cores : std::min(smallest, cores);
    if (path.empty() || path == "/") return smallest;
    path.resize(path.rfind('/') == std::string::npos ? 0 : path.rfind('/'));
  }
}

int CgroupCores() {
  std::ifstream in("/proc/self/cgroup");
  int smallest = 0;
  for (std::string line; std::getline(in, line);) {  // hierarchy:controllers:path
    std::istringstream fields(line);
    std::string hierarchy, controllers, path;
    std::getline(fields, hierarchy, ':');
    std::getline(fields, controllers, ':');
    std::getline(fields, path);
    int cores = 0;
    if (controllers.empty()) {
      cores = SmallestQuota("/sys/fs/cgroup", path, QuotaOfGroupV2);
    } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
      cores = SmallestQuota("/sys/fs/cgroup/cpu", path, QuotaOfGroupV1);
    }
    if (cores > 0) smallest = smallest == 0 ? cores : std::min(smallest, cores);
  }
  return smallest;
}

}  // namespace

int AvailableCores() {
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) == 0) cores = CPU_COUNT(&set);
  const int quota = CgroupCores();
  if (quota > 0) cores = std::min(cores, quota);
  return std::max(1, cores);
}

}  // namespace larder
