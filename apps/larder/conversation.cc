#include "larder/conversation.h"

#include <utility>

#include "base/result.h"

namespace larder {

void Conversation::Ask(std::vector<int32_t> tokens) {
  turns_.push_back(std::move(tokens));
  if (most_turns_ > 0 && turns_.size() > most_turns_) turns_.pop_front();
}

void Conversation::Answer(std::span<const int32_t> tokens) {
  LARDER_CHECK(!turns_.empty());
  turns_.back().insert(turns_.back().end(), tokens.begin(), tokens.end());
}

std::vector<int32_t> Conversation::Prompt() const {
  std::vector<int32_t> prompt;
  for (const std::vector<int32_t>& turn : turns_) prompt.insert(prompt.end(), turn.begin(), turn.end());
  return prompt;
}

}  // namespace larder
