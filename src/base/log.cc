#include "base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>

namespace larder {
namespace {

spdlog::logger& Logger() {
  static spdlog::logger logger("larder", std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  return logger;
}

struct Sink {
  std::mutex mutex;
  std::function<void(LogLevel, std::string_view)> write;  // guarded by mutex
};

Sink& TheSink() {
  static Sink sink;
  return sink;
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void SetLogLevel(LogLevel level) { Logger().set_level(ToSpdlog(level)); }

void SetLogSink(std::function<void(LogLevel, std::string_view)> sink) {
  const std::lock_guard lock(TheSink().mutex);
  TheSink().write = std::move(sink);
}

void LogMessage(LogLevel level, std::string_view message) {
  {
    const std::lock_guard lock(TheSink().mutex);
    if (TheSink().write) return TheSink().write(level, message);
  }
  Logger().log(ToSpdlog(level), spdlog::string_view_t(message.data(), message.size()));
}

}  // namespace larder
