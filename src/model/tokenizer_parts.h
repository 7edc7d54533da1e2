// What the tokenizers share behind tokenizer.h: the vocabulary with its token types, the search for special
// tokens in a text, and turning tokens back into bytes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"
#include "model/vocab_index.h"

namespace larder {

// tokenizer.ggml.token_type, as the file format numbers them.
enum class TokenType : uint8_t { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };

class VocabularyTokenizer : public Tokenizer {
 public:
  std::vector<int32_t> Encode(std::string_view text, EncodeOptions options) const override;
  std::string TokenBytes(int32_t token, bool special) const override;
  std::string Decode(std::span<const int32_t> tokens, bool special) const override;

 protected:
  friend class VocabularyLoader;

  // Appends the tokens of a piece of text without special tokens in it. `at_start`: the piece begins the text
  // or follows a special token, where SentencePiece puts its extra space.
  virtual void EncodeText(std::string_view text, bool at_start, std::vector<int32_t>* out) const = 0;
  // The bytes of a normal token.
  virtual void AppendNormal(std::string_view text, std::string* out) const = 0;

  TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
  // The byte's own token. Nothing where there is none: what byte-level files call "unknown" is often a
  // control token, which no text may become.
  void AppendByte(uint8_t byte, std::vector<int32_t>* out) const;
  // The tokens of text outside the vocabulary: its byte tokens if there are any, or one unknown token, or
  // nothing.
  void AppendUnknown(std::string_view text, std::vector<int32_t>* out) const;
  std::vector<int32_t> IdsOfTypes(std::initializer_list<TokenType> types) const;

  std::vector<TokenType> types_;
  std::array<int32_t, 256> byte_tokens_;  // kNoToken where there is none
  int32_t unknown_ = kNoToken;
  bool adds_space_ = false;  // Encode puts a space in front, Decode takes it away again

 private:
  PrefixIndex user_defined_;  // matched always
  PrefixIndex special_;  // user-defined, control and unknown: matched when the caller parses special tokens
  // A few models swallow the white space beside a special token.
  std::vector<bool> strips_left_, strips_right_;
};

// Fills the shared part of a tokenizer from a file's metadata, then computes its digest.
class VocabularyLoader {
 public:
  // Defaults where the file says nothing.
  struct Defaults {
    int32_t bos = kNoToken, eos = kNoToken, unknown = kNoToken;
    bool add_bos = false, add_eos = false;
  };
  VocabularyLoader(const GgufFile& file, VocabularyTokenizer* tokenizer)
      : file_(file), tokenizer_(*tokenizer) {}

  Status Load(std::string_view model, const Defaults& defaults);
  // `settings`: everything else that changes the encoding (pre-tokenizer, merges, flags), as the caller packs
  // it.
  void Finish(std::string_view settings);

 private:
  Status LoadTokens();
  Status LoadTypes();
  Status LoadSpecialIds(const Defaults& defaults);
  Result<int32_t> TokenId(std::string_view key, int32_t fallback) const;
  void MarkEnds();
  void MarkStripping();

  const GgufFile& file_;
  VocabularyTokenizer& tokenizer_;
};

// Appends (length, bytes), so that no two lists of fields pack to the same string.
void PackField(std::string_view field, std::string* packed);

// The scores of the vocabulary, one per token.
Result<std::vector<float>> LoadScores(const GgufFile& file, size_t tokens);

// One factory per kind of tokenizer; tokenizer.cc picks by tokenizer.ggml.model.
Result<std::unique_ptr<Tokenizer>> LoadBpeTokenizer(const GgufFile& file, std::string_view model);
Result<std::unique_ptr<Tokenizer>> LoadSpmTokenizer(const GgufFile& file);
Result<std::unique_ptr<Tokenizer>> LoadUnigramTokenizer(const GgufFile& file);

}  // namespace larder
