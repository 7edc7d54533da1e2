// The global functions: range, dict, namespace, cycler, joiner, raise_exception, strftime_now.
#include <algorithm>
#include <ctime>

#include "model/jinja/interpreter.h"
#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

Result<Value> Range(Interpreter& interpreter, Arguments arguments) {
  if (!arguments.named.empty()) return Fail(ErrorKind::kInvalid, "range() takes no named arguments");
  LARDER_ASSIGN(const auto bound, Bind("range", std::move(arguments), {"start", "stop", "step"}, 1));
  Int numbers[3] = {0, 0, 1};
  for (size_t i = 0; i < 3; ++i) {
    if (!bound[i]) continue;
    if (!bound[i]->IsIntegral()) {
      return Fail(ErrorKind::kInvalid, "range() needs integers, not '{}'", bound[i]->TypeName());
    }
    numbers[i] = bound[i]->int_value();
  }
  if (!bound[1]) std::swap(numbers[0], numbers[1]);
  const auto [start, stop, step] = numbers;
  if (step == 0) return Fail(ErrorKind::kInvalid, "the step of range() is zero");
  for (const Int number : numbers) {
    if (number < INT64_MIN || number > INT64_MAX) return Fail(ErrorKind::kExhausted, "range() is too large");
  }
  const Int distance = step > 0 ? stop - start : start - stop;
  const Int stride = step > 0 ? step : -step;
  const Int count = distance > 0 ? (distance + stride - 1) / stride : 0;
  if (count > kMaxRange) {
    return Fail(ErrorKind::kExhausted, "range() of {} numbers; at most {} are possible", IntText(count),
                kMaxRange);
  }
  std::vector<Value> items;
  items.reserve(static_cast<size_t>(count));
  for (Int i = 0; i < count; ++i) items.push_back(Value::Integer(start + i * step));
  return interpreter.heap().NewSequence(SequenceType::kRange, std::move(items));
}

// What dict(...) and namespace(...) hold: a dict or pairs, then named values.
Result<Dict::Builder> BuildDict(Interpreter& interpreter, std::string_view function, Arguments arguments) {
  Dict::Builder dict;
  if (arguments.positional.size() > 1)
    return Fail(ErrorKind::kInvalid, "{}() takes at most one argument", function);
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (source.Is(Kind::kDict)) {
      for (const auto& [key, value] : source.dict().items) LARDER_TRY(dict.Set(key, value));
    } else {
      LARDER_ASSIGN(const std::vector<Value> pairs, Iterate(source, interpreter.heap()));
      for (const Value& pair : pairs) {
        LARDER_ASSIGN(const std::vector<Value> items, Iterate(pair, interpreter.heap()));
        if (items.size() != 2)
          return Fail(ErrorKind::kInvalid, "{}() needs pairs, not {} values", function, items.size());
        LARDER_TRY(dict.Set(items[0], items[1]));
      }
    }
  }
  for (auto& [name, value] : arguments.named) {
    LARDER_ASSIGN(Value key, interpreter.heap().NewText(std::string(name)));
    LARDER_TRY(dict.Set(std::move(key), std::move(value)));
  }
  return dict;
}

Result<Value> MakeDict(Interpreter& interpreter, Arguments arguments) {
  LARDER_ASSIGN(Dict::Builder dict, BuildDict(interpreter, "dict", std::move(arguments)));
  return interpreter.heap().NewDict(std::move(dict));
}

Result<Value> MakeNamespace(Interpreter& interpreter, Arguments arguments) {
  LARDER_ASSIGN(const Dict::Builder dict, BuildDict(interpreter, "namespace", std::move(arguments)));
  std::vector<std::pair<std::string, Value>> attributes;
  for (const auto& [key, value] : dict.items) {
    if (!key.Is(Kind::kText)) return Fail(ErrorKind::kUnsupported, "the names in a namespace must be texts");
    attributes.emplace_back(std::string(key.text()), value);
  }
  return interpreter.NewNamespace(std::move(attributes));
}

Result<Value> MakeCycler(Interpreter& interpreter, Arguments arguments) {
  if (arguments.positional.empty() || !arguments.named.empty()) {
    return Fail(ErrorKind::kInvalid, "cycler() needs what to cycle through");
  }
  const size_t bytes = arguments.positional.size() * sizeof(Value);
  return interpreter.NewObject(std::make_shared<Cycler>(std::move(arguments.positional)), bytes);
}

Result<Value> MakeJoiner(Interpreter& interpreter, Arguments arguments) {
  LARDER_ASSIGN(auto bound, Bind("joiner", std::move(arguments), {"sep"}, 0));
  LARDER_ASSIGN(Value separator, interpreter.heap().NewText(", "));
  if (bound[0]) separator = *std::move(bound[0]);
  return interpreter.NewObject(std::make_shared<Joiner>(std::move(separator)));
}

Result<Value> RaiseException(Interpreter& interpreter, Arguments arguments) {
  LARDER_ASSIGN(const auto bound, Bind("raise_exception", std::move(arguments), {"message"}, 1));
  LARDER_ASSIGN(std::string message, Str(*bound[0]));
  return interpreter.Raise(std::move(message));
}

// The format for strftime(3): %f, %z and %Z mean for a time without a zone what they mean in Python.
std::string TimeFormat(std::string_view format) {
  std::string out;
  for (size_t i = 0; i < format.size(); ++i) {
    const char next = format[i] == '%' && i + 1 < format.size() ? format[i + 1] : '\0';
    if (next == 'f') out += "000000";
    if (next == '%') out += "%%";
    if (next == 'f' || next == 'z' || next == 'Z' || next == '%') {
      ++i;
    } else {
      out.push_back(format[i]);
    }
  }
  return out;
}

Result<Value> StrftimeNow(Interpreter& interpreter, Arguments arguments) {
  constexpr size_t kMaxTime = 4096;
  LARDER_ASSIGN(const auto bound, Bind("strftime_now", std::move(arguments), {"format"}, 1));
  if (!bound[0]->Is(Kind::kText) || bound[0]->text().size() > kMaxTime / 4) {
    return Fail(ErrorKind::kInvalid, "strftime_now() needs a format of at most {} bytes", kMaxTime / 4);
  }
  if (bound[0]->text().find('\0') != std::string_view::npos) {
    return Fail(ErrorKind::kInvalid, "the format of strftime_now() contains a zero byte");
  }
  const std::string format = TimeFormat(bound[0]->text());
  const time_t seconds = static_cast<time_t>(interpreter.unix_seconds());
  tm local{};
  if (!localtime_r(&seconds, &local))
    return Fail(ErrorKind::kInvalid, "strftime_now(): the time is out of range");
  char buffer[kMaxTime];
  // A blank in front tells an empty result from one that does not fit.
  const size_t length = std::strftime(buffer, sizeof buffer, (" " + format).c_str(), &local);
  if (length == 0) return Fail(ErrorKind::kExhausted, "strftime_now() gives more than {} bytes", kMaxTime);
  return interpreter.heap().NewText(std::string(buffer + 1, length - 1));
}

struct FunctionEntry {
  std::string_view name;
  Result<Value> (*call)(Interpreter& interpreter, Arguments arguments);
};

constexpr FunctionEntry kFunctions[] = {{"range", Range},
                                        {"dict", MakeDict},
                                        {"namespace", MakeNamespace},
                                        {"cycler", MakeCycler},
                                        {"joiner", MakeJoiner},
                                        {"raise_exception", RaiseException},
                                        {"strftime_now", StrftimeNow}};

const FunctionEntry* FindFunction(std::string_view name) {
  const auto* entry = std::find_if(std::begin(kFunctions), std::end(kFunctions),
                                   [name](const FunctionEntry& candidate) { return candidate.name == name; });
  return entry == std::end(kFunctions) ? nullptr : entry;
}

}  // namespace

bool IsFunction(std::string_view name) { return FindFunction(name) != nullptr; }

Result<Value> CallFunction(Interpreter& interpreter, std::string_view name, Arguments arguments) {
  return FindFunction(name)->call(interpreter, std::move(arguments));
}

}  // namespace larder::jinja
