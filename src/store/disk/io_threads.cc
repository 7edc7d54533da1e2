// Reads by a few threads with pread, where io_uring is refused or the files are not the system's.
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "store/disk/io_queue.h"

namespace larder {
namespace {

class ThreadQueue final : public IoQueue {
 public:
  ThreadQueue(int threads, size_t depth) : depth_(depth) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { Loop(); });
  }

  ~ThreadQueue() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    work_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  size_t depth() const override { return depth_; }

  void Start(std::span<const IoRead> reads) override {
    {
      std::lock_guard lock(mutex_);
      waiting_.insert(waiting_.end(), reads.begin(), reads.end());
    }
    work_.notify_all();
  }

  void Wait(int64_t timeout_ns, size_t at_least, std::vector<IoDone>& done) override {
    std::unique_lock lock(mutex_);
    if (threads_.empty()) {
      while (!waiting_.empty()) DoOne(lock);
    }
    const auto ready = [&] { return done_.size() >= at_least || woken_; };
    if (timeout_ns < 0) {
      answered_.wait(lock, ready);
    } else if (timeout_ns > 0) {
      answered_.wait_for(lock, std::chrono::nanoseconds(timeout_ns), ready);
    }
    woken_ = false;
    for (IoDone& one : done_) done.push_back(std::move(one));
    done_.clear();
  }

  void Wake() override {
    {
      std::lock_guard lock(mutex_);
      woken_ = true;
    }
    answered_.notify_one();
  }

  uint64_t system_calls() const override { return calls_; }
  std::string_view name() const override { return "threads"; }

 private:
  void DoOne(std::unique_lock<std::mutex>& lock) {
    const IoRead read = waiting_.front();
    waiting_.pop_front();
    lock.unlock();
    ++calls_;
    auto bytes = read.file->Read(read.offset, read.to);
    lock.lock();
    done_.push_back({read.token, std::move(bytes)});
  }

  void Loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) return;
      DoOne(lock);
      answered_.notify_one();
    }
  }

  const size_t depth_;
  std::mutex mutex_;
  std::condition_variable work_, answered_;
  std::deque<IoRead> waiting_;  // guarded by mutex_, as all below
  std::vector<IoDone> done_;
  bool woken_ = false, stopping_ = false;
  std::atomic<uint64_t> calls_ = 0;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<IoQueue> MakeThreadQueue(int threads, size_t depth) {
  return std::make_unique<ThreadQueue>(threads, depth);
}

}  // namespace larder
