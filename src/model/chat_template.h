// Chat templates: the Jinja subset that published templates use, interpreted.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

namespace larder {

class ChatTemplate {
 public:
  // kUnsupported names the construct and the line; kInvalid the syntax error. What a template may use is
  // bounded (jinja/limits.h); kExhausted names the limit, here and in Render.
  static Result<ChatTemplate> Parse(std::string_view source);
  ChatTemplate(ChatTemplate&&) noexcept;
  ChatTemplate& operator=(ChatTemplate&&) noexcept;
  ~ChatTemplate();

  // context_json: a JSON object with messages, tools (or null), add_generation_prompt, bos_token, eos_token
  // and whatever else the caller passes through. Key order of objects is kept. kInvalid carries
  // raise_exception's message.
  Result<std::string> Render(std::string_view context_json) const;

  // For strftime_now: seconds since 1970; tests fix it.
  void SetTime(int64_t unix_seconds);

 private:
  struct Impl;
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
