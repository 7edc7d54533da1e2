#include "model/sentencepiece.h"

#include <algorithm>
#include <cstring>

#include "model/tokenizer_parts.h"
#include "model/utf8.h"

namespace larder {

void AppendMarked(std::string_view text, std::string* out) {
  for (char c : text) {
    if (c == ' ') {
      out->append(kWordMarker);
    } else {
      out->push_back(c);
    }
  }
}

void AppendUnmarked(std::string_view text, std::string* out) {
  for (size_t at; (at = text.find(kWordMarker)) != text.npos; text.remove_prefix(at + kWordMarker.size())) {
    out->append(text.substr(0, at)).push_back(' ');
  }
  out->append(text);
}

Result<CharacterMap> CharacterMap::Parse(std::string blob) {
  constexpr std::string_view kKey = "tokenizer.ggml.precompiled_charsmap";
  const auto word = [&](size_t at) {
    uint32_t value = 0;
    for (size_t i = 0; i < 4; ++i)
      value |= static_cast<uint32_t>(static_cast<uint8_t>(blob[at + i])) << (8 * i);
    return value;
  };
  if (blob.size() < 4)
    return Fail(ErrorKind::kInvalid, "{} has {} bytes, too few for its header", kKey, blob.size());
  const uint32_t trie_bytes = word(0);
  if (trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > blob.size() - 4) {
    return Fail(ErrorKind::kInvalid, "{} has {} bytes, but its table alone claims {}", kKey, blob.size(),
                trie_bytes);
  }
  CharacterMap map;
  map.trie_.resize(trie_bytes / 4);
  for (size_t i = 0; i < map.trie_.size(); ++i) map.trie_[i] = word(4 + 4 * i);
  map.replacements_ = 4 + trie_bytes;
  blob.push_back('\0');  // the last replacement ends, whatever the file says
  map.blob_ = std::move(blob);
  return map;
}

// A unit of the trie holds, from bit 0: the label (8 bits, or bit 31 for a value), whether a value hangs
// below it (bit 8), and the offset to its children (bits 10 to 30, times 256 if bit 9 is set); child = node ^
// offset ^ byte.
size_t CharacterMap::Match(std::string_view text, std::string_view* replacement) const {
  const auto offset = [](uint32_t unit) { return (unit >> 10) << ((unit & 0x200) >> 6); };
  size_t best = 0;
  if (trie_.empty()) return best;
  uint32_t node = offset(trie_[0]);
  for (size_t i = 0; i < text.size() && text[i] != '\0'; ++i) {
    node ^= static_cast<uint8_t>(text[i]);
    if (node >= trie_.size()) break;
    const uint32_t unit = trie_[node];
    if ((unit & 0x800000FF) != static_cast<uint8_t>(text[i])) break;
    node ^= offset(unit);
    if ((unit & 0x100) == 0) continue;
    if (node >= trie_.size()) break;
    const size_t at = replacements_ + (trie_[node] & 0x7FFFFFFF);
    if (at >= blob_.size()) break;
    best = i + 1;
    *replacement = blob_.data() + at;
  }
  return best;
}

Status SentencePieceNormalizer::Load(const GgufFile& file, bool default_space_prefix) {
  adds_space_ = file.BoolOr("tokenizer.ggml.add_space_prefix", default_space_prefix);
  removes_spaces_ = file.BoolOr("tokenizer.ggml.remove_extra_whitespaces", false);
  constexpr std::string_view kKey = "tokenizer.ggml.precompiled_charsmap";
  if (file.Find(kKey) == nullptr) return {};
  LARDER_ASSIGN(const auto values, file.Ints(kKey));
  if (values.empty()) return {};
  std::string blob(values.size(), '\0');
  std::transform(values.begin(), values.end(), blob.begin(), [](int64_t v) { return static_cast<char>(v); });
  LARDER_ASSIGN(map_, CharacterMap::Parse(std::move(blob)));
  return {};
}

std::string SentencePieceNormalizer::Normalize(std::string_view text, bool at_start) const {
  std::string out;
  out.reserve(text.size() + text.size() / 2 + kWordMarker.size());
  const bool prefix = adds_space_ && at_start;
  if (map_.empty() && !removes_spaces_) {
    if (prefix) out += kWordMarker;
    AppendMarked(text, &out);
    return out;
  }
  bool after_space = removes_spaces_;  // spaces here are superfluous
  bool begun = false;
  while (!text.empty()) {
    std::string_view piece;
    size_t consumed = map_.Match(text, &piece);
    if (consumed == 0) {
      consumed = NextUtf8(text, 0).bytes;
      piece = text.substr(0, consumed);
    }
    text.remove_prefix(consumed);
    while (after_space && piece.starts_with(' ')) piece.remove_prefix(1);
    if (piece.empty()) continue;
    if (prefix && !begun) out += kWordMarker;
    begun = true;
    AppendMarked(piece, &out);
    after_space = removes_spaces_ && piece.ends_with(' ');
  }
  while (removes_spaces_ && out.ends_with(kWordMarker)) out.resize(out.size() - kWordMarker.size());
  return out;
}

void SentencePieceNormalizer::PackSettings(std::string* packed) const {
  packed->push_back(static_cast<char>(adds_space_ | removes_spaces_ << 1));
  PackField(map_.blob(), packed);
}

}  // namespace larder
