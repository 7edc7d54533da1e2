// Two indexes over a vocabulary. Both hold token ids and look the text up in the vocabulary itself, so that
// every text is in memory once.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

// Exact text to id: open addressing, 8 bytes a slot.
class TextIndex {
 public:
  // Of equal texts the first id given wins. `vocabulary` outlives the index.
  void Build(const std::vector<std::string>* vocabulary, std::span<const int32_t> ids);
  int32_t Find(std::string_view text) const;   // -1: no such text
  size_t longest() const { return longest_; }  // bytes of the longest text

 private:
  struct Slot {
    uint32_t tag = 0;  // upper half of the hash
    int32_t id = -1;
  };
  const std::vector<std::string>* vocabulary_ = nullptr;
  std::vector<Slot> slots_;
  size_t mask_ = 0, longest_ = 0;
};

// All tokens that begin a text, shortest first: the ids sorted by text, narrowed byte by byte.
class PrefixIndex {
 public:
  void Build(const std::vector<std::string>* vocabulary, std::vector<int32_t> ids);
  bool empty() const { return ids_.empty(); }
  // Whether any token begins with this byte; a quick look before asking for more.
  bool Begins(char byte) const {
    const auto b = static_cast<uint8_t>(byte);
    return first_[b] != first_[b + 1];
  }

  // Calls visit(id) for each token that `text` begins with, shortest first.
  template <class Visit>
  void ForEachPrefix(std::string_view text, Visit visit) const {
    if (text.empty() || ids_.empty()) return;
    const auto byte = static_cast<uint8_t>(text[0]);
    uint32_t low = first_[byte], high = first_[byte + 1];
    for (size_t depth = 1; low < high; ++depth) {
      if (TextOf(low).size() == depth) {
        visit(ids_[low]);
        ++low;
      }
      if (depth == text.size()) return;
      Narrow(text[depth], depth, low, high);
    }
  }
  int32_t Longest(std::string_view text) const {
    int32_t best = -1;
    ForEachPrefix(text, [&](int32_t id) { best = id; });
    return best;
  }

 private:
  std::string_view TextOf(uint32_t index) const { return (*vocabulary_)[static_cast<size_t>(ids_[index])]; }
  // Keeps those of [low, high) that have `byte` at `depth`; all of them are longer than `depth`.
  void Narrow(char byte, size_t depth, uint32_t& low, uint32_t& high) const;

  const std::vector<std::string>* vocabulary_ = nullptr;
  std::vector<int32_t> ids_;
  std::array<uint32_t, 257> first_{};
};

}  // namespace larder
