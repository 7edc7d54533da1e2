#include "serve/tool_calls.h"

#include <nlohmann/json.hpp>

#include "serve/fields.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;
constexpr std::string_view kBegin = "<tool_call>", kEnd = "</tool_call>";

// Length of the longest end of `text` that is a proper beginning of kBegin.
size_t PartialTag(std::string_view text) {
  for (size_t length = std::min(text.size(), kBegin.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == kBegin.substr(0, length)) return length;
  }
  return 0;
}

bool IsBlank(std::string_view text) { return text.find_first_not_of(" \t\r\n") == std::string_view::npos; }

}  // namespace

void ToolCallParser::AddText(std::vector<OutputPiece>& pieces, std::string_view text) {
  if (text.empty() || (found_ && IsBlank(text))) return;  // line breaks between and after calls
  pieces.push_back({.text = std::string(text)});
}

bool ToolCallParser::AddCall(std::vector<OutputPiece>& pieces, std::string_view json) {
  if (!CheckJsonShape(json)) return false;
  const Json call = Json::parse(json, nullptr, false);
  if (!call.is_object() || !call.contains("name") || !call["name"].is_string()) return false;
  const char* key = call.contains("parameters") && !call.contains("arguments") ? "parameters" : "arguments";
  OutputPiece piece{.is_call = true, .name = call["name"].get<std::string>(), .arguments = "{}"};
  if (call.contains(key)) {
    const Json& arguments = call[key];
    if (!arguments.is_object() && !arguments.is_string()) return false;
    piece.arguments = arguments.is_string() ? arguments.get<std::string>() : arguments.dump();
  }
  pieces.push_back(std::move(piece));
  found_ = true;
  return true;
}

std::vector<OutputPiece> ToolCallParser::Push(std::string_view text) {
  std::vector<OutputPiece> pieces;
  const size_t searched = held_.size() < kEnd.size() ? 0 : held_.size() - kEnd.size();
  held_ += text;
  for (size_t from = searched;;) {
    const size_t begin = held_.find(kBegin);
    if (begin == std::string::npos) {
      const size_t certain = held_.size() - PartialTag(held_);
      AddText(pieces, std::string_view(held_).substr(0, certain));
      held_.erase(0, certain);
      return pieces;
    }
    AddText(pieces, std::string_view(held_).substr(0, begin));
    held_.erase(0, begin);
    const size_t end = held_.find(kEnd, begin == 0 ? from : 0);
    if (end == std::string::npos) return pieces;
    const std::string_view json = std::string_view(held_).substr(kBegin.size(), end - kBegin.size());
    if (!AddCall(pieces, json)) AddText(pieces, std::string_view(held_).substr(0, end + kEnd.size()));
    held_.erase(0, end + kEnd.size());
    from = 0;
  }
}

std::vector<OutputPiece> ToolCallParser::Finish() {
  std::vector<OutputPiece> pieces;
  const bool call =
      held_.starts_with(kBegin) && AddCall(pieces, std::string_view(held_).substr(kBegin.size()));
  if (!call) AddText(pieces, held_);
  held_.clear();
  return pieces;
}

}  // namespace larder
