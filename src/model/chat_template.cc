#include "model/chat_template.h"

#include <ctime>
#include <optional>
#include <utility>

#include "model/jinja/interpreter.h"
#include "model/jinja/json.h"
#include "model/jinja/parser.h"

namespace larder {

struct ChatTemplate::Impl {
  jinja::Template parsed;
  std::optional<int64_t> unix_seconds;  // the clock's when not set
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::ChatTemplate(ChatTemplate&&) noexcept = default;
ChatTemplate& ChatTemplate::operator=(ChatTemplate&&) noexcept = default;
ChatTemplate::~ChatTemplate() = default;

Result<ChatTemplate> ChatTemplate::Parse(std::string_view source) {
  LARDER_ASSIGN(jinja::Template parsed, jinja::ParseTemplate(source));
  return ChatTemplate(std::make_unique<Impl>(Impl{std::move(parsed), std::nullopt}));
}

Result<std::string> ChatTemplate::Render(std::string_view context_json) const {
  LARDER_ASSIGN(const jinja::Value context, jinja::ParseJson(context_json));
  if (!context.Is(jinja::Kind::kDict)) {
    return Fail(ErrorKind::kInvalid, "the context of a chat template must be a JSON object");
  }
  const int64_t now = impl_->unix_seconds.value_or(static_cast<int64_t>(std::time(nullptr)));
  return jinja::Interpreter(impl_->parsed, context.dict(), now).Run();
}

void ChatTemplate::SetTime(int64_t unix_seconds) { impl_->unix_seconds = unix_seconds; }

}  // namespace larder
