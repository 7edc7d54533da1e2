// From the arguments of the program to a command with its parameters set. Everything is generated from
// Params: options,
// --help, the configuration file and docs/command-line.md.
#pragma once

#include <memory>
#include <span>
#include <string>

#include "larder/command.h"

namespace larder {

struct ParsedCommand {
  const CommandEntry* entry = nullptr;
  std::unique_ptr<Command> command;  // parameters set
  std::string argument;
};

// What the program does instead of a command: text to show (help, version, a mistake) and its exit code.
struct ProgramExit {
  int code = 0;
  std::string text;
};

// arguments: without the program's name. The configuration file is read first, so the command line wins.
std::expected<ParsedCommand, ProgramExit> ParseCommandLine(std::span<const std::string> arguments,
                                                           std::span<const CommandEntry> commands);

// The reference of all commands, in Markdown.
std::string CommandLineReference(std::span<const CommandEntry> commands);

}  // namespace larder
