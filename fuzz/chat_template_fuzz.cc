// Any template over any context ends in a text or an error: no crash, no leak, no time without end. Input:
// the template, then optionally a zero byte and the context as JSON.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "model/chat_template.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kContext =
      R"({"messages": [{"role": "user", "content": "Hi é"}, {"role": "assistant", "content": null, "tool_calls": []}],)"
      R"( "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": 1.5, "y": [true, -3]}}}],)"
      R"( "bos_token": "<s>", "add_generation_prompt": true, "n": 7, "s": " a B\n"})";
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t zero = input.find('\0');
  auto parsed = larder::ChatTemplate::Parse(input.substr(0, zero));
  if (!parsed) return 0;
  parsed->SetTime(0);
  static_cast<void>(parsed->Render(zero == std::string_view::npos ? kContext : input.substr(zero + 1)));
  return 0;
}
