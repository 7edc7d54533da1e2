// Strings that a stream repeats (LaCache's copy probe): tokens of the text in random order, so that nothing
// but their first time tells what comes, and the same again behind a gap. How likely a pass finds the second
// time says what it still holds from so far back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "larder/bench_form.h"

namespace larder {

inline constexpr int64_t kCopyTokens = 16;

struct Copy {
  int64_t first = 0, second = 0;  // where the string begins, in tokens of the text
  int64_t gap = 0;                // tokens between the two, as was asked for; other strings may delay it
};

// Puts strings into a text, whose end is cut off for them: its length stays. Gaps take turns. Those that do
// not end within the text are not returned.
std::vector<Copy> PlantCopies(std::vector<int32_t>& tokens, std::span<const int64_t> gaps);

// The mean log-probability of a token of each string's second time, and of its first. Its first token is left
// out: nothing says that the string is coming. nll[0] is of the text's token `from`; copies begin behind it.
struct CopyLogProbabilities {
  std::vector<double> second, first;  // [copy]
};
CopyLogProbabilities ScoreCopies(std::span<const double> nll, int64_t from, std::span<const Copy> copies);

// What one pass makes of all copies with one gap.
struct CopyScore {
  int64_t gap = 0, copies = 0;
  Estimate second;  // mean log-probability
  Estimate more;    // above that of the pass that it is held against, copy by copy
};
// For each gap that there is, ascending.
std::vector<CopyScore> CopiesByGap(std::span<const Copy> copies, std::span<const double> second,
                                   std::span<const double> base);

}  // namespace larder
