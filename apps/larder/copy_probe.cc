#include "larder/copy_probe.h"

#include <map>
#include <random>

#include "base/result.h"
#include "larder/scoring.h"

namespace larder {
namespace {

constexpr int64_t kBetween = 64;  // tokens of the text between two new strings

double MeanLogProbability(std::span<const double> nll, int64_t begin) {
  double sum = 0;
  for (int64_t i = begin + 1; i < begin + kCopyTokens; ++i) sum -= nll[static_cast<size_t>(i)];
  return sum / static_cast<double>(kCopyTokens - 1);
}

}  // namespace

std::vector<Copy> PlantCopies(std::vector<int32_t>& tokens, std::span<const int64_t> gaps) {
  std::mt19937 random(1);
  std::vector<int32_t> out;
  std::vector<Copy> copies;
  std::multimap<int64_t, Copy> due;  // by where the second time is to begin
  size_t planted = 0;
  for (size_t next = 0, fresh = 0; out.size() < tokens.size();) {
    const int64_t at = std::ssize(out);
    if (!due.empty() && due.begin()->first <= at) {
      Copy copy = due.begin()->second;
      due.erase(due.begin());
      copy.second = at;
      for (int64_t i = 0; i < kCopyTokens; ++i) out.push_back(out[static_cast<size_t>(copy.first + i)]);
      copies.push_back(copy);
    } else if (fresh == kBetween) {
      const int64_t gap = gaps[planted++ % gaps.size()];
      for (int64_t i = 0; i < kCopyTokens; ++i) out.push_back(tokens[random() % tokens.size()]);
      due.insert({at + kCopyTokens + gap, {at, 0, gap}});
      fresh = 0;
    } else {
      out.push_back(tokens[next++]);
      ++fresh;
    }
  }
  out.resize(tokens.size());
  std::erase_if(copies, [&](const Copy& copy) { return copy.second + kCopyTokens > std::ssize(out); });
  tokens = std::move(out);
  return copies;
}

CopyLogProbabilities ScoreCopies(std::span<const double> nll, int64_t from, std::span<const Copy> copies) {
  CopyLogProbabilities out;
  for (const Copy& copy : copies) {
    LARDER_CHECK(copy.first >= from && copy.second - from + kCopyTokens <= std::ssize(nll));
    out.first.push_back(MeanLogProbability(nll, copy.first - from));
    out.second.push_back(MeanLogProbability(nll, copy.second - from));
  }
  return out;
}

std::vector<CopyScore> CopiesByGap(std::span<const Copy> copies, std::span<const double> second,
                                   std::span<const double> base) {
  struct Values {
    std::vector<double> own, base;
  };
  std::map<int64_t, Values> by_gap;
  for (size_t i = 0; i < copies.size(); ++i) {
    by_gap[copies[i].gap].own.push_back(second[i]);
    by_gap[copies[i].gap].base.push_back(base[i]);
  }
  std::vector<CopyScore> out;
  for (const auto& [gap, values] : by_gap) {
    out.push_back({.gap = gap,
                   .copies = std::ssize(values.own),
                   .second = {MeanOf(values.own).mean, Bootstrap(values.own)},
                   .more = PairedDifference(values.own, values.base)});
  }
  return out;
}

}  // namespace larder
