#include "larder/terminal.h"

#include <fmt/core.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <utility>

#include "base/result.h"

namespace larder {

ProgressBar::ProgressBar(std::string label)
    : label_(std::move(label)), terminal_(isatty(STDERR_FILENO) == 1) {}

void ProgressBar::Update(double fraction) {
  using namespace std::chrono_literals;
  const auto now = std::chrono::steady_clock::now();
  if (!terminal_ || (drawn_ && now - last_ < 100ms)) return;
  constexpr int kWidth = 30;
  fraction = std::clamp(fraction, 0.0, 1.0);
  const int full = static_cast<int>(fraction * kWidth);
  fmt::print(stderr, "\r\x1b[K{} [{:=<{}}{: <{}}] {:3.0f} %", label_, "", full, "", kWidth - full,
             fraction * 100);
  std::fflush(stderr);
  drawn_ = true;
  last_ = now;
}

void ProgressBar::Clear() {
  if (!drawn_) return;
  std::fputs("\r\x1b[K", stderr);
  std::fflush(stderr);
  drawn_ = false;
}

SignalWatch::SignalWatch(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : signals) sigaddset(&set, signal);
  LARDER_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  fd_ = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
  LARDER_CHECK(fd_ >= 0);
}

SignalWatch::~SignalWatch() { close(fd_); }

std::optional<int> SignalWatch::Take() {
  signalfd_siginfo info{};
  if (read(fd_, &info, sizeof info) != static_cast<ssize_t>(sizeof info)) return std::nullopt;
  return static_cast<int>(info.ssi_signo);
}

int SignalWatch::Wait() {
  while (true) {
    if (const auto signal = Take()) return *signal;
    pollfd wait{fd_, POLLIN, 0};
    poll(&wait, 1, -1);
  }
}

std::optional<std::string> LineReader::Next() {
  while (true) {
    if (const auto end = buffered_.find('\n'); end != std::string::npos) {
      std::string line = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return line;
    }
    if (ended_) {
      if (buffered_.empty()) return std::nullopt;
      return std::exchange(buffered_, {});
    }
    pollfd wait[] = {{STDIN_FILENO, POLLIN, 0}, {signals_->fd(), POLLIN, 0}};
    if (poll(wait, 2, -1) < 0) continue;
    if (wait[1].revents != 0) {
      signals_->Take();
      return std::nullopt;
    }
    char chunk[4096];
    const ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
    if (n <= 0) ended_ = true;
    if (n > 0) buffered_.append(chunk, static_cast<size_t>(n));
  }
}

}  // namespace larder
