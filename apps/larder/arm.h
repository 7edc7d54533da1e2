// The arms of a comparison: the full cache, eviction methods at their budgets, codecs.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "kv/method_info.h"
#include "model/model.h"

namespace larder {

enum class ArmKind : uint8_t { kEvict, kOracle, kCodec, kBoth, kFull };

// One line of the table.
struct Arm {
  std::string method;  // "snapkv", "oracle", "t4:rotate=0", "snapkv@t4:rotate=0", "full"
  std::string budget;  // as it was given; "": a codec's bytes are its own
  std::string spec;    // what the method is made from, or the codec where there is no method
  ArmKind kind = ArmKind::kEvict;
  std::string codec = {};  // what it is made from; "": rows
  int64_t entries = 0;     // of a lane, that the spec says instead of the budget; 0: it says the budget
};

// Methods that are left out, with why: the model cannot give what they need.
using Refusals = std::map<std::string, std::string>;

// Every eviction method of `methods` ("h2o,snapkv:window=16+kernel=5,t4:center=0") at every budget of
// `budgets`; each keeps `sinks` first and `last` newest tokens, unless it says something else itself or knows
// better. "oracle" scores by the attention that will really come; codecs, and "full", are one arm each.
// "snapkv@t4": full pages of what the method has left become codes. kInvalid names what is wrong.
// kUnsupported: what the model cannot give; with `refused` such methods go there and the others are planned,
// if there are any.
Result<std::vector<Arm>> PlanArms(const std::string& methods, const std::string& budgets, int64_t sinks,
                                  int64_t last, const Model& model, Refusals* refused = nullptr);

// What a comparison has where nothing is said, as `methods` of PlanArms: every eviction method and every
// codec of the lists in kv, and the oracle, but for those that `without` names. Each comes behind the
// `variants` of it that are worth a line of their own: "h2o:decode=false".
std::string DefaultMethods(std::initializer_list<std::string_view> variants,
                           std::initializer_list<std::string_view> without);

// What an arm is made of says of itself: of a method, a codec, or both ("snapkv@t4"); none of the oracle and
// the full cache.
std::vector<MethodInfo> InfosOf(const Arm& arm);

// The codecs of all arms, each once, in their order.
std::vector<std::string> CodecsOf(const std::vector<Arm>& arms);

// The same with a budget of so many entries.
Arm WithEntries(const Arm& arm, int64_t entries);

// The parts between separators, without empty ones.
std::vector<std::string> Split(const std::string& text, char separator);

}  // namespace larder
