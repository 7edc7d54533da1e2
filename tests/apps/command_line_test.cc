#include "larder/command_line.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

namespace larder {
namespace {

class Sample final : public Command {
 public:
  void Declare(Params& params) override {
    params.Int("rows", &rows, 1, 100, "how many");
    params.Size("limit", &limit, 0, 1ull << 40, "how much");
    params.Choice("kind", &kind, {"a", "b"}, "which");
    params.Bool("loud", &loud, "a switch");
    params.String("file", &file, "a path");
  }
  Status Run(const std::string&) override { return {}; }
  int64_t rows = 5;
  uint64_t limit = 1024;
  std::string kind = "a", file;
  bool loud = false;
};

constexpr CommandEntry kCommands[] = {
    {"one", "does one thing", "", "", [] { return std::unique_ptr<Command>(std::make_unique<Sample>()); }},
    {"two", "does two things", "WHAT", "what to do",
     [] { return std::unique_ptr<Command>(std::make_unique<Sample>()); }},
    {"hidden", "for scripts", "", "", [] { return std::unique_ptr<Command>(std::make_unique<Sample>()); },
     false},
};

std::expected<ParsedCommand, ProgramExit> Parse(std::vector<std::string> arguments) {
  return ParseCommandLine(arguments, kCommands);
}

const Sample& SampleOf(const ParsedCommand& parsed) { return static_cast<const Sample&>(*parsed.command); }

class ConfigFile {
 public:
  ConfigFile(const std::string& ending, const std::string& content)
      : path(testing::TempDir() + "larder-config-" + std::to_string(getpid()) + ending) {
    std::ofstream(path) << content;
  }
  ~ConfigFile() { unlink(path.c_str()); }
  const std::string path;
};

TEST(CommandLine, SetsParameters) {
  const auto parsed = Parse({"one", "--rows", "7", "--limit=2K", "--loud", "--kind", "b", "--file", "x y"});
  ASSERT_TRUE(parsed) << parsed.error().text;
  EXPECT_EQ(parsed->entry->name, "one");
  EXPECT_EQ(SampleOf(*parsed).rows, 7);
  EXPECT_EQ(SampleOf(*parsed).limit, 2048u);
  EXPECT_EQ(SampleOf(*parsed).kind, "b");
  EXPECT_EQ(SampleOf(*parsed).file, "x y");
  EXPECT_TRUE(SampleOf(*parsed).loud);
}

TEST(CommandLine, DefaultsStay) {
  const auto parsed = Parse({"one"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(SampleOf(*parsed).rows, 5);
  EXPECT_FALSE(SampleOf(*parsed).loud);
}

TEST(CommandLine, ASwitchDoesNotSwallowTheArgument) {
  const auto parsed = Parse({"two", "--loud", "this"});
  ASSERT_TRUE(parsed) << parsed.error().text;
  EXPECT_EQ(parsed->argument, "this");
  const auto off = Parse({"two", "this", "--loud=false"});
  ASSERT_TRUE(off);
  EXPECT_FALSE(SampleOf(*off).loud);
}

TEST(CommandLine, MistakesAreNamedAndEndWithTwo) {
  const auto message = [](std::vector<std::string> arguments) {
    const auto parsed = Parse(std::move(arguments));
    if (parsed) return std::string("accepted");
    EXPECT_EQ(parsed.error().code, 2);
    return parsed.error().text;
  };
  EXPECT_NE(message({"one", "--row", "3"}).find("--row"), std::string::npos);
  EXPECT_NE(
      message({"one", "--row", "3"}).find("known options of larder one: --help --config --rows --limit"),
      std::string::npos);
  EXPECT_NE(message({"three"}).find("known commands: one two\n"), std::string::npos);
  EXPECT_NE(message({}).find("known commands: one two\n"), std::string::npos);
  EXPECT_EQ(message({"one", "--rows", "0"}), "larder one: rows: '0' is outside 1..100\n");
  EXPECT_EQ(message({"one", "--kind", "c"}), "larder one: kind: 'c' is not one of a, b\n");
  EXPECT_NE(message({"one", "--rows"}), "accepted");
  EXPECT_NE(message({"one", "--rows", "1", "--rows", "2"}), "accepted");
  EXPECT_NE(message({"one", "extra"}), "accepted");
  EXPECT_NE(message({"two"}), "accepted") << "the argument is required";
  EXPECT_NE(message({"two", "a", "b"}), "accepted");
}

TEST(CommandLine, HelpShowsTypeDefaultRangeAndHelp) {
  const auto parsed = Parse({"one", "--help"});
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, 0);
  for (const char* part :
       {"--rows", "INT=5", "how many", "1..100", "--kind", "a|b", "SIZE=1 KiB", "--config"})
    EXPECT_NE(parsed.error().text.find(part), std::string::npos) << part;
  const auto all = Parse({"--help"});
  ASSERT_FALSE(all);
  EXPECT_NE(all.error().text.find("does two things"), std::string::npos);
  EXPECT_EQ(all.error().text.find("for scripts"), std::string::npos);
}

TEST(CommandLine, TheLineWinsOverTheFile) {
  for (const auto& [ending, content] : {std::pair(".json", R"({"rows": 9, "loud": true, "kind": "b"})"),
                                        std::pair(".toml", "rows = 9\nloud = true\nkind = \"b\"\n")}) {
    const ConfigFile config(ending, content);
    const auto parsed = Parse({"one", "--rows", "3", "--config", config.path});
    ASSERT_TRUE(parsed) << parsed.error().text;
    EXPECT_EQ(SampleOf(*parsed).rows, 3);
    EXPECT_TRUE(SampleOf(*parsed).loud);
    EXPECT_EQ(SampleOf(*parsed).kind, "b");
  }
}

TEST(CommandLine, UnknownKeysInAFileAreRefusedWithTheKnown) {
  const ConfigFile config(".json", R"({"row": 9})");
  const auto parsed = Parse({"one", "--config", config.path});
  ASSERT_FALSE(parsed);
  EXPECT_EQ(parsed.error().code, 2);
  EXPECT_NE(
      parsed.error().text.find("larder one has no parameter 'row'; known: rows, limit, kind, loud, file"),
      std::string::npos)
      << parsed.error().text;
}

TEST(CommandLine, EveryRealCommandCanBeDescribed) {
  for (const CommandEntry& entry : Commands()) {
    const auto parsed =
        ParseCommandLine(std::vector<std::string>{std::string(entry.name), "--help"}, Commands());
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().code, 0) << entry.name;
  }
}

TEST(CommandLine, TheNamesOthersRelyOnExist) {
  const auto parsed = ParseCommandLine(
      std::vector<std::string>{
          "serve",       "--model",    "m",  "--host",          "127.0.0.1", "--port",
          "1",           "--threads",  "2",  "--context",       "4096",      "--max-running",
          "4",           "--kv-limit", "1G", "--kv-type",       "f32",       "--math",
          "f32",         "--api-keys", "k",  "--chat-template", "t",         "--no-auth",
          "--log-level", "warn"},
      Commands());
  EXPECT_TRUE(parsed) << parsed.error().text;
}

TEST(CommandLine, TheDocumentationIsUpToDate) {
  std::ifstream in(LARDER_DOCS "/command-line.md");
  const std::string written{std::istreambuf_iterator<char>(in), {}};
  EXPECT_TRUE(written == CommandLineReference(Commands())) << "run: larder docs > docs/command-line.md";
}

}  // namespace
}  // namespace larder
