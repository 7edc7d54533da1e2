// A conversation as a client sends it: with every turn again from its beginning.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

namespace larder {

class Conversation {
 public:
  // Of more than `most_turns` the oldest go, as clients do when a context gets too long; 0: all stay.
  explicit Conversation(size_t most_turns = 0) : most_turns_(most_turns) {}

  void Ask(std::vector<int32_t> tokens);         // a new turn
  void Answer(std::span<const int32_t> tokens);  // ends it. REQUIRES: Ask before
  std::vector<int32_t> Prompt() const;           // all turns that are left

 private:
  size_t most_turns_;
  std::deque<std::vector<int32_t>> turns_;
};

}  // namespace larder
