// Tokenizers from GGUF metadata (keys tokenizer.ggml.*): byte-level BPE with the pre-tokenizers that
// published models name, and SentencePiece (BPE by scores; unigram), with special and added tokens and byte
// fallback.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "model/gguf.h"

namespace larder {

inline constexpr int32_t kNoToken = -1;

struct EncodeOptions {
  bool add_special = true;     // BOS / EOS as the model's metadata says
  bool parse_special = false;  // "<|im_start|>" in the text becomes the control token
};

class Tokenizer {
 public:
  // kUnsupported names the model or pre-tokenizer it does not know; kInvalid the broken field.
  static Result<std::unique_ptr<Tokenizer>> Load(const GgufFile& file);
  virtual ~Tokenizer() = default;

  // Any bytes are accepted; invalid UTF-8 goes through byte tokens. Without them SentencePiece models give
  // the unknown token; a byte that a byte-level vocabulary lacks is dropped, as in the tokenizers those were
  // made with.
  virtual std::vector<int32_t> Encode(std::string_view text, EncodeOptions options) const = 0;

  // The bytes a token stands for in running text; may be a part of a UTF-8 sequence. Control tokens give ""
  // unless `special` (then their text). SentencePiece's word marker is a space.
  virtual std::string TokenBytes(int32_t token, bool special = false) const = 0;

  // Whole sequences. Differs from joining TokenBytes only where the tokenizer strips the space it added in
  // front.
  virtual std::string Decode(std::span<const int32_t> tokens, bool special = false) const = 0;

  int32_t size() const { return size_; }
  int32_t bos() const { return bos_; }  // kNoToken where absent
  int32_t eos() const { return eos_; }
  bool add_bos() const { return add_bos_; }
  bool add_eos() const { return add_eos_; }
  bool IsEndOfGeneration(int32_t token) const;  // eos, eot, and the end tokens chat models use
  bool IsControl(int32_t token) const;
  std::string_view Text(int32_t token) const;        // as it stands in the vocabulary
  std::string_view model() const { return model_; }  // "gpt2", "llama", "t5"
  const Digest& digest() const { return digest_; }   // over vocabulary, merges, types and settings

 protected:
  int32_t size_ = 0, bos_ = kNoToken, eos_ = kNoToken;
  bool add_bos_ = false, add_eos_ = false;
  std::string model_;
  std::vector<std::string> vocabulary_;
  std::vector<bool> is_control_, is_end_;
  Digest digest_;
};

// Turns a growing list of tokens into text that is only ever whole UTF-8 sequences.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer, bool special = false)
      : tokenizer_(tokenizer), special_(special) {}
  std::string Push(int32_t token);  // the text that became complete
  std::string Finish();             // what is left, U+FFFD for a sequence that was never completed

 private:
  const Tokenizer* tokenizer_;
  bool special_;
  std::string pending_;
};

}  // namespace larder
