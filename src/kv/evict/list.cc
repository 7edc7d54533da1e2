#include <algorithm>
#include <charconv>
#include <cmath>

#include "kv/evict/method.h"

namespace larder {

// One line a method: the function in its file that describes it.
#define LARDER_EVICT_METHODS(METHOD) \
  METHOD(AdaKvMethod)                \
  METHOD(CakeMethod)                 \
  METHOD(H2oMethod)                  \
  METHOD(KeyNormMethod)              \
  METHOD(KvMergerMethod)             \
  METHOD(LaCacheMethod)              \
  METHOD(MikvMethod)                 \
  METHOD(RandomMethod)               \
  METHOD(SnapKvMethod)               \
  METHOD(StreamingMethod)

#define LARDER_DECLARE(name) EvictMethodEntry name();
LARDER_EVICT_METHODS(LARDER_DECLARE)
#undef LARDER_DECLARE

std::vector<EvictMethodEntry> EvictMethods() {
#define LARDER_ENTRY(name) name(),
  return {LARDER_EVICT_METHODS(LARDER_ENTRY)};
#undef LARDER_ENTRY
}

std::string EvictMethodNames() {
  std::string names;
  for (const EvictMethodEntry& entry : EvictMethods()) {
    if (!names.empty()) names += ", ";
    names += entry.info.name;
  }
  return names;
}

namespace {

// With all parameters, in the order of their declaration, as they were written.
std::string FullSpec(const Params& params) {
  std::string spec = params.owner();
  for (const ParamSpec& param : params.specs()) {
    spec += spec.size() == params.owner().size() ? ':' : ',';
    spec += param.name;
    spec += '=';
    spec += param.given.value_or(param.default_text);
  }
  return spec;
}

}  // namespace

Result<std::unique_ptr<EvictMethod>> CreateEvictMethod(std::string_view spec, const EvictModel& model) {
  const std::string_view name = spec.substr(0, spec.find(':'));
  const std::string_view parameters = name.size() < spec.size() ? spec.substr(name.size() + 1) : "";
  for (const EvictMethodEntry& entry : EvictMethods()) {
    if (entry.info.name != name) continue;
    Params params{std::string(name)};
    LARDER_ASSIGN(auto method, entry.create(params, parameters, model));
    if (method != nullptr) method->SetSpec(FullSpec(params));
    return method;
  }
  return Fail(ErrorKind::kInvalid, "'{}' is no eviction method; known: {}", name, EvictMethodNames());
}

Result<EvictBudget> EvictBudget::Parse(std::string_view text) {
  EvictBudget budget;
  const char* end = text.data() + text.size();
  double number = 0;
  const auto [stop, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  const bool plain = error == std::errc() && stop == end;
  if (plain && text.find('.') != std::string_view::npos && number > 0 && number <= 1) {
    budget.value_ = number;
    return budget;
  }
  if (plain && number >= 1 && number <= 1e9 && number == std::floor(number)) {
    budget.kind_ = Kind::kEntries;
    budget.value_ = number;
    return budget;
  }
  if (!plain) {
    if (const auto bytes = ParseSize(text); bytes && *bytes > 0) {
      budget.kind_ = Kind::kBytes;
      budget.value_ = static_cast<double>(*bytes);
      return budget;
    }
  }
  return Fail(ErrorKind::kInvalid,
              "'{}' is no budget; give a share of the prompt (0.25), entries of a lane (256) or bytes (4MiB)",
              text);
}

int64_t EvictBudget::Entries(const KvShape& shape, int lanes, int64_t prompt_rows, bool unequal) const {
  double entries = value_;
  if (kind_ == Kind::kShare) entries = value_ * static_cast<double>(prompt_rows);
  if (kind_ == Kind::kBytes) {
    const double page = static_cast<double>(shape.page_bytes() + LaneTable::kTableBytesPerPage);
    // Less the newcomer's place: it is there before another one goes.
    entries = (std::floor(value_ / (page * lanes)) - (unequal ? 1 : 0)) * kPageTokens - 1;
  }
  return std::max<int64_t>(1, static_cast<int64_t>(entries));
}

Status ReadEvictParams(Params& params, std::string_view parameters, EvictCommon& common) {
  params.String("budget", &common.budget, "what is kept: a share of the prompt, entries of a lane, or bytes");
  params.Int("sinks", &common.sinks, 0, 1 << 20, "first tokens that are kept whatever their score");
  params.Int("last", &common.last, 0, 1 << 20, "newest tokens that are kept whatever their score");
  LARDER_TRY(params.ParseList(parameters));
  LARDER_ASSIGN(common.parsed, EvictBudget::Parse(common.budget));
  return {};
}

}  // namespace larder
