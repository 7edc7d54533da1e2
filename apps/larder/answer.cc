#include "larder/answer.h"

#include <utility>

namespace larder {

void Answer::OnToken(TokenOutput output) {
  std::lock_guard lock(mutex_);
  text_ += output.text;
  started_ = true;
  changed_.notify_one();
}

void Answer::OnChoiceEnd(ChoiceEnd end) {
  std::lock_guard lock(mutex_);
  text_ += end.text;
  end_.reason = end.reason;
}

void Answer::OnFinish(const Usage& usage, const CacheReport& report) {
  std::lock_guard lock(mutex_);
  end_.usage = usage;
  end_.report = report;
  ended_ = true;
  changed_.notify_one();
}

void Answer::OnError(const Error& error) {
  std::lock_guard lock(mutex_);
  end_.error = error;
  ended_ = true;
  changed_.notify_one();
}

std::string Answer::Take(std::chrono::milliseconds wait) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, wait, [&] { return !text_.empty() || ended_; });
  return std::exchange(text_, {});
}

std::optional<Answer::End> Answer::Ended() {
  std::lock_guard lock(mutex_);
  return ended_ && text_.empty() ? std::optional(end_) : std::nullopt;
}

bool Answer::started() {
  std::lock_guard lock(mutex_);
  return started_;
}

}  // namespace larder
