#include "serve/chat_request.h"

#include <nlohmann/json.hpp>

#include "serve/json_writer.h"

namespace larder {

using Json = nlohmann::ordered_json;

void DeclareChatPromptFields(Fields& fields, ChatPromptParams& params) {
  fields.AnyArray("messages", &params.messages, "the conversation: objects with role and content");
  fields.AnyArray("tools", &params.tools, "functions the model may call");
  fields.AnyObject("chat_template_kwargs", &params.chat_template_kwargs,
                   "further variables of the chat template");
  fields.Bool("add_generation_prompt", &params.add_generation_prompt,
              "end the prompt where the answer begins");
  fields.Bool("continue_final_message", &params.continue_final_message,
              "the answer continues the last message");
}

void DeclareChatFields(Fields& fields, ChatParams& params) {
  DeclareGenerationFields(fields, params.generation);
  DeclareChatPromptFields(fields, params.prompt);
  fields.Bool("logprobs", &params.logprobs, "report the probability of each token");
  fields.Int("top_logprobs", &params.top_logprobs, 0, 20, "report this many alternatives too");
  fields.Any("tool_choice", &params.tool_choice, "\"auto\" or \"none\"");
  fields.AnyObject("response_format", &params.response_format, "{\"type\": \"text\"}");
}

namespace {

ApiStatus CheckToolChoice(ChatParams& params) {
  if (params.tool_choice.empty()) return {};
  const Json choice = Json::parse(params.tool_choice);
  if (choice == "auto") return {};
  if (choice == "none") {
    params.prompt.tools.clear();
    return {};
  }
  if (choice == "required" || choice.is_object()) {
    return BadField(
        "tool_choice",
        "This server cannot force a tool call yet; use 'auto' and ask for the tool in the prompt.");
  }
  return BadField("tool_choice", "'tool_choice' must be 'auto' or 'none'.");
}

ApiStatus CheckResponseFormat(const ChatParams& params) {
  if (params.response_format.empty()) return {};
  const Json format = Json::parse(params.response_format);
  const auto type = format.find("type");
  if (type == format.end() || !type->is_string()) {
    return BadField("response_format.type", "'response_format' needs a 'type'; this server knows 'text'.");
  }
  if (*type == "text") return {};
  return BadField("response_format",
                  "This server cannot hold the model to the format '{}' yet; use 'text' and describe the "
                  "format in the prompt.",
                  type->get<std::string>().substr(0, 64));
}

// Text of a content: a string, a list of text parts, or null.
ApiResult<std::string> ContentText(const Json& content, const std::string& where) {
  if (content.is_null()) return std::string();
  if (content.is_string()) return content.get<std::string>();
  if (!content.is_array()) return BadField(where, "'{}' must be a string, a list of parts, or null.", where);
  std::string text;
  for (size_t i = 0; i < content.size(); ++i) {
    const Json& part = content[i];
    const std::string part_name = fmt::format("{}[{}]", where, i);
    if (part.is_string()) {
      text += (i == 0 ? "" : "\n") + part.get<std::string>();
      continue;
    }
    if (!part.is_object()) return BadField(part_name, "'{}' must be an object with a type.", part_name);
    const std::string type =
        part.contains("type") && part["type"].is_string() ? part["type"].get<std::string>() : "";
    const char* key = type == "refusal" ? "refusal" : "text";
    if (type != "text" && type != "input_text" && type != "output_text" && type != "refusal") {
      return BadField(part_name + ".type", "This model takes text parts only, not '{}'.", type.substr(0, 64));
    }
    if (!part.contains(key) || !part[key].is_string()) {
      return BadField(part_name + "." + key, "'{}.{}' must be a string.", part_name, key);
    }
    text += (i == 0 ? "" : "\n") + part[key].get<std::string>();
  }
  return text;
}

// Templates print a call's arguments as an object; clients send them as the text of one.
ApiStatus NormaliseToolCalls(Json& message, const std::string& where) {
  const auto calls = message.find("tool_calls");
  if (calls == message.end()) return {};
  if (calls->is_null()) {
    message.erase("tool_calls");
    return {};
  }
  const std::string name = where + ".tool_calls";
  if (!calls->is_array()) return BadField(name, "'{}' must be a list.", name);
  for (size_t i = 0; i < calls->size(); ++i) {
    Json& call = (*calls)[i];
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) {
      return BadField(name, "'{}[{}]' must be an object with a 'function' object.", name, i);
    }
    Json& function = call["function"];
    if (!function.contains("name") || !function["name"].is_string()) {
      return BadField(name, "'{}[{}].function.name' must be a string.", name, i);
    }
    if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
    const auto text = function["arguments"].get<std::string>();
    if (ApiStatus status = CheckJsonShape(text); !status) return status;
    Json arguments = Json::parse(text, nullptr, false);
    if (arguments.is_object()) function["arguments"] = std::move(arguments);
  }
  return {};
}

ApiStatus NormaliseMessage(Json& message, size_t index, bool knows_developer) {
  const std::string where = fmt::format("messages[{}]", index);
  if (!message.is_object()) return BadField(where, "'{}' must be an object with role and content.", where);
  const auto role = message.find("role");
  if (role == message.end() || !role->is_string()) {
    return BadField(where + ".role",
                    "'{}.role' must be a string: system, developer, user, assistant or tool.", where);
  }
  const auto name = role->get<std::string>();
  if (name != "system" && name != "developer" && name != "user" && name != "assistant" && name != "tool" &&
      name != "function") {
    return BadField(where + ".role",
                    "'{}.role' must be system, developer, user, assistant or tool, not '{}'.", where,
                    name.substr(0, 64));
  }
  if (name == "developer" && !knows_developer) *role = "system";
  const Json content = message.contains("content") ? message["content"] : Json();
  if (content.is_null() && name != "assistant") {
    return BadField(where + ".content", "'{}.content' must be a string or a list of parts.", where);
  }
  ApiResult<std::string> text = ContentText(content, where + ".content");
  if (!text) return std::unexpected(text.error());
  message["content"] = *std::move(text);
  message.erase("cache_control");  // about the message (chat_marks.h), not part of it
  return NormaliseToolCalls(message, where);
}

// A template that names the role has a place for it.
bool KnowsDeveloper(const std::string& chat_template) {
  return chat_template.find("developer") != std::string::npos;
}

ApiResult<Json> NormalisedMessages(const ServeContext& context, const ChatPromptParams& params) {
  if (params.messages.empty())
    return BadField("messages", "'messages' is missing; send the conversation as a list.");
  Json messages = Json::parse(params.messages);
  if (messages.empty()) return BadField("messages", "'messages' is empty; send at least one message.");
  const bool knows_developer = KnowsDeveloper(context.backend->chat_template());
  for (size_t i = 0; i < messages.size(); ++i) {
    if (ApiStatus status = NormaliseMessage(messages[i], i, knows_developer); !status) {
      return std::unexpected(status.error());
    }
  }
  return messages;
}

ApiResult<Json> TemplateTools(const ChatPromptParams& params) {
  if (params.tools.empty()) return Json();
  Json tools = Json::parse(params.tools);
  for (size_t i = 0; i < tools.size(); ++i) {
    const Json& tool = tools[i];
    const bool function = tool.is_object() && tool.contains("function") && tool["function"].is_object() &&
                          tool["function"].contains("name") && tool["function"]["name"].is_string();
    if (!function) {
      return BadField("tools",
                      "'tools[{}]' must be {{\"type\": \"function\", \"function\": {{\"name\": ...}}}}.", i);
    }
  }
  for (Json& tool : tools) {
    tool.erase("cache_control");
    tool["function"].erase("cache_control");
  }
  return tools.empty() ? Json() : tools;
}

// Cuts the rendered conversation after the text of its last message.
ApiResult<std::string> CutAfterFinalMessage(std::string rendered, const Json& messages) {
  std::string_view text = messages.back()["content"].get_ref<const std::string&>();
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first == std::string_view::npos) {
    return BadField("continue_final_message", "The last message is empty; there is nothing to continue.");
  }
  size_t found = rendered.rfind(text);
  if (found == std::string::npos) {  // many templates trim
    text = text.substr(first, text.find_last_not_of(" \t\r\n") + 1 - first);
    found = rendered.rfind(text);
  }
  if (found == std::string::npos) {
    return BadField("continue_final_message", "The chat template does not print the last message as it is.");
  }
  rendered.resize(found + text.size());
  return rendered;
}

std::string TokenText(const Tokenizer& tokenizer, int32_t token) {
  return token == kNoToken ? std::string() : ValidUtf8(tokenizer.TokenBytes(token, true));
}

}  // namespace

ApiResult<std::string> RenderConversation(const ServeContext& context, const ChatPromptParams& params) {
  ApiResult<Json> messages = NormalisedMessages(context, params);
  if (!messages) return std::unexpected(messages.error());
  ApiResult<Json> tools = TemplateTools(params);
  if (!tools) return std::unexpected(tools.error());
  const bool continues = params.continue_final_message;
  if (continues && messages->back()["role"] != "assistant") {
    return BadField("continue_final_message",
                    "'continue_final_message' needs a last message of the assistant.");
  }
  Json variables =
      params.chat_template_kwargs.empty() ? Json::object() : Json::parse(params.chat_template_kwargs);
  variables["messages"] = *messages;
  variables["tools"] = *std::move(tools);
  variables["add_generation_prompt"] = params.add_generation_prompt && !continues;
  const Tokenizer& tokenizer = context.backend->tokenizer();
  variables["bos_token"] = TokenText(tokenizer, tokenizer.bos());
  variables["eos_token"] = TokenText(tokenizer, tokenizer.eos());
  Result<std::string> rendered = context.backend->RenderChat(variables.dump());
  if (!rendered) {
    ApiError error = ToApiError(rendered.error(), false, 0);
    error.param = "messages";
    return std::unexpected(std::move(error));
  }
  if (continues) return CutAfterFinalMessage(*std::move(rendered), *messages);
  return *std::move(rendered);
}

ApiStatus CheckChat(ChatParams& params) {
  if (params.top_logprobs > 0 && !params.logprobs) {
    return BadField("top_logprobs", "'top_logprobs' needs 'logprobs' to be true.");
  }
  const auto max_tokens = params.generation.max_completion_tokens ? params.generation.max_completion_tokens
                                                                  : params.generation.max_tokens;
  if (max_tokens == 0) return BadField("max_tokens", "'max_tokens' must be at least 1 for a chat.");
  if (ApiStatus status = CheckToolChoice(params); !status) return status;
  return CheckResponseFormat(params);
}

ApiResult<std::vector<int32_t>> ChatPrompt(const ServeContext& context, const ChatPromptParams& params) {
  ApiResult<std::string> text = RenderConversation(context, params);
  if (!text) return std::unexpected(text.error());
  if (ApiStatus status = CheckTextLength(context, text->size()); !status)
    return std::unexpected(status.error());
  const Tokenizer& tokenizer = context.backend->tokenizer();
  std::vector<int32_t> tokens = tokenizer.Encode(*text, {.add_special = false, .parse_special = true});
  // Most templates print BOS themselves.
  if (tokenizer.add_bos() && tokenizer.bos() != kNoToken &&
      (tokens.empty() || tokens.front() != tokenizer.bos())) {
    tokens.insert(tokens.begin(), tokenizer.bos());
  }
  if (tokens.empty())
    return BadField("messages", "The chat template makes an empty prompt of these messages.");
  return tokens;
}

}  // namespace larder
