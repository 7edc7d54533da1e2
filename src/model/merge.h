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

struct Merge {
  uint32_t rank;  // lower first; of equal ranks the leftmost
  int32_t id;     // the token that results
};

struct MergeSymbol {
  uint32_t begin, size;    // bytes of the text it covers; size 0: absorbed by its left neighbour
  int32_t previous, next;  // -1 at the ends
  int32_t id;              // token, -1 for a symbol that is none
  Merge merge;             // with the next symbol, kNoMerge where the two do not merge
};

class Merger {
 public:
  void Clear() { symbols_.clear(); }
  void Add(uint32_t begin, uint32_t size, int32_t id) {
    const auto index = static_cast<int32_t>(symbols_.size());
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({begin, size, index - 1, -1, id, kNoMerge});
  }

  // find(left, right, &merge) says whether two neighbours merge, and into what.
  template <class Find>
  void Run(Find find) {
    first_.clear();
    later_.clear();
    for (size_t i = 0; i + 1 < symbols_.size(); ++i) Offer(static_cast<int32_t>(i), find, &first_);
    // What merges at first is sorted once, and only what arises later goes through the heap: half the time on
    // long words, where the heap does not fit in the cache.
    std::sort(first_.begin(), first_.end());
    size_t taken = 0;
    while (taken < first_.size() || !later_.empty()) {
      uint64_t best;
      if (later_.empty() || (taken < first_.size() && first_[taken] <= later_.front())) {
        best = first_[taken++];
      } else {
        std::pop_heap(later_.begin(), later_.end(), std::greater<>());
        best = later_.back();
        later_.pop_back();
      }
      const auto left = static_cast<int32_t>(best & 0xFFFFFFFF);
      if (!Absorb(left, static_cast<uint32_t>(best >> 32))) continue;
      const int32_t previous = symbols_[left].previous;
      if (previous >= 0 && Offer(previous, find, &later_)) Push();
      if (Offer(left, find, &later_)) Push();
    }
  }

  const std::vector<MergeSymbol>& symbols() const { return symbols_; }

 private:
  static constexpr Merge kNoMerge = {0, -1};

  void Push() { std::push_heap(later_.begin(), later_.end(), std::greater<>()); }

  // Notes how `left` merges with its next symbol, and appends that to the queue as rank, then left symbol.
  template <class Find>
  bool Offer(int32_t left, Find find, std::vector<uint64_t>* queue) {
    MergeSymbol& symbol = symbols_[left];
    if (symbol.next < 0 || !find(symbol, symbols_[symbol.next], &symbol.merge)) {
      symbol.merge = kNoMerge;
      return false;
    }
    queue->push_back(static_cast<uint64_t>(symbol.merge.rank) << 32 | static_cast<uint32_t>(left));
    return true;
  }

  // False for an entry of the queue that later merges made out of date.
  bool Absorb(int32_t left, uint32_t rank) {
    MergeSymbol& a = symbols_[left];
    if (a.size == 0 || a.merge.id < 0 || a.merge.rank != rank) return false;
    MergeSymbol& b = symbols_[a.next];
    a.size += b.size;
    a.id = a.merge.id;
    a.next = b.next;
    b.size = 0;
    if (a.next >= 0) symbols_[a.next].previous = left;
    return true;
  }

  std::vector<MergeSymbol> symbols_;
  std::vector<uint64_t> first_, later_;
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
