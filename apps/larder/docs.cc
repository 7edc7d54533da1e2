// larder docs: docs/command-line.md on standard output.
#include <cstdio>

#include "larder/command.h"
#include "larder/command_line.h"

namespace larder {
namespace {

class Docs final : public Command {
 public:
  void Declare(Params&) override {}
  Status Run(const std::string&) override {
    std::fputs(CommandLineReference(Commands()).c_str(), stdout);
    return {};
  }
};

}  // namespace

std::unique_ptr<Command> CreateDocs() { return std::make_unique<Docs>(); }

}  // namespace larder
