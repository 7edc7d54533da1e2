#include "serve/chat_marks.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "serve/chat_parts.h"
#include "serve/hint_fields.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kKey[] = "cache_control";

struct Mark {
  size_t message;
  size_t parts;  // of its content; 0: all of it
  int64_t ttl_ms;
};

ApiStatus AddMark(const Json& owner, const std::string& where, size_t message, size_t parts,
                  std::vector<Mark>& marks) {
  if (!owner.is_object()) return {};
  const auto control = owner.find(kKey);
  if (control == owner.end() || control->is_null()) return {};
  const auto ttl_ms = EphemeralMs(control->dump(), fmt::format("{}.{}", where, kKey));
  if (!ttl_ms) return std::unexpected(ttl_ms.error());
  marks.push_back({message, parts, *ttl_ms});
  if (marks.size() <= kMostMarks) return {};
  return BadField(where, "There are more than {} cache_control marks; leave the earlier ones out.",
                  kMostMarks);
}

ApiResult<std::vector<Mark>> FindMarks(const Json& messages, const Json& tools) {
  std::vector<Mark> marks;
  const bool system = messages[0].is_object() && messages[0].contains("role") &&
                      (messages[0]["role"] == "system" || messages[0]["role"] == "developer");
  for (size_t i = 0; i < tools.size(); ++i) {
    std::vector<Mark> of_tool;
    const std::string where = fmt::format("tools[{}]", i);
    if (ApiStatus status = AddMark(tools[i], where, 0, 0, of_tool); !status)
      return std::unexpected(status.error());
    if (system && !of_tool.empty()) marks.push_back(of_tool.front());
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    if (ApiStatus status = AddMark(messages[i], where, i, 0, marks); !status)
      return std::unexpected(status.error());
    if (!messages[i].is_object() || !messages[i].contains("content")) continue;
    const Json& content = messages[i]["content"];
    for (size_t j = 0; content.is_array() && j < content.size(); ++j) {
      const std::string part = fmt::format("{}.content[{}]", where, j);
      if (ApiStatus status = AddMark(content[j], part, i, j + 1, marks); !status) {
        return std::unexpected(status.error());
      }
    }
  }
  return marks;
}

}  // namespace

ApiResult<std::vector<Retention>> ChatMarks(const ServeContext& context, const ChatPromptParams& params,
                                            const std::vector<int32_t>& prompt) {
  if (params.messages.find(kKey) == std::string::npos && params.tools.find(kKey) == std::string::npos)
    return {};
  const Json messages = Json::parse(params.messages);
  const ApiResult<std::vector<Mark>> marks =
      FindMarks(messages, params.tools.empty() ? Json::array() : Json::parse(params.tools));
  if (!marks) return std::unexpected(marks.error());
  const ApiResult<std::string> whole = RenderConversation(context, params);
  if (!whole) return std::unexpected(whole.error());
  std::vector<Retention> retain;
  for (const Mark& mark : *marks) {
    ChatPromptParams part = params;
    Json until(messages.begin(), messages.begin() + static_cast<ptrdiff_t>(mark.message) + 1);
    if (mark.parts > 0) {
      Json& content = until.back()["content"];
      content.erase(content.begin() + static_cast<ptrdiff_t>(mark.parts), content.end());
    }
    part.messages = until.dump();
    part.add_generation_prompt = part.continue_final_message = false;
    const ApiResult<std::string> text = RenderConversation(context, part);
    if (!text) continue;
    const auto same = std::ranges::mismatch(*whole, *text).in1 - whole->begin();
    const PromptPart until_there =
        RowsBetween(context.backend->tokenizer(), prompt, *whole, 0, static_cast<size_t>(same));
    const int64_t rows = until_there.begin + until_there.rows;
    if (rows > 0 && mark.ttl_ms > 0) retain.push_back({.rows = rows, .ttl_ms = mark.ttl_ms});
  }
  return retain;
}

}  // namespace larder
