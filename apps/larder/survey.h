// The survey that orders what is known about KV caches ("A Survey on Large Language Model Acceleration based
// on KV Cache Management", TMLR 2025), as a checklist: its 28 leaves, and what this program has or has not at
// each. Methods name their leaves themselves (kv/method_info.h).
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace larder {

struct SurveyLeaf {
  std::string_view id, title;  // "A1"; the letter is the level: of tokens, of the model, of the system
  // What the program does at this leaf that is not a method of a list; "": nothing.
  std::string_view built_in;
  // Why there is nothing; "": there is something. `outside`: and there will not be.
  std::string_view gap;
  bool outside = false;
  // Published systems that belong here beyond those that methods name as theirs, with or without a part of
  // them in the program; "": none is known to this list.
  std::string_view systems = {};
};

std::span<const SurveyLeaf> SurveyLeaves();
std::string_view
SystemsOutside();  // of the same list, at no leaf: what they cache is not a model's keys and values
std::string_view SurveyLevel(char letter);  // "token level"
// The leaves that a method names: "A8 A10".
std::vector<std::string_view> LeavesOf(std::string_view leaf);

}  // namespace larder
