#include "serve/chat_parts.h"

#include <nlohmann/json.hpp>

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kKey[] = "larder";
constexpr size_t kMostParts = 1024;

ApiResult<bool> IsChunk(const Json& part, const std::string& where) {
  if (!part.is_object()) return false;
  const auto mark = part.find(kKey);
  if (mark == part.end() || mark->is_null()) return false;
  if (!mark->is_object()) return BadField(where, "'{}' must be an object.", where);
  const auto chunk = mark->find("chunk");
  if (chunk == mark->end() || chunk->is_null()) return false;
  if (!chunk->is_boolean()) return BadField(where + ".chunk", "'{}.chunk' must be true or false.", where);
  return chunk->get<bool>();
}

// Texts of the marked parts, in order.
ApiResult<std::vector<std::string>> MarkedTexts(const Json& messages) {
  std::vector<std::string> texts;
  for (size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object() || !messages[i].contains("content")) continue;
    const Json& content = messages[i]["content"];
    for (size_t j = 0; content.is_array() && j < content.size(); ++j) {
      const std::string where = fmt::format("messages[{}].content[{}].{}", i, j, kKey);
      const ApiResult<bool> chunk = IsChunk(content[j], where);
      if (!chunk) return std::unexpected(chunk.error());
      if (!*chunk || !content[j].contains("text") || !content[j]["text"].is_string()) continue;
      texts.push_back(content[j]["text"].get<std::string>());
      if (texts.size() > kMostParts)
        return BadField(where, "There are more than {} chunks; leave the mark out of some.", kMostParts);
    }
  }
  return texts;
}

}  // namespace

PromptPart RowsBetween(const Tokenizer& tokenizer, const std::vector<int32_t>& prompt, std::string_view text,
                       size_t begin, size_t end) {
  size_t row = 0, at = 0;
  // A BOS that the template did not print.
  if (prompt[0] == tokenizer.bos() && !text.starts_with(tokenizer.TokenBytes(prompt[0], true))) row = 1;
  for (; row < prompt.size() && at < begin; ++row) at += tokenizer.TokenBytes(prompt[row], true).size();
  PromptPart part{.begin = static_cast<int64_t>(row)};
  for (; row < prompt.size(); ++row) {
    at += tokenizer.TokenBytes(prompt[row], true).size();
    if (at > end) break;
    ++part.rows;
  }
  return part;
}

ApiResult<std::vector<PromptPart>> ChatParts(const ServeContext& context, const ChatPromptParams& params,
                                             const std::vector<int32_t>& prompt) {
  std::vector<PromptPart> parts;
  if (params.messages.find(kKey) == std::string::npos) return parts;
  const ApiResult<std::vector<std::string>> texts = MarkedTexts(Json::parse(params.messages));
  if (!texts) return std::unexpected(texts.error());
  if (texts->empty()) return parts;
  const ApiResult<std::string> whole = RenderConversation(context, params);
  if (!whole) return std::unexpected(whole.error());
  // In order, so that a text that comes twice is found twice.
  size_t from = 0;
  for (const std::string& text : *texts) {
    const size_t at = text.empty() ? std::string::npos : whole->find(text, from);
    if (at == std::string::npos) continue;
    from = at + text.size();
    const PromptPart part = RowsBetween(context.backend->tokenizer(), prompt, *whole, at, from);
    if (part.rows > 0) parts.push_back(part);
  }
  return parts;
}

}  // namespace larder
