#include "serve/logprobs.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

namespace larder {
namespace {

constexpr float kNever = -9999.0f;  // what clients expect instead of minus infinity

float Finite(float logprob) { return std::isfinite(logprob) ? std::max(logprob, kNever) : kNever; }

void WriteBytes(JsonWriter& json, std::string_view bytes) {
  json.Key("bytes").BeginArray();
  for (const char byte : bytes) json.Integer(static_cast<uint8_t>(byte));
  json.EndArray();
}

void WriteChatToken(JsonWriter& json, const Tokenizer& tokenizer, int32_t token, float logprob) {
  const std::string bytes = tokenizer.TokenBytes(token, true);
  json.Field("token", bytes).Key("logprob").Float(logprob);
  WriteBytes(json, bytes);
}

}  // namespace

std::string LogprobTokenText(const Tokenizer& tokenizer, int32_t token) {
  std::string bytes = tokenizer.TokenBytes(token, true);
  if (IsValidUtf8(bytes)) return bytes;
  std::string text = "bytes:";
  for (const char byte : bytes)
    fmt::format_to(std::back_inserter(text), "\\x{:02x}", static_cast<uint8_t>(byte));
  return text;
}

float ReportedLogprob(const TokenOutput& output) {
  for (const TokenLogprob& alternative : output.top) {
    if (alternative.token == output.token) return Finite(alternative.logprob);
  }
  return Finite(output.logprob);
}

void WriteChatLogprob(JsonWriter& json, const Tokenizer& tokenizer, const TokenOutput& output, int64_t top) {
  json.BeginObject();
  WriteChatToken(json, tokenizer, output.token, ReportedLogprob(output));
  json.Key("top_logprobs").BeginArray();
  for (size_t i = 0; i < output.top.size() && static_cast<int64_t>(i) < top; ++i) {
    json.BeginObject();
    WriteChatToken(json, tokenizer, output.top[i].token, Finite(output.top[i].logprob));
    json.EndObject();
  }
  json.EndArray().EndObject();
}

void CompletionLogprobs::AddTop(const TokenOutput& output, float chosen) {
  if (top_ == 0) {
    tops_.Null();
    return;
  }
  // Two tokens may have the same text; the likelier one keeps the key, and the chosen one has it in any case.
  std::vector<std::string> seen;
  const std::string chosen_text = LogprobTokenText(*tokenizer_, output.token);
  tops_.BeginObject();
  for (size_t i = 0; i < output.top.size() && static_cast<int64_t>(i) < top_; ++i) {
    const TokenLogprob& alternative = output.top[i];
    std::string text = LogprobTokenText(*tokenizer_, alternative.token);
    if (text == chosen_text || std::find(seen.begin(), seen.end(), text) != seen.end()) continue;
    tops_.Key(text).Float(Finite(alternative.logprob));
    seen.push_back(std::move(text));
  }
  tops_.Key(chosen_text).Float(chosen);
  tops_.EndObject();
}

void CompletionLogprobs::Add(const TokenOutput& output, bool scored) {
  ++count_;
  tokens_.String(LogprobTokenText(*tokenizer_, output.token));
  offsets_.Integer(offset_);
  if (scored) {
    const float chosen = ReportedLogprob(output);
    values_.Float(chosen);
    AddTop(output, chosen);
  } else {
    values_.Null();
    tops_.Null();
  }
  // A character spread over tokens counts where it is completed.
  pending_ += tokenizer_->TokenBytes(output.token, true);
  if (IsValidUtf8(pending_) || pending_.size() >= 8) {
    offset_ += CountCodePoints(pending_);
    pending_.clear();
  }
}

void CompletionLogprobs::Write(JsonWriter& json) {
  const auto list = [&](std::string_view key, JsonWriter& values) {
    json.Key(key).Raw(fmt::format("[{}]", values.text()));
    values = JsonWriter();
  };
  json.BeginObject();
  list("tokens", tokens_);
  list("token_logprobs", values_);
  list("top_logprobs", tops_);
  list("text_offset", offsets_);
  json.EndObject();
  count_ = 0;
}

}  // namespace larder
