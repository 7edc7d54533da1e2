// A sub-command of the program: its parameters and what it does. One file each, one line in commands.cc.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/params.h"
#include "base/result.h"

namespace larder {

class Command {
 public:
  virtual ~Command() = default;
  virtual void Declare(Params& params) = 0;
  // `argument`: what stands beside the options, "" where there is none.
  virtual Status Run(const std::string& argument) = 0;
};

struct CommandEntry {
  std::string_view name;
  std::string_view summary;   // one line
  std::string_view argument;  // as the usage line shows it: "MODEL", "prefill|decode", "[NAME]" if it may be
                              // left out; "" if it takes none
  std::string_view argument_help;
  std::unique_ptr<Command> (*create)();
  bool listed = true;            // false: for scripts of the tree
  std::string_view second = {};  // the parameter that a second argument may set: "out", written as OUT
};

std::span<const CommandEntry> Commands();

std::unique_ptr<Command> CreateServe();
std::unique_ptr<Command> CreateRun();
std::unique_ptr<Command> CreateInspect();
std::unique_ptr<Command> CreateBench();
std::unique_ptr<Command> CreateEval();
std::unique_ptr<Command> CreateMethods();
std::unique_ptr<Command> CreateQuantize();
std::unique_ptr<Command> CreateCalibrate();
std::unique_ptr<Command> CreateStore();
std::unique_ptr<Command> CreateTrace();
std::unique_ptr<Command> CreateDocs();

}  // namespace larder
