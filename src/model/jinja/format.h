// Python's two ways to put values into text.
#pragma once

#include <string_view>

#include "model/jinja/interpreter.h"

namespace larder::jinja {

// "..." % values: a tuple gives one value per conversion, a dict named ones, anything else is the only value.
Result<std::string> PercentFormat(std::string_view format, const Value& values, Heap& heap);
// "...".format(...). Fields that look inside their value ({0.x}, {0[x]}) are refused.
Result<std::string> BraceFormat(std::string_view format, const Arguments& arguments, Heap& heap);

}  // namespace larder::jinja
