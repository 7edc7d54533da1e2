#include "larder/measure.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <ctime>
#include <fstream>

#include "engine/sampler.h"

namespace larder {
namespace {

int64_t ReadClock(clockid_t id) {
  timespec time{};
  clock_gettime(id, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

}  // namespace

void Stopwatch::Restart() {
  wall_ns_ = ReadClock(CLOCK_MONOTONIC);
  cpu_ns_ = ReadClock(CLOCK_PROCESS_CPUTIME_ID);
}
double Stopwatch::WallSeconds() const {
  return static_cast<double>(ReadClock(CLOCK_MONOTONIC) - wall_ns_) * 1e-9;
}
double Stopwatch::CpuSeconds() const {
  return static_cast<double>(ReadClock(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns_) * 1e-9;
}

double SystemBusySeconds() {
  std::ifstream stat("/proc/stat");
  std::string name;
  // user, nice, system, idle, waiting for disks, interrupts, soft interrupts, stolen; ticks.
  double ticks[8] = {};
  stat >> name;
  for (double& t : ticks) stat >> t;
  if (!stat || name != "cpu") return 0;
  const double busy = ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6] + ticks[7];
  return busy / static_cast<double>(sysconf(_SC_CLK_TCK));
}

std::string ProgramCommandLine() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  std::string line;
  for (std::string word; std::getline(file, word, '\0');) {
    const bool plain = !word.empty() && word.find_first_not_of(
                                            "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                            "0123456789_-+=./,:@%") == std::string::npos;
    if (!line.empty()) line += ' ';
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

Spread SpreadOf(std::vector<double> samples) {
  LARDER_CHECK(!samples.empty());
  std::sort(samples.begin(), samples.end());
  const size_t n = samples.size();
  return {(samples[(n - 1) / 2] + samples[n / 2]) / 2, samples.front(), samples.back()};
}

BusyWatch::BusyWatch(int threads) : threads_(threads), load_before_(LoadAverage()) {}

void BusyWatch::Add(double wall_s, double cpu_s, double busy_s) {
  wall_s_ += wall_s;
  cpu_s_ += cpu_s;
  others_s_ += std::max(0.0, busy_s - cpu_s);
}

double BusyWatch::others() const { return wall_s_ > 0 ? others_s_ / wall_s_ : 0; }

double BusyWatch::cores() const { return wall_s_ > 0 ? cpu_s_ / wall_s_ : 0; }

std::string BusyWatch::Warning() const {
  // Threads wait for each other at barriers for a few per cent of the time; a lost core costs far more.
  constexpr double kShareOfAQuietMachine = 0.85;
  constexpr double kStrangersCores = 0.15;
  if (others() > kStrangersCores)
    return fmt::format("something else used {:.2f} cores meanwhile: figures are too low", others());
  if (load_before_ > 0.5)
    return fmt::format("the machine was busy before the start (load average {:.1f}): figures are too low",
                       load_before_);
  if (cores() < kShareOfAQuietMachine * threads_)
    return fmt::format(
        "{} threads got {:.2f} cores' worth of time: the machine is busy or has fewer cores, figures are "
        "too low",
        threads_, cores());
  return "";
}

Result<std::vector<int64_t>> ParseNumbers(const std::string& text, int64_t min, int64_t max) {
  std::vector<int64_t> out;
  for (size_t at = 0; at <= text.size();) {
    const size_t end = std::min(text.find(',', at), text.size());
    int64_t value = 0;
    const auto [stop, code] = std::from_chars(text.data() + at, text.data() + end, value);
    if (code != std::errc() || stop != text.data() + end || value < min || value > max)
      return Fail(ErrorKind::kInvalid, "'{}' is not a list of numbers from {} to {}, separated by commas",
                  text, min, max);
    out.push_back(value);
    at = end + 1;
  }
  return out;
}

std::vector<int32_t> FillerTokens(int64_t count, int64_t vocabulary, uint64_t seed) {
  std::vector<int32_t> out;
  out.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const double u = CounterUniform(seed, 0, static_cast<uint64_t>(i));
    out.push_back(static_cast<int32_t>(u * static_cast<double>(vocabulary)));
  }
  return out;
}

}  // namespace larder
