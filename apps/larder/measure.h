// Timing that distrusts itself: samples, their spread, and whether the machine was busy with something else.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace larder {

// Wall and processor time of the whole process from construction on.
class Stopwatch {
 public:
  Stopwatch() { Restart(); }
  void Restart();
  double WallSeconds() const;
  double CpuSeconds() const;

 private:
  int64_t wall_ns_ = 0, cpu_ns_ = 0;
};

// Processor time that all cores together have spent on anything since the machine started, what a hypervisor
// took away included. 0 where the operating system does not say.
double SystemBusySeconds();

struct Spread {
  double median = 0, min = 0, max = 0;
};
Spread SpreadOf(std::vector<double> samples);  // at least one

// How much of the machine the measurement got.
class BusyWatch {
 public:
  explicit BusyWatch(int threads);
  // A timed part: its wall time, the processor time of the engine that ran, and that of the whole machine (0:
  // unknown).
  void Add(double wall_s, double cpu_s, double busy_s = 0);
  double cores() const;   // cores' worth of processor time that the timed parts got
  double others() const;  // cores' worth that went to anything else meanwhile
  double load_before() const { return load_before_; }
  // A sentence when the figures are not to be trusted, else "".
  std::string Warning() const;

 private:
  int threads_;
  double load_before_;  // runnable processes, average of the last minute
  double wall_s_ = 0, cpu_s_ = 0, others_s_ = 0;
};

// How this program was called, quoted for a shell.
std::string ProgramCommandLine();

// "512,2048" as numbers in [min, max].
Result<std::vector<int64_t>> ParseNumbers(const std::string& text, int64_t min, int64_t max);

// Tokens without meaning, the same every time: speed does not depend on them.
std::vector<int32_t> FillerTokens(int64_t count, int64_t vocabulary, uint64_t seed);

}  // namespace larder
