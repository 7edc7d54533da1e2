// Log-probabilities in the two forms clients know. Each is turned into text once per token, so that the
// chosen token's and its entry among the alternatives are the same digits: evaluation harnesses compare them
// for equality.
#pragma once

#include <string>
#include <vector>

#include "engine/request.h"
#include "model/tokenizer.h"
#include "serve/json_writer.h"

namespace larder {

// A token as these formats print it: its text, or "bytes:\xe2\x80" where it is only a part of a character.
std::string LogprobTokenText(const Tokenizer& tokenizer, int32_t token);
// What is serialised: finite (minus infinity becomes -9999), and the alternative's value where the token is
// among them.
float ReportedLogprob(const TokenOutput& output);

// One entry of a chat answer's "logprobs": {"content": [...]}.
void WriteChatLogprob(JsonWriter& json, const Tokenizer& tokenizer, const TokenOutput& output, int64_t top);

// The "logprobs" of a text completion: tokens, token_logprobs, top_logprobs, text_offset, in step.
class CompletionLogprobs {
 public:
  // top: how many alternatives were asked for; 0 gives null for each token's top_logprobs.
  CompletionLogprobs(const Tokenizer* tokenizer, int64_t top) : tokenizer_(tokenizer), top_(top) {}
  // scored: false for the first token of a prompt, which has no probability.
  void Add(const TokenOutput& output, bool scored);
  bool empty() const { return count_ == 0; }
  // Writes the object and forgets the tokens; offsets go on.
  void Write(JsonWriter& json);

 private:
  void AddTop(const TokenOutput& output, float chosen);
  const Tokenizer* tokenizer_;
  int64_t top_;
  int64_t count_ = 0;
  int64_t offset_ = 0;   // code points before the next token
  std::string pending_;  // bytes of an unfinished character
  JsonWriter tokens_, values_, tops_, offsets_;
};

}  // namespace larder
