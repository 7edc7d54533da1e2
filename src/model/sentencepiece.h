// What SentencePiece does to a text before it looks for tokens: replace characters by a compiled table, put a
// space in front, drop superfluous spaces, and write spaces as U+2581.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "model/gguf.h"

namespace larder {

inline constexpr std::string_view kWordMarker = "\xE2\x96\x81";  // U+2581, SentencePiece's space

void AppendMarked(std::string_view text, std::string* out);    // spaces become word markers
void AppendUnmarked(std::string_view text, std::string* out);  // and back

// tokenizer.ggml.precompiled_charsmap: a Darts-clone trie over UTF-8 bytes whose values point at
// replacements.
class CharacterMap {
 public:
  // kInvalid where the blob's own sizes contradict each other.
  static Result<CharacterMap> Parse(std::string blob);

  bool empty() const { return trie_.empty(); }
  // The longest beginning of `text` that the map knows: its bytes, and what replaces it. 0 bytes: none.
  size_t Match(std::string_view text, std::string_view* replacement) const;
  std::string_view blob() const { return blob_; }

 private:
  std::string blob_;
  std::vector<uint32_t> trie_;
  size_t replacements_ = 0;  // offset in blob_
};

class SentencePieceNormalizer {
 public:
  Status Load(const GgufFile& file, bool default_space_prefix);
  // `at_start`: the text begins a sentence, where the extra space goes. Invalid UTF-8 stays as it is.
  std::string Normalize(std::string_view text, bool at_start) const;
  bool adds_space() const { return adds_space_; }
  void PackSettings(std::string* packed) const;  // for the tokenizer's digest

 private:
  CharacterMap map_;
  bool adds_space_ = true, removes_spaces_ = false;
};

}  // namespace larder
