#include "model/tokenizer.h"

#include <string>

#include "model/tokenizer_parts.h"
#include "model/utf8.h"

namespace larder {

Result<std::unique_ptr<Tokenizer>> Tokenizer::Load(const GgufFile& file) {
  LARDER_ASSIGN(const std::string_view model, file.String("tokenizer.ggml.model"));
  if (model == "gpt2" || model == "gemma4") return LoadBpeTokenizer(file, model);
  if (model == "llama") return LoadSpmTokenizer(file);
  if (model == "t5") return LoadUnigramTokenizer(file);
  return Fail(
      ErrorKind::kUnsupported,
      "tokenizer.ggml.model is \"{}\", which Larder does not know; it knows gpt2, gemma4, llama and t5",
      model);
}

bool Tokenizer::IsEndOfGeneration(int32_t token) const {
  return token >= 0 && token < size_ && is_end_[static_cast<size_t>(token)];
}

bool Tokenizer::IsControl(int32_t token) const {
  return token >= 0 && token < size_ && is_control_[static_cast<size_t>(token)];
}

std::string_view Tokenizer::Text(int32_t token) const {
  if (token < 0 || token >= size_) return {};
  return vocabulary_[static_cast<size_t>(token)];
}

std::string StreamDecoder::Push(int32_t token) {
  pending_ += tokenizer_->TokenBytes(token, special_);
  // What the text ends with may be the beginning of a character: at most three bytes, kept for the next
  // token.
  size_t keep = 0;
  for (size_t back = 1; back <= 3 && back <= pending_.size(); ++back) {
    const Utf8Step step = NextUtf8(pending_, pending_.size() - back);
    if (step.kind == Utf8Step::kCut && step.bytes == back) keep = back;
  }
  const size_t whole = pending_.size() - keep;
  std::string out = SanitizeUtf8(std::string_view(pending_).substr(0, whole));
  pending_.erase(0, whole);
  return out;
}

std::string StreamDecoder::Finish() {
  std::string out = SanitizeUtf8(pending_);
  pending_.clear();
  return out;
}

}  // namespace larder
