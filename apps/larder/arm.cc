#include "larder/arm.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/evict_driver.h"
#include "kv/codec/codec.h"
#include "kv/evict/method.h"

namespace larder {
namespace {

// Of "name:a=1+b=2".
std::string_view NameOf(std::string_view text) { return text.substr(0, text.find(':')); }

bool IsCodec(std::string_view name) {
  return std::ranges::any_of(KvCodecs(), [&](const KvCodecEntry& entry) { return entry.info.name == name; });
}

struct Protected {
  int64_t sinks, last;
};

// "name:a=1+b=2" with commas instead.
std::string SpecOf(std::string text) {
  std::ranges::replace(text, '+', ',');
  return text;
}

Result<Arm> CodecArm(const std::string& text, const Model& model) {
  const std::string spec = SpecOf(text);
  LARDER_TRY(CreateKvCodec(spec, model.spec().head_dim));
  return Arm{text, "", spec, ArmKind::kCodec, spec};
}

// `text`: a method, perhaps with a codec behind '@'.
Result<Arm> EvictArm(const std::string& text, const std::string& budget, Protected kept, const Model& model) {
  const size_t at = std::min(text.find('@'), text.size());
  const std::string method = SpecOf(text.substr(0, at)), name = method.substr(0, method.find(':'));
  const std::string own = name.size() < method.size() ? method.substr(name.size() + 1) : "";
  Arm arm{text, budget, "", name == "oracle" ? ArmKind::kOracle : ArmKind::kEvict};
  EvictModel on = EvictModelOf(model);
  if (at < text.size()) {
    if (arm.kind == ArmKind::kOracle)
      return Fail(ErrorKind::kUnsupported, "the oracle knows attention to rows; leave '{}' out",
                  text.substr(at));
    LARDER_ASSIGN(const Arm codec, CodecArm(text.substr(at + 1), model));
    arm.kind = ArmKind::kBoth, arm.codec = codec.codec;
    on.transformed_keys = true;
  }
  arm.spec = fmt::format("{}:budget={}", name, budget);
  if (own.find("sinks=") == std::string::npos) arm.spec += fmt::format(",sinks={}", kept.sinks);
  if (own.find("last=") == std::string::npos && name != "lacache")
    arm.spec += fmt::format(",last={}", kept.last);
  if (!own.empty()) arm.spec += "," + own;
  if (arm.kind == ArmKind::kOracle) {
    EvictCommon common;
    Params params("oracle");
    LARDER_TRY(ReadEvictParams(params, std::string_view(arm.spec).substr(name.size() + 1), common));
  } else {
    LARDER_ASSIGN(const auto made, CreateEvictMethod(arm.spec, on));
    if (arm.kind == ArmKind::kBoth && !made->needs().BecomesCodes())
      return Fail(ErrorKind::kUnsupported,
                  "{} leaves rows also beside a codec, since it decides for every token or says itself what "
                  "becomes codes; leave '{}' out, or take a method that chooses once",
                  method, text.substr(at));
  }
  return arm;
}

}  // namespace

std::vector<std::string> CodecsOf(const std::vector<Arm>& arms) {
  std::vector<std::string> out;
  for (const Arm& arm : arms) {
    if (!arm.codec.empty() && std::ranges::find(out, arm.codec) == out.end()) out.push_back(arm.codec);
  }
  return out;
}

Arm WithEntries(const Arm& arm, int64_t entries) {
  constexpr std::string_view kKey = ":budget=";  // what EvictArm begins with
  const size_t begin = arm.spec.find(kKey) + kKey.size(),
               end = std::min(arm.spec.find(',', begin), arm.spec.size());
  Arm out = arm;
  out.spec = arm.spec.substr(0, begin) + std::to_string(entries) + arm.spec.substr(end);
  out.entries = entries;
  return out;
}

std::vector<std::string> Split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= text.size();) {
    const size_t end = std::min(text.find(separator, begin), text.size());
    if (end > begin) parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

Result<std::vector<Arm>> PlanArms(const std::string& methods, const std::string& budgets, int64_t sinks,
                                  int64_t last, const Model& model, Refusals* refused) {
  std::vector<Arm> arms;
  Refusals left_out;
  // False: the method is left out, whatever the budget.
  const auto add = [&](const std::string& text, Result<Arm> arm) -> Result<bool> {
    if (!arm && (refused == nullptr || arm.error().kind != ErrorKind::kUnsupported))
      return std::unexpected(arm.error());
    if (!arm) {
      left_out[text] = arm.error().message;
    } else {
      arms.push_back(*std::move(arm));
    }
    return arm.has_value();
  };
  // A comma between methods; inside one, semicolons would be unusual, so "name:a=1" may have one parameter,
  // or more with '+': "name:a=1+b=2".
  for (const std::string& text : Split(methods, ',')) {
    if (IsCodec(NameOf(text))) {
      LARDER_TRY(add(text, CodecArm(text, model)));
    } else if (text == "full") {
      arms.push_back({text, "", "", ArmKind::kFull});
    } else {
      for (const std::string& budget : Split(budgets, ',')) {
        LARDER_ASSIGN(const bool added, add(text, EvictArm(text, budget, {sinks, last}, model)));
        if (!added) break;
      }
    }
  }
  if (arms.empty() && !left_out.empty()) return Fail(ErrorKind::kUnsupported, "{}", left_out.begin()->second);
  if (arms.empty())
    return Fail(ErrorKind::kInvalid, "no methods or no budgets; add --methods snapkv,h2o --budgets 0.25");
  if (refused != nullptr) *refused = std::move(left_out);
  return arms;
}

std::string DefaultMethods(std::initializer_list<std::string_view> variants,
                           std::initializer_list<std::string_view> without) {
  std::vector<std::string_view> names;
  for (const EvictMethodEntry& entry : EvictMethods()) names.push_back(entry.info.name);
  names.push_back("oracle");
  for (const KvCodecEntry& entry : KvCodecs()) names.push_back(entry.info.name);
  std::vector<std::string_view> list;
  for (const std::string_view name : names) {
    for (const std::string_view variant : variants) {
      if (NameOf(variant) == name) list.push_back(variant);
    }
    if (std::ranges::find(without, name) == without.end()) list.push_back(name);
  }
  return fmt::format("{}", fmt::join(list, ","));
}

std::vector<MethodInfo> InfosOf(const Arm& arm) {
  std::vector<MethodInfo> infos;
  for (const std::string& part : Split(arm.method, '@')) {
    for (const EvictMethodEntry& entry : EvictMethods()) {
      if (entry.info.name == NameOf(part)) infos.push_back(entry.info);
    }
    for (const KvCodecEntry& entry : KvCodecs()) {
      if (entry.info.name == NameOf(part)) infos.push_back(entry.info);
    }
  }
  return infos;
}

}  // namespace larder
