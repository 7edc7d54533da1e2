#include "engine/output.h"

#include <algorithm>
#include <utility>

namespace larder {
namespace {

// The largest index <= `at` where a character begins (or the text ends).
size_t CharacterStart(std::string_view text, size_t at) {
  while (at > 0 && at < text.size() && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

}  // namespace

OutputText::OutputText(const Tokenizer* tokenizer, std::vector<std::string> stops, bool skip_special,
                       int64_t min_tokens)
    : decoder_(tokenizer, !skip_special), stops_(std::move(stops)), unchecked_(min_tokens - 1) {
  std::erase_if(stops_, [](const std::string& stop) { return stop.empty(); });
}

std::string OutputText::Push(int32_t token) {
  if (stopped()) return {};
  held_ += decoder_.Push(token);
  if (unchecked_ > 0) {
    --unchecked_;
    return std::exchange(held_, {});
  }
  return Release(false);
}

std::string OutputText::Finish() {
  if (stopped()) return {};
  held_ += decoder_.Finish();
  return Release(true);
}

std::string OutputText::Release(bool all) {
  if (CutAtStop() || all) return std::exchange(held_, {});
  const size_t shown = CharacterStart(held_, held_.size() - HeldBack());
  std::string out = held_.substr(0, shown);
  held_.erase(0, shown);
  return out;
}

// Whether a stop string is complete; then it and what follows are removed. What is held was the beginning of
// a stop and no whole one before the last token, so this looks at little text.
bool OutputText::CutAtStop() {
  size_t first_end = std::string::npos, begin = 0;
  const std::string* found = nullptr;
  for (const std::string& stop : stops_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    const size_t end = at + stop.size();
    if (end < first_end || (end == first_end && at < begin)) {
      first_end = end;
      begin = at;
      found = &stop;
    }
  }
  if (found == nullptr) return false;
  matched_ = *found;
  held_.resize(CharacterStart(held_, begin));
  return true;
}

// Length of the longest end of the held text that a stop string begins with.
size_t OutputText::HeldBack() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    for (size_t n = std::min(stop.size() - 1, held_.size()); n > longest; --n) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, n))) {
        longest = n;
        break;
      }
    }
  }
  return longest;
}

}  // namespace larder
