#include "larder/command_line.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <optional>
#include <utility>
#include <vector>

namespace larder {
namespace {

constexpr std::string_view kConfigHelp = "file of the same names, .json or .toml; the command line wins";

std::string_view TypeName(ParamSpec::Type type) {
  switch (type) {
    case ParamSpec::Type::kBool:
      return "";
    case ParamSpec::Type::kInt:
      return "INT";
    case ParamSpec::Type::kFloat:
      return "NUMBER";
    case ParamSpec::Type::kString:
      return "TEXT";
    case ParamSpec::Type::kSize:
      return "SIZE";
    case ParamSpec::Type::kChoice:
      return "NAME";
  }
  return "";
}

// One sub-command while the line is being read. The parameters point into the command.
struct Candidate {
  const CommandEntry* entry;
  std::unique_ptr<Command> command;
  Params params;
  CLI::App* app = nullptr;
  std::string argument, config;
  std::vector<std::pair<std::string, std::string>> given;

  explicit Candidate(const CommandEntry& e)
      : entry(&e), command(e.create()), params("larder " + std::string(e.name)) {
    command->Declare(params);
  }
};

void AddOption(Candidate& candidate, const ParamSpec& spec) {
  const std::string flag = "--" + spec.name;
  auto* given = &candidate.given;
  const std::string name = spec.name;
  const std::string help = spec.range.empty() ? spec.help : fmt::format("{} ({})", spec.help, spec.range);
  if (spec.type == ParamSpec::Type::kBool) {
    const std::function<void(int64_t)> set = [given, name](int64_t count) {
      given->emplace_back(name, count > 0 ? "true" : "false");
    };
    candidate.app->add_flag_function(flag, set, help);
    return;
  }
  const std::function<void(const std::string&)> set = [given, name,
                                                       implied = spec.implied](const std::string& text) {
    given->emplace_back(name, text.empty() ? implied : text);
  };
  CLI::Option* option = candidate.app->add_option_function<std::string>(flag, set, help)
                            ->type_name(std::string(TypeName(spec.type)))
                            ->default_str(spec.default_text);
  if (!spec.implied.empty()) option->expected(0, 1);
}

std::string UpperCase(std::string_view name) {
  std::string out(name);
  for (char& c : out) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return out;
}

// Without the brackets of one that may be left out.
std::string ArgumentName(const CommandEntry& entry) {
  std::string_view name = entry.argument;
  if (name.starts_with('[')) name = name.substr(1, name.size() - 2);
  return std::string(name);
}

void AddCommand(CLI::App& app, Candidate& candidate) {
  const CommandEntry& entry = *candidate.entry;
  candidate.app = app.add_subcommand(std::string(entry.name), std::string(entry.summary));
  if (!entry.listed) candidate.app->group("");
  if (!entry.argument.empty())
    candidate.app->add_option(ArgumentName(entry), candidate.argument, std::string(entry.argument_help))
        ->type_name("")
        ->required(!entry.argument.starts_with('['));
  if (!entry.second.empty()) {
    auto* given = &candidate.given;
    const std::string name(entry.second);
    const std::function<void(const std::string&)> set = [given, name](const std::string& text) {
      given->emplace_back(name, text);
    };
    candidate.app
        ->add_option_function<std::string>(UpperCase(entry.second), set,
                                           candidate.params.Find(entry.second)->help)
        ->type_name("");
  }
  candidate.app->add_option("--config", candidate.config, std::string(kConfigHelp))->type_name("FILE");
  for (const ParamSpec& spec : candidate.params.specs()) AddOption(candidate, spec);
}

std::string Known(const std::optional<std::string>& command, const Params* params,
                  std::span<const CommandEntry> commands) {
  std::string out;
  if (!command) {
    out = "known commands:";
    for (const CommandEntry& entry : commands)
      if (entry.listed) out += fmt::format(" {}", entry.name);
  } else {
    out = fmt::format("known options of larder {}: --help --config", *command);
    for (const ParamSpec& spec : params->specs()) out += fmt::format(" --{}", spec.name);
  }
  return out + '\n';
}

Status SetParameters(Candidate& candidate) {
  if (!candidate.config.empty()) LARDER_TRY(candidate.params.ParseConfigFile(candidate.config));
  for (const auto& [name, text] : candidate.given) LARDER_TRY(candidate.params.Set(name, text));
  return {};
}

std::string EscapeCell(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '|') out += '\\';
    out += c;
  }
  return out;
}

}  // namespace

std::expected<ParsedCommand, ProgramExit> ParseCommandLine(std::span<const std::string> arguments,
                                                           std::span<const CommandEntry> commands) {
  std::vector<std::unique_ptr<Candidate>> candidates;
  Candidate* chosen = nullptr;
  CLI::App app("Larder serves GGUF models on CPUs and keeps what they have computed.", "larder");
  try {
    app.require_subcommand(1);
    app.set_version_flag("--version", "larder " LARDER_VERSION);
    for (const CommandEntry& entry : commands) {
      candidates.push_back(std::make_unique<Candidate>(entry));
      AddCommand(app, *candidates.back());
    }
    const auto find = [&] {
      for (const auto& candidate : candidates)
        if (candidate->app->parsed()) chosen = candidate.get();
    };
    try {
      std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());  // as the library wants it
      app.parse(reversed);
      find();
    } catch (const CLI::ParseError& error) {
      find();
      std::ostringstream out, err;
      const int code = app.exit(error, out, err);
      if (code == 0) return std::unexpected(ProgramExit{0, out.str()});
      const std::optional<std::string> command =
          chosen ? std::optional<std::string>(chosen->entry->name) : std::nullopt;
      return std::unexpected(
          ProgramExit{2, fmt::format("larder: {}\n{}", error.what(),
                                     Known(command, chosen ? &chosen->params : nullptr, commands))});
    }
  } catch (const CLI::Error& error) {
    return std::unexpected(ProgramExit{2, fmt::format("larder: {}\n", error.what())});
  }
  if (const Status status = SetParameters(*chosen); !status)
    return std::unexpected(ProgramExit{2, fmt::format("{}\n", status.error().message)});
  return ParsedCommand{chosen->entry, std::move(chosen->command), std::move(chosen->argument)};
}

std::string CommandLineReference(std::span<const CommandEntry> commands) {
  std::string out =
      "# The command line\n\n"
      "<!-- Generated: `larder docs > docs/command-line.md`. A test compares it with the program. -->\n\n"
      "Every option may also stand in a configuration file, given with `--config FILE` (`.json` or `.toml`): "
      "flat keys,\n"
      "the same names without the dashes. What the command line says wins over the file. Unknown names are "
      "refused, with\n"
      "the known ones listed. A SIZE is a number of bytes, or one with K, M, G or T (binary multiples): "
      "`512M`, `1.5G`.\n"
      "A switch takes no value on the command line and `true` or `false` in a file.\n\n"
      "Exit codes: 0 all went well, 1 the command failed (the last line of standard error says why), 2 the "
      "command line\n"
      "or the configuration file is wrong.\n";
  for (const CommandEntry& entry : commands) {
    if (!entry.listed) continue;
    const Candidate candidate(entry);
    out += fmt::format("\n## larder {}\n\n`larder {}{}{}{}{} [options]`: {}.\n\n", entry.name, entry.name,
                       entry.argument.empty() ? "" : " ", entry.argument, entry.second.empty() ? "" : " ",
                       UpperCase(entry.second), entry.summary);
    out += "| option | type | default | range | meaning |\n| --- | --- | --- | --- | --- |\n";
    out += fmt::format("| `--config` | FILE | | | {} |\n", kConfigHelp);
    for (const ParamSpec& spec : candidate.params.specs()) {
      const bool is_switch = spec.type == ParamSpec::Type::kBool;
      out += fmt::format("| `--{}` | {} | {} | {} | {} |\n", spec.name,
                         is_switch ? "switch" : TypeName(spec.type), spec.default_text,
                         EscapeCell(spec.range), EscapeCell(spec.help));
    }
  }
  return out;
}

}  // namespace larder
