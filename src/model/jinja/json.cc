#include "model/jinja/json.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

// Builds values from the parser's events, so that key order, the difference between 1 and 1.0 and integers
// beyond 64 bits survive, which a DOM would lose in parts.
class ValueBuilder : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool null() override { return Add(Value::None()); }
  bool boolean(bool value) override { return Add(Value::Bool(value)); }
  bool number_integer(number_integer_t value) override { return Add(Value::Integer(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Add(Value::Integer(value)); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") != std::string::npos) return Add(Value::Float(value));
    const auto integer = ParseInt(text, 10);
    if (!integer)
      return Refuse(ErrorKind::kUnsupported, "an integer of " + std::to_string(text.size()) + " digits");
    return Add(Value::Integer(*integer));
  }
  bool string(string_t& text) override { return Add(Value::Constant(std::move(text))); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return Open(true); }
  bool start_array(size_t) override { return Open(false); }
  bool key(string_t& name) override {
    open_.back().key = Value::Constant(std::move(name));
    return true;
  }
  bool end_object() override {
    Level level = std::move(open_.back());
    open_.pop_back();
    return AddResult(ConstantDict(std::move(level.dict)));
  }
  bool end_array() override {
    Level level = std::move(open_.back());
    open_.pop_back();
    return AddResult(ConstantList(std::move(level.items)));
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    return Refuse(ErrorKind::kInvalid, "a syntax error at byte " + std::to_string(position));
  }

  Result<Value> Take() {
    if (error_) return std::unexpected(*std::move(error_));
    return std::move(root_);
  }

 private:
  struct Level {
    bool is_object;
    Value key;
    Dict::Builder dict;
    std::vector<Value> items;
  };

  bool Refuse(ErrorKind kind, const std::string& what) {
    if (!error_) error_ = Fail(kind, "the context of the chat template has {}", what).error();
    return false;
  }

  bool Open(bool is_object) {
    if (open_.size() >= kMaxValueDepth)
      return Refuse(ErrorKind::kExhausted, "values that are nested too deeply");
    open_.push_back(Level{is_object, {}, {}, {}});
    return true;
  }

  bool AddResult(Result<Value> value) {
    if (value) return Add(*std::move(value));
    error_ = std::move(value).error();
    return false;
  }

  bool Add(Value value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return true;
    }
    Level& level = open_.back();
    if (!level.is_object) {
      level.items.push_back(std::move(value));
      return true;
    }
    const Status set = level.dict.Set(std::move(level.key), std::move(value));
    return set.has_value() || Refuse(set.error().kind, "a bad key: " + set.error().message);
  }

  std::vector<Level> open_;
  Value root_;
  std::optional<Error> error_;
};

class JsonWriter {
 public:
  JsonWriter(const JsonStyle& style, Heap& heap) : style_(style), heap_(heap) {}
  Status Write(const Value& value);
  std::string Take() { return std::move(out_); }

 private:
  Status Append(std::string_view text) {
    LARDER_TRY(Heap::TextRoom(out_.size() + text.size()));
    out_ += text;
    return {};
  }
  Status BreakLine() {
    if (!style_.indent) return {};
    LARDER_TRY(Append("\n"));
    for (int i = 0; i < level_; ++i) LARDER_TRY(Append(*style_.indent));
    return {};
  }
  Status WriteText(std::string_view text);
  Status WriteList(const std::vector<Value>& items);
  Status WriteDict(const Dict& dict);
  static Result<std::string> KeyText(const Value& key);

  const JsonStyle& style_;
  Heap& heap_;
  std::string out_;
  int level_ = 0;
};

std::string JsonFloat(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value < 0 ? "-Infinity" : "Infinity";
  return FloatText(value);
}

void AppendEscape(char32_t unit, std::string* out) {
  fmt::format_to(std::back_inserter(*out), "\\u{:04x}", static_cast<uint32_t>(unit));
}

Status JsonWriter::WriteText(std::string_view text) {
  LARDER_TRY(heap_.Work(text.size()));
  LARDER_TRY(Heap::TextRoom(out_.size() + text.size()));
  out_ += '"';
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const char32_t c = NextCodePoint(text, &at);
    switch (c) {
      case '"':
        out_ += "\\\"";
        continue;
      case '\\':
        out_ += "\\\\";
        continue;
      case '\n':
        out_ += "\\n";
        continue;
      case '\r':
        out_ += "\\r";
        continue;
      case '\t':
        out_ += "\\t";
        continue;
      case '\b':
        out_ += "\\b";
        continue;
      case '\f':
        out_ += "\\f";
        continue;
      default:
        break;
    }
    if (c < 0x20 || (style_.ascii_only && c >= 0x7F && c < 0x10000)) {
      AppendEscape(c, &out_);
    } else if (style_.ascii_only && c >= 0x10000) {
      AppendEscape(0xD800 + ((c - 0x10000) >> 10), &out_);
      AppendEscape(0xDC00 + ((c - 0x10000) & 0x3FF), &out_);
    } else {
      out_ += text.substr(start, at - start);
    }
  }
  return Append("\"");
}

Status JsonWriter::WriteList(const std::vector<Value>& items) {
  if (items.empty()) return Append("[]");
  LARDER_TRY(Append("["));
  ++level_;
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) LARDER_TRY(Append(style_.item_separator));
    LARDER_TRY(BreakLine());
    LARDER_TRY(Write(items[i]));
  }
  --level_;
  LARDER_TRY(BreakLine());
  return Append("]");
}

Result<std::string> JsonWriter::KeyText(const Value& key) {
  switch (key.kind()) {
    case Kind::kText:
      return std::string(key.text());
    case Kind::kInt:
      return IntText(key.int_value());
    case Kind::kFloat:
      return JsonFloat(key.float_value());
    case Kind::kBool:
      return std::string(key.bool_value() ? "true" : "false");
    case Kind::kNone:
      return std::string("null");
    default:
      return Fail(ErrorKind::kInvalid, "tojson: a key of type '{}' is not possible", key.TypeName());
  }
}

Status JsonWriter::WriteDict(const Dict& dict) {
  if (dict.items.empty()) return Append("{}");
  std::vector<const std::pair<Value, Value>*> entries;
  for (const auto& entry : dict.items) entries.push_back(&entry);
  if (style_.sort_keys) {
    const auto is_text = [](const auto* entry) { return entry->first.Is(Kind::kText); };
    if (!std::all_of(entries.begin(), entries.end(), is_text)) {
      return Fail(ErrorKind::kUnsupported, "tojson: sort_keys is only supported for keys that are text");
    }
    LARDER_TRY(heap_.Work(dict.items.size() * 1024));
    std::stable_sort(entries.begin(), entries.end(),
                     [](const auto* a, const auto* b) { return a->first.text() < b->first.text(); });
  }
  LARDER_TRY(Append("{"));
  ++level_;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (i > 0) LARDER_TRY(Append(style_.item_separator));
    LARDER_TRY(BreakLine());
    LARDER_ASSIGN(const std::string key, KeyText(entries[i]->first));
    LARDER_TRY(WriteText(key));
    LARDER_TRY(Append(style_.key_separator));
    LARDER_TRY(Write(entries[i]->second));
  }
  --level_;
  LARDER_TRY(BreakLine());
  return Append("}");
}

Status JsonWriter::Write(const Value& value) {
  LARDER_TRY(heap_.Work());
  switch (value.kind()) {
    case Kind::kNone:
      return Append("null");
    case Kind::kBool:
      return Append(value.bool_value() ? "true" : "false");
    case Kind::kInt:
      return Append(IntText(value.int_value()));
    case Kind::kFloat:
      return Append(JsonFloat(value.float_value()));
    case Kind::kText:
      return WriteText(value.text());
    case Kind::kDict:
      return WriteDict(value.dict());
    case Kind::kSequence:
      if (value.sequence()->type == SequenceType::kList || value.sequence()->type == SequenceType::kTuple) {
        return WriteList(value.sequence()->items);
      }
      break;
    default:
      break;
  }
  return Fail(ErrorKind::kInvalid, "tojson: a value of type '{}' cannot be written as JSON",
              value.TypeName());
}

}  // namespace

Result<Value> ParseJson(std::string_view text) {
  ValueBuilder builder;
  try {
    nlohmann::json::sax_parse(text.begin(), text.end(), &builder);
  } catch (const nlohmann::json::exception& error) {
    return Fail(ErrorKind::kInvalid, "the context of the chat template is not JSON: {}", error.what());
  }
  return builder.Take();
}

Result<std::string> DumpJson(const Value& value, const JsonStyle& style, Heap& heap) {
  JsonWriter writer(style, heap);
  LARDER_TRY(writer.Write(value));
  return writer.Take();
}

}  // namespace larder::jinja
