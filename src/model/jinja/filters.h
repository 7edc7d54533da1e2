// The tables of filters (x | name) and tests (x is name).
#pragma once

#include <span>
#include <string_view>

#include "base/result.h"
#include "model/jinja/interpreter.h"

namespace larder::jinja {

struct FilterEntry {
  std::string_view name;
  Result<Value> (*apply)(Interpreter& interpreter, const Value& input, Arguments arguments);
};

struct TestEntry {
  std::string_view name;
  Result<bool> (*apply)(Interpreter& interpreter, const Value& input, Arguments arguments);
};

// Null when there is no such filter or test.
const FilterEntry* FindFilter(std::string_view name);
const TestEntry* FindTest(std::string_view name);
// Jinja has it, Larder does not: refused when the template is parsed.
bool IsRefusedFilter(std::string_view name);
bool IsRefusedTest(std::string_view name);

std::span<const FilterEntry> TextFilters();  // filters_text.cc
std::span<const FilterEntry> ListFilters();  // filters_list.cc

}  // namespace larder::jinja
