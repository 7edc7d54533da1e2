// Errors are values. What a request, a file or a peer can cause is a Result; what only a bug can cause is
// LARDER_CHECK.
#pragma once

#include <fmt/core.h>

#include <expected>
#include <string>
#include <utility>

namespace larder {

enum class ErrorKind {
  kInvalid,      // the caller's input is wrong; the message says what would be right
  kNotFound,     // no such file, model, key
  kUnsupported,  // well formed, but outside what Larder can do
  kCorrupt,      // stored data contradicts itself
  kIo,           // the operating system said no
  kExhausted,    // a stated limit (bytes, queue, context) is reached
  kCancelled,    // the caller went away
  kUnavailable,  // try again later
  kSlow,         // the deadline came first
  kConflict,     // there is something else under this name
};

struct Error {
  ErrorKind kind;
  std::string message;  // one sentence, with a remedy where there is one
};

template <class T>
using Result = std::expected<T, Error>;
using Status = std::expected<void, Error>;

template <class... Args>
[[nodiscard]] std::unexpected<Error> Fail(ErrorKind kind, fmt::format_string<Args...> format,
                                          Args&&... args) {
  return std::unexpected<Error>(Error{kind, fmt::format(format, std::forward<Args>(args)...)});
}

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace larder

// Aborts with file, line and condition. Never reachable by input.
#define LARDER_CHECK(condition)                              \
  do {                                                       \
    if (!(condition)) [[unlikely]]                           \
      ::larder::CheckFailed(__FILE__, __LINE__, #condition); \
  } while (false)

#define LARDER_CONCAT_(a, b) a##b
#define LARDER_CONCAT(a, b) LARDER_CONCAT_(a, b)

// Returns the error of `expression` to the caller, if it has one.
#define LARDER_TRY(expression)                                                   \
  do {                                                                           \
    if (auto larder_status = (expression); !larder_status) [[unlikely]]          \
      return std::unexpected<::larder::Error>(std::move(larder_status).error()); \
  } while (false)

// LARDER_ASSIGN(auto file, OpenFile(path)): declares or assigns the value, or returns the error.
#define LARDER_ASSIGN(target, expression) \
  LARDER_ASSIGN_(LARDER_CONCAT(larder_result_, __LINE__), target, expression)
#define LARDER_ASSIGN_(result, target, expression)                      \
  auto result = (expression);                                           \
  if (!result) [[unlikely]]                                             \
    return std::unexpected<::larder::Error>(std::move(result).error()); \
  target = *std::move(result)
