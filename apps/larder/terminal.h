// What the commands need of a terminal: a progress bar, lines from standard input, and signals as something
// to wait for.
#pragma once

#include <chrono>
#include <initializer_list>
#include <optional>
#include <string>

namespace larder {

// A bar on standard error, drawn at most ten times a second; nothing where that is no terminal.
class ProgressBar {
 public:
  explicit ProgressBar(std::string label);
  ~ProgressBar() { Clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;
  void Update(double fraction);  // 0..1
  void Clear();                  // leaves an empty line

 private:
  std::string label_;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_{};
};

// Blocks the signals in this thread and in all threads it starts later, and hands them out instead.
// Make it before anything that starts threads.
class SignalWatch {
 public:
  explicit SignalWatch(std::initializer_list<int> signals);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;
  int fd() const { return fd_; }  // readable when a signal is pending
  std::optional<int> Take();      // a pending signal, if there is one
  int Wait();                     // the next signal

 private:
  int fd_;
};

// Lines of standard input, given up when a signal comes.
class LineReader {
 public:
  explicit LineReader(SignalWatch* signals) : signals_(signals) {}
  // Without its end of line; nullopt at the end of input or after a signal.
  std::optional<std::string> Next();

 private:
  SignalWatch* signals_;
  std::string buffered_;
  bool ended_ = false;
};

}  // namespace larder
