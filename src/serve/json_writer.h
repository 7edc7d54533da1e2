// Writes JSON text straight into a string. What comes out is valid UTF-8 whatever goes in, and U+0085, U+2028
// and U+2029 are escaped, because some clients split server-sent events at them.
#pragma once

#include <concepts>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace larder {

class JsonWriter {
 public:
  JsonWriter& BeginObject() { return Open('{'); }
  JsonWriter& EndObject() { return Close('}'); }
  JsonWriter& BeginArray() { return Open('['); }
  JsonWriter& EndArray() { return Close(']'); }
  JsonWriter& Key(std::string_view name);

  JsonWriter& String(std::string_view text);
  JsonWriter& Integer(int64_t value);
  JsonWriter& Unsigned(uint64_t value);
  JsonWriter& Float(float value);    // the shortest text that reads back as the same float
  JsonWriter& Double(double value);  // not-a-number and infinities become null
  JsonWriter& Bool(bool value);
  JsonWriter& Null();
  JsonWriter& Raw(std::string_view json);  // a complete value, written before

  // key and value in one call
  JsonWriter& Field(std::string_view key, std::string_view text) { return Key(key).String(text); }
  JsonWriter& Field(std::string_view key, const char* text) { return Key(key).String(text); }
  JsonWriter& Field(std::string_view key, bool value) { return Key(key).Bool(value); }
  JsonWriter& Field(std::string_view key, double value) { return Key(key).Double(value); }
  template <std::signed_integral T>
  JsonWriter& Field(std::string_view key, T value) {
    return Key(key).Integer(value);
  }
  template <std::unsigned_integral T>
  JsonWriter& Field(std::string_view key, T value) {
    return Key(key).Unsigned(value);
  }
  JsonWriter& Field(std::string_view key, std::span<const int32_t> values);

  const std::string& text() const { return text_; }
  std::string Take() { return std::move(text_); }

 private:
  JsonWriter& Open(char bracket);
  JsonWriter& Close(char bracket);
  void Separate();

  std::string text_;
  bool needs_comma_ = false;
};

// `text` with every byte that is not part of a well-formed UTF-8 sequence replaced by U+FFFD.
std::string ValidUtf8(std::string_view text);
bool IsValidUtf8(std::string_view text);
// Length in code points; what is not well formed counts one each byte.
int64_t CountCodePoints(std::string_view text);

}  // namespace larder
