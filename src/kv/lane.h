// One lane of a table. Private to lanes*.cc.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kv/lanes.h"

namespace larder {

// Everything per entry is kept in whole pages of 64, as attention reads it. Pages of codes come before pages
// of rows, so that rows are written behind all that is full.
struct LaneTable::Lane {
  struct Page {
    std::byte* own = nullptr;  // null: borrowed from the prefix, or let go of
    bool gone = false;         // a window has passed it
    bool straight = true;      // positions count up by one
  };
  int64_t length = 0;
  int64_t coded = 0;        // pages, the first ones, that are codes: full ones
  bool were_codes = false;  // some of its rows: they are not encoded again
  std::vector<Page> pages;
  std::vector<int32_t> positions;  // [64 * pages]
  std::vector<float> scores;       // [64 * pages]
  std::vector<float> logit_bias;   // [64 * pages], or empty while nobody set one

  void Resize(size_t count) {
    pages.resize(count);
    positions.resize(count * kPageTokens);
    scores.resize(count * kPageTokens);
    if (!logit_bias.empty()) logit_bias.resize(count * kPageTokens);
  }
  void ShrinkToFit() {
    pages.shrink_to_fit();
    positions.shrink_to_fit();
    scores.shrink_to_fit();
    logit_bias.shrink_to_fit();
  }
  void Straighten(size_t page) {
    const auto first = positions.begin() + static_cast<int64_t>(page) * kPageTokens;
    const auto end =
        positions.begin() + std::min<int64_t>(length, (static_cast<int64_t>(page) + 1) * kPageTokens);
    pages[page].straight = std::adjacent_find(first, std::max(first, end),
                                              [](int32_t a, int32_t b) { return b != a + 1; }) == end;
  }
};

}  // namespace larder
