// Reads through io_uring: one system call hands over a batch and waits for as many answers as are wanted.
//
// The kernel waits for a number of completions, and a wake-up must be enough of them: so as many reads of an
// event that counts down wait in the ring as answers may be waited for, and waking completes them all.
#include <liburing.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "store/disk/io_queue.h"

namespace larder {
namespace {

constexpr uint64_t kFirstWakeToken = UINT64_MAX - IoQueue::kMostAtLeast + 1;

class UringQueue final : public IoQueue {
 public:
  static Result<std::unique_ptr<IoQueue>> Make(size_t depth) {
    auto queue = std::unique_ptr<UringQueue>(new UringQueue(depth));
    io_uring_params params{};
    // The reads of the event besides, and one for an old kernel's timeout.
    const auto entries = static_cast<unsigned>(depth + kMostAtLeast + 1);
    const int made = io_uring_queue_init_params(entries, &queue->ring_, &params);
    if (made < 0) {
      return Fail(ErrorKind::kUnsupported, "the system refuses io_uring: {}", std::strerror(-made));
    }
    queue->ready_ = true;
    // Waiting with a timeout must not take a place in the queue, and completions must never be lost.
    if ((params.features & IORING_FEAT_EXT_ARG) == 0 || (params.features & IORING_FEAT_NODROP) == 0) {
      return Fail(ErrorKind::kUnsupported, "the system's io_uring is too old");
    }
    queue->event_ = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE);
    if (queue->event_ < 0) return Fail(ErrorKind::kIo, "cannot make an event: {}", std::strerror(errno));
    for (size_t i = 0; i < kMostAtLeast; ++i) queue->Listen(i);
    return queue;
  }

  ~UringQueue() override {
    if (ready_) io_uring_queue_exit(&ring_);
    if (event_ >= 0) close(event_);
  }

  size_t depth() const override { return depth_; }

  void Start(std::span<const IoRead> reads) override {
    for (const IoRead& read : reads) {
      io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
      LARDER_CHECK(sqe != nullptr);
      io_uring_prep_read(sqe, read.file->handle(), read.to.data(), static_cast<unsigned>(read.to.size()),
                         read.offset);
      io_uring_sqe_set_data64(sqe, read.token);
    }
  }

  void Wait(int64_t timeout_ns, size_t at_least, std::vector<IoDone>& done) override {
    const size_t before = done.size();
    const bool woken = Reap(done);
    const size_t here = done.size() - before;
    if (woken || here >= at_least || timeout_ns == 0) {
      // What was started goes, also if nobody has to wait. What cannot be taken now goes with the next call.
      if (io_uring_sq_ready(&ring_) == 0) return;
      io_uring_submit(&ring_);
      ++calls_;
      return;
    }
    io_uring_cqe* cqe = nullptr;
    const auto missing = static_cast<unsigned>(at_least - here);
    if (timeout_ns < 0) {
      io_uring_submit_and_wait(&ring_, missing);
    } else {
      __kernel_timespec timeout{.tv_sec = timeout_ns / 1'000'000'000, .tv_nsec = timeout_ns % 1'000'000'000};
      io_uring_submit_and_wait_timeout(&ring_, &cqe, missing, &timeout, nullptr);
    }
    ++calls_;
    Reap(done);
  }

  void Wake() override {
    const uint64_t all = kMostAtLeast;
    (void)!write(event_, &all, sizeof all);
  }

  uint64_t system_calls() const override { return calls_; }
  std::string_view name() const override { return "io_uring"; }

 private:
  explicit UringQueue(size_t depth) : depth_(depth) {}

  void Listen(size_t place) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    LARDER_CHECK(sqe != nullptr);
    io_uring_prep_read(sqe, event_, &event_counts_[place], sizeof event_counts_[place], 0);
    io_uring_sqe_set_data64(sqe, kFirstWakeToken + place);
  }

  // Whether it was woken.
  bool Reap(std::vector<IoDone>& done) {
    bool woken = false;
    std::array<bool, kMostAtLeast> heard{};
    io_uring_cqe* cqe = nullptr;
    while (io_uring_peek_cqe(&ring_, &cqe) == 0) {
      if (cqe->user_data >= kFirstWakeToken) {
        heard[cqe->user_data - kFirstWakeToken] = woken = true;
      } else if (cqe->res < 0) {
        done.push_back({cqe->user_data, Fail(ErrorKind::kIo, "cannot read: {}", std::strerror(-cqe->res))});
      } else {
        done.push_back({cqe->user_data, static_cast<size_t>(cqe->res)});
      }
      io_uring_cqe_seen(&ring_, cqe);
    }
    for (size_t place = 0; place < heard.size(); ++place) {
      if (heard[place]) Listen(place);
    }
    return woken;
  }

  const size_t depth_;
  io_uring ring_{};
  bool ready_ = false;
  int event_ = -1;
  std::array<uint64_t, kMostAtLeast> event_counts_{};
  std::atomic<uint64_t> calls_ = 0;
};

}  // namespace

Result<std::unique_ptr<IoQueue>> MakeUringQueue(size_t depth) { return UringQueue::Make(depth); }

}  // namespace larder
