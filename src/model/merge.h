// Byte-pair merging: a text's symbols in a linked list, the possible merges in a heap. Linear in the text but
// for the heap's logarithm, also for a hundred thousand equal letters. Shared by every tokenizer that merges.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "model/utf8.h"

namespace larder {

struct MergeSymbol {
  uint32_t begin, size;    // bytes of the text it covers; size 0: absorbed by its left neighbour
  int32_t previous, next;  // -1 at the ends
  int32_t id;              // token, -1 for a symbol that is none
};

struct Merge {
  uint32_t rank;  // lower first; of equal ranks the leftmost
  int32_t id;     // the token that results
};

class Merger {
 public:
  void Clear() { symbols_.clear(); }
  void Add(uint32_t begin, uint32_t size, int32_t id) {
    const auto index = static_cast<int32_t>(symbols_.size());
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({begin, size, index - 1, -1, id});
  }

  // find(left, right, &merge) says whether two neighbours merge, and into what.
  template <class Find>
  void Run(Find find) {
    heap_.clear();
    const auto offer = [&](int32_t left, int32_t right) {
      Merge merge;
      const MergeSymbol &a = symbols_[left], &b = symbols_[right];
      if (!find(a, b, &merge)) return false;
      heap_.push_back(
          {static_cast<uint64_t>(merge.rank) << 32 | static_cast<uint32_t>(left), a.size + b.size, merge.id});
      return true;
    };
    for (size_t i = 1; i < symbols_.size(); ++i) offer(static_cast<int32_t>(i - 1), static_cast<int32_t>(i));
    std::make_heap(heap_.begin(), heap_.end(), std::greater<>());
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
      const Candidate best = heap_.back();
      heap_.pop_back();
      const auto left = static_cast<int32_t>(best.order & 0xFFFFFFFF);
      if (!Absorb(left, best)) continue;
      const MergeSymbol& merged = symbols_[left];
      if (merged.previous >= 0 && offer(merged.previous, left)) Push();
      if (merged.next >= 0 && offer(left, merged.next)) Push();
    }
  }

  const std::vector<MergeSymbol>& symbols() const { return symbols_; }

 private:
  struct Candidate {
    uint64_t order;  // rank, then the left symbol
    uint32_t size;   // of both symbols when the merge was found; another size now means it is out of date
    int32_t id;
    auto operator<=>(const Candidate& other) const { return order <=> other.order; }
  };

  void Push() { std::push_heap(heap_.begin(), heap_.end(), std::greater<>()); }

  // Symbols only grow to the right, so two living neighbours of the remembered total size are the remembered
  // two.
  bool Absorb(int32_t left, const Candidate& candidate) {
    MergeSymbol& a = symbols_[left];
    if (a.size == 0 || a.next < 0) return false;
    MergeSymbol& b = symbols_[a.next];
    if (a.size + b.size != candidate.size) return false;
    a.size += b.size;
    a.id = candidate.id;
    a.next = b.next;
    b.size = 0;
    if (a.next >= 0) symbols_[a.next].previous = left;
    return true;
  }

  std::vector<MergeSymbol> symbols_;
  std::vector<Candidate> heap_;
};

// Which pairs of neighbouring code points occur inside some token. Between two that never do, no merge can
// reach across, so a text may be cut there: short heaps, and the same result. A filter by hash: it may say
// "maybe" too often.
class JoinFilter {
 public:
  void AddToken(std::string_view text) {
    ForEachPair(
        text, [&](uint32_t left, uint32_t right, size_t) { words_[Word(left, right)] |= Bit(left, right); });
  }

  // Calls visit(part) for the parts of `text`, in order.
  template <class Visit>
  void ForEachPart(std::string_view text, Visit visit) const {
    size_t begin = 0;
    ForEachPair(text, [&](uint32_t left, uint32_t right, size_t at) {
      if (words_[Word(left, right)] & Bit(left, right)) return;
      visit(text.substr(begin, at - begin));
      begin = at;
    });
    if (begin < text.size()) visit(text.substr(begin));
  }

 private:
  // visit(left, right, offset of the right one); an invalid sequence counts as a code point past all others.
  template <class Visit>
  static void ForEachPair(std::string_view text, Visit visit) {
    uint32_t left = 0;
    for (size_t at = 0; at < text.size();) {
      const Utf8Step step = NextUtf8(text, at);
      const uint32_t right = step.kind == Utf8Step::kWhole ? step.code_point : 0x110000;
      if (at > 0) visit(left, right, at);
      left = right;
      at += step.bytes;
    }
  }
  static constexpr unsigned kLogBits = 22;
  static uint64_t Hash(uint32_t left, uint32_t right) {
    return (static_cast<uint64_t>(left) << 21 ^ right) * 0x9E3779B97F4A7C15u >> (64 - kLogBits);
  }
  static size_t Word(uint32_t left, uint32_t right) { return Hash(left, right) >> 6; }
  static uint64_t Bit(uint32_t left, uint32_t right) { return uint64_t{1} << (Hash(left, right) & 63); }

  std::vector<uint64_t> words_ = std::vector<uint64_t>((size_t{1} << kLogBits) / 64);
};

}  // namespace larder
