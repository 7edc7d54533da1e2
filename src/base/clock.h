// Time comes from outside, so that tests and simulations can own it.
#pragma once

#include <cstdint>

namespace larder {

class Clock {
 public:
  virtual ~Clock() = default;
  virtual int64_t NowNs() = 0;   // monotonic; only differences mean anything
  virtual int64_t WallMs() = 0;  // milliseconds since 1970, for what people read
};

class SystemClock final : public Clock {
 public:
  int64_t NowNs() override;
  int64_t WallMs() override;
};

// Stands still until told to move.
class ManualClock final : public Clock {
 public:
  int64_t NowNs() override { return now_ns_; }
  int64_t WallMs() override { return now_ns_ / 1'000'000; }
  void AdvanceNs(int64_t ns) { now_ns_ += ns; }

 private:
  int64_t now_ns_ = 0;
};

}  // namespace larder
