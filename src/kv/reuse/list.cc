#include "kv/reuse/method.h"

namespace larder {

// One line a method: the function in its file that describes it.
#define LARDER_REUSE_METHODS(METHOD) \
  METHOD(PrefixMethod)               \
  METHOD(BlendMethod)

#define LARDER_DECLARE(name) ReuseMethodEntry name();
LARDER_REUSE_METHODS(LARDER_DECLARE)
#undef LARDER_DECLARE

namespace {

std::string_view NameOf(std::string_view spec) { return spec.substr(0, spec.find(':')); }

// Pairs that are refused. "*": any.
struct Refusal {
  std::string_view reuse, evict, reason;
};
constexpr Refusal kRefusals[] = {
    {"blend", "h2o", "h2o sums the attention of every row of the prompt, and rows from chunks have none"},
    {"blend", "lacache", "lacache stores keys by rank, and rows from chunks come with positions"},
    {"blend", "*", "the quality of dropping rows on top of approximate ones is not known"},
};

}  // namespace

std::vector<ReuseMethodEntry> ReuseMethods() {
#define LARDER_ENTRY(name) name(),
  return {LARDER_REUSE_METHODS(LARDER_ENTRY)};
#undef LARDER_ENTRY
}

Result<std::unique_ptr<ReuseMethod>> CreateReuseMethod(std::string_view spec, const ReuseModel& model) {
  const std::string_view name = NameOf(spec);
  const std::string_view parameters = name.size() < spec.size() ? spec.substr(name.size() + 1) : "";
  std::string known;
  for (const ReuseMethodEntry& entry : ReuseMethods()) {
    if (entry.info.name == name) {
      Params params{std::string(name)};
      return entry.create(params, parameters, model);
    }
    known += fmt::format("{}{}", known.empty() ? "" : ", ", entry.info.name);
  }
  return Fail(ErrorKind::kInvalid, "'{}' is no way of reuse; known: {}", name, known);
}

Status CheckCombination(std::string_view reuse, std::string_view evict) {
  if (evict.empty()) return {};
  for (const Refusal& refusal : kRefusals) {
    if (refusal.reuse != NameOf(reuse) || (refusal.evict != "*" && refusal.evict != NameOf(evict))) continue;
    return Fail(ErrorKind::kUnsupported,
                "{} does not run together with {}: {}; take reuse prefix, or evict none", NameOf(reuse),
                NameOf(evict), refusal.reason);
  }
  return {};
}

}  // namespace larder
