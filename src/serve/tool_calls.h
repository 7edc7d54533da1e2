// Finds tool calls in what a model writes: the common form <tool_call>{"name": ..., "arguments":
// {...}}</tool_call>. Anything else stays text, word for word.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace larder {

struct OutputPiece {
  bool is_call = false;
  std::string text;       // text
  std::string name;       // call
  std::string arguments;  // call: JSON
};

class ToolCallParser {
 public:
  // Pieces that are certain now. Text that may be the beginning of a call is held back.
  std::vector<OutputPiece> Push(std::string_view text);
  // What is left at the end: a complete call whose end tag is missing, or text.
  std::vector<OutputPiece> Finish();
  bool found() const { return found_; }

 private:
  void AddText(std::vector<OutputPiece>& pieces, std::string_view text);
  bool AddCall(std::vector<OutputPiece>& pieces, std::string_view json);
  std::string held_;
  bool found_ = false;
};

}  // namespace larder
