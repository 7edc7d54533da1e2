// Reads in batches. One thread starts them and waits for them; Wake may come from any.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/file_system.h"
#include "base/result.h"

namespace larder {

struct IoRead {
  File* file = nullptr;
  uint64_t offset = 0;
  std::span<std::byte> to;  // for a direct file all three in units of kDirectAlign
  uint64_t token = 0;       // comes back with the answer
};

struct IoDone {
  uint64_t token = 0;
  Result<size_t> bytes = 0;  // fewer than asked: the file ends there
};

class IoQueue {
 public:
  static constexpr size_t kMostAtLeast = 16;
  virtual ~IoQueue() = default;      // REQUIRES: nothing is in flight
  virtual size_t depth() const = 0;  // at most so many may be in flight
  // They are on their way in the next Wait at the latest.
  virtual void Start(std::span<const IoRead> reads) = 0;
  // With one system call, or none. Appends what is done. Waits until `at_least` are, or Wake was called, or
  // `timeout_ns` is over (negative: no timeout, 0: only looks). REQUIRES: at_least is in [1, kMostAtLeast];
  // with more than one, as many are in flight.
  virtual void Wait(int64_t timeout_ns, size_t at_least, std::vector<IoDone>& done) = 0;
  virtual void Wake() = 0;
  virtual uint64_t system_calls() const = 0;
  virtual std::string_view name() const = 0;
};

// kUnsupported: the kernel or a sandbox refuses io_uring, or the library is of another day.
Result<std::unique_ptr<IoQueue>> MakeUringQueue(size_t depth);
// `threads` 0: reads happen in Wait.
std::unique_ptr<IoQueue> MakeThreadQueue(int threads, size_t depth);

}  // namespace larder
