// larder: one program, its commands in commands.cc.
#include <fmt/core.h>

#include <csignal>
#include <cstdio>
#include <string>
#include <vector>

#include "larder/command_line.h"

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a reader that went away is a failed write, not a death
  const std::vector<std::string> arguments(argv + (argc > 0 ? 1 : 0), argv + argc);
  auto parsed = larder::ParseCommandLine(arguments, larder::Commands());
  if (!parsed) {
    std::fputs(parsed.error().text.c_str(), parsed.error().code == 0 ? stdout : stderr);
    return parsed.error().code;
  }
  if (const larder::Status status = parsed->command->Run(parsed->argument); !status) {
    fmt::print(stderr, "larder {}: {}\n", parsed->entry->name, status.error().message);
    return 1;
  }
  return 0;
}
