#include "larder/blend_prompts.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <string>
#include <string_view>

#include <fmt/format.h>

namespace larder {
namespace {

using Tokens = std::vector<int32_t>;

constexpr std::array<std::string_view, 8> kNames = {"Marlow",  "Quentin", "Harriet", "Osgood",
                                                    "Beatrix", "Lambert", "Winona",  "Fergus"};
constexpr std::array<std::string_view, 8> kAliases = {"the Falcon",   "the Miller",  "the Captain",
                                                      "the Gardener", "the Painter", "the Beaver",
                                                      "the Admiral",  "the Tailor"};
constexpr size_t kPairs = 2;

Tokens Encode(const Tokenizer& tokenizer, const std::string& text) {
  return tokenizer.Encode(text, {.add_special = false, .parse_special = false});
}

// The first `count` of [0, all), shuffled.
std::vector<size_t> Draw(size_t all, size_t count, std::mt19937& random) {
  std::vector<size_t> out(all);
  std::iota(out.begin(), out.end(), size_t{0});
  std::ranges::shuffle(out, random);
  out.resize(count);
  return out;
}

}  // namespace

BlendPrompt PromptOfText(const BlendPromptShape& shape, std::span<const int32_t> text, std::mt19937& random) {
  BlendPrompt out;
  const auto at = text.begin();
  for (const size_t chunk :
       Draw(static_cast<size_t>(shape.chunks), static_cast<size_t>(shape.chunks), random)) {
    const auto begin = at + static_cast<int64_t>(chunk) * shape.chunk_tokens;
    out.chunks.emplace_back(begin, begin + shape.chunk_tokens);
  }
  const auto behind = at + shape.chunks * shape.chunk_tokens;
  out.tail.assign(behind, behind + shape.tail_tokens);
  out.answer.assign(behind + shape.tail_tokens, behind + shape.tail_tokens + shape.answer_tokens);
  return out;
}

Result<BlendPrompt> PromptOfAliases(const BlendPromptShape& shape, std::span<const int32_t> text,
                                    const Tokenizer& tokenizer, std::mt19937& random) {
  BlendPrompt out = PromptOfText(shape, text, random);
  const auto names = Draw(kNames.size(), kPairs, random), aliases = Draw(kAliases.size(), kPairs, random);
  std::vector<std::string> facts;
  std::array<std::string, kPairs> codes;
  for (size_t i = 0; i < kPairs; ++i) {
    codes[i] = std::to_string(std::uniform_int_distribution<int>(1000, 9999)(random));
    facts.push_back(fmt::format(" {} is also called {}.", kNames[names[i]], kAliases[aliases[i]]));
    facts.push_back(fmt::format(" The code of {} is {}.", kAliases[aliases[i]], codes[i]));
  }
  if (facts.size() > out.chunks.size())
    return Fail(ErrorKind::kInvalid, "prompts with aliases have {} chunks at least; raise --chunks",
                facts.size());
  const std::vector<size_t> places = Draw(out.chunks.size(), facts.size(), random);
  for (size_t i = 0; i < facts.size(); ++i) {
    const Tokens fact = Encode(tokenizer, facts[i]);
    Tokens& chunk = out.chunks[places[i]];
    if (fact.size() > chunk.size())
      return Fail(ErrorKind::kInvalid,
                  "'{}' has {} tokens and does not fit into a chunk; raise --chunk-tokens", facts[i],
                  fact.size());
    std::ranges::copy(fact, chunk.begin() + static_cast<int64_t>((chunk.size() - fact.size()) / 2));
  }
  const std::string_view name = kNames[names[0]];
  out.tail = Encode(
      tokenizer, fmt::format("\n\nQuestion: What is the code of {}?\nAnswer: The code of {} is", name, name));
  out.answer = Encode(tokenizer, " " + codes[0]);
  return out;
}

}  // namespace larder
