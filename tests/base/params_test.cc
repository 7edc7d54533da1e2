#include "base/params.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <limits>

namespace larder {
namespace {

// One of each kind, as a command or a method would declare them.
struct Sample {
  bool greedy = false;
  int64_t window = 32;
  double budget = 0.25;
  std::string text = "none";
  uint64_t limit = 1ull << 30;
  std::string type = "f16";
  Params params{"sample"};

  Sample() {
    params.Bool("greedy", &greedy, "a switch");
    params.Int("window", &window, 1, 4096, "rows that vote");
    params.Float("budget", &budget, 0.0, 1.0, "share to keep");
    params.String("text", &text, "any text");
    params.Size("limit", &limit, 1024, 1ull << 40, "bytes");
    params.Choice("type", &type, {"f16", "f32"}, "element type");
  }
  std::string ErrorOf(Status status) { return status ? "" : status.error().message; }
};

class TemporaryFile {
 public:
  TemporaryFile(const std::string& ending, const std::string& content)
      : path_(testing::TempDir() + "larder-params-" + std::to_string(getpid()) + ending) {
    std::ofstream(path_) << content;
  }
  ~TemporaryFile() { unlink(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Params, DescribesWhatWasDeclared) {
  Sample s;
  ASSERT_EQ(s.params.specs().size(), 6u);
  const ParamSpec* window = s.params.Find("window");
  ASSERT_NE(window, nullptr);
  EXPECT_EQ(window->default_text, "32");
  EXPECT_EQ(window->range, "1..4096");
  EXPECT_EQ(s.params.Find("type")->range, "f16|f32");
  EXPECT_EQ(s.params.Find("limit")->default_text, "1 GiB");
  EXPECT_EQ(s.params.Find("limit")->range, "1 KiB..1 TiB");
  EXPECT_EQ(s.params.Find("budget")->default_text, "0.25");
  EXPECT_EQ(s.params.Find("greedy")->default_text, "false");
  EXPECT_EQ(s.params.Find("absent"), nullptr);
  EXPECT_FALSE(window->given);
}

TEST(Params, OpenSidesOfARangeAreNotShown) {
  int64_t any = 0, positive = 1;
  Params params("p");
  params.Int("any", &any, std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max(), "");
  params.Int("positive", &positive, 1, std::numeric_limits<int64_t>::max(), "");
  EXPECT_EQ(params.Find("any")->range, "");
  EXPECT_EQ(params.Find("positive")->range, "1..");
}

TEST(Params, ListSetsEveryKind) {
  Sample s;
  ASSERT_TRUE(s.params.ParseList("greedy=true, window=7,budget=1e-1,text=a=b,limit=1.5M,type=f32"));
  EXPECT_TRUE(s.greedy);
  EXPECT_EQ(s.window, 7);
  EXPECT_EQ(s.budget, 0.1);
  EXPECT_EQ(s.text, "a=b");
  EXPECT_EQ(s.limit, 3u << 19);
  EXPECT_EQ(s.type, "f32");
  EXPECT_TRUE(s.params.Find("window")->given);
  EXPECT_TRUE(s.params.ParseList(""));
  EXPECT_TRUE(s.params.ParseList(" "));
}

TEST(Params, UnknownNamesListTheKnown) {
  Sample s;
  const std::string message = s.ErrorOf(s.params.ParseList("windw=3"));
  EXPECT_EQ(message, "sample has no parameter 'windw'; known: greedy, window, budget, text, limit, type");
  EXPECT_NE(s.ErrorOf(s.params.ParseJsonObject(R"({"Window": 3})")).find("known: greedy"), std::string::npos);
}

TEST(Params, RefusesWhatDoesNotFitAndKeepsTheValue) {
  Sample s;
  for (const char* bad : {"window=0",   "window=4097", "window=3x",        "window=",
                          "window= ",   "window=1.0",  "window=+1",        "window=99999999999999999999",
                          "budget=nan", "budget=inf",  "budget=1.01",      "budget=-0.1",
                          "budget=",    "greedy=1",    "greedy=True",      "type=f64",
                          "type=",      "limit=12",    "limit=2T",         "limit=-5M",
                          "window",     "=3",          "window=1,window=2"}) {
    EXPECT_FALSE(s.params.ParseList(bad)) << bad;
  }
  EXPECT_EQ(s.budget, 0.25);
  EXPECT_EQ(s.type, "f16");
  EXPECT_EQ(s.limit, 1ull << 30);
  EXPECT_EQ(s.ErrorOf(s.params.Set("window", "0")), "sample: window: '0' is outside 1..4096");
}

TEST(Params, JsonTypesMustFit) {
  Sample s;
  ASSERT_TRUE(s.params.ParseJsonObject(
      R"({"greedy": true, "window": 5, "budget": 1, "text": "ü\n", "limit": 4096, "type": "f32"})"));
  EXPECT_TRUE(s.greedy);
  EXPECT_EQ(s.window, 5);
  EXPECT_EQ(s.budget, 1.0);
  EXPECT_EQ(s.text, "ü\n");
  EXPECT_EQ(s.limit, 4096u);
  ASSERT_TRUE(s.params.ParseJsonObject(R"({"limit": "2K"})"));
  EXPECT_EQ(s.limit, 2048u);
  for (const char* bad :
       {R"({"greedy": "true"})", R"({"greedy": 1})", R"({"window": "5"})", R"({"window": 5.0})",
        R"({"window": null})", R"({"window": [1]})", R"({"window": {"x": 1}})", R"({"text": 3})",
        R"({"limit": 1.5})", R"({"window": 1)", R"([1])", R"(3)", "", R"({"window": 1, "window": 2})",
        R"({"window": 18446744073709551615})"}) {
    EXPECT_FALSE(s.params.ParseJsonObject(bad)) << bad;
  }
  EXPECT_EQ(s.ErrorOf(s.params.ParseJsonObject(R"({"window": null})")),
            "sample: window takes a whole number, not null");
}

TEST(Params, TomlAndJsonFilesMeanTheSame) {
  const TemporaryFile toml(
      ".toml", "# server\nwindow = 9\nbudget = 0.5\ntype = \"f32\"\nlimit = \"2K\"\ngreedy = true\n");
  const TemporaryFile json(".json",
                           R"({"window": 9, "budget": 0.5, "type": "f32", "limit": "2K", "greedy": true})");
  for (const TemporaryFile* file : {&toml, &json}) {
    Sample s;
    const Status status = s.params.ParseConfigFile(file->path());
    ASSERT_TRUE(status) << status.error().message;
    EXPECT_EQ(s.window, 9);
    EXPECT_EQ(s.budget, 0.5);
    EXPECT_EQ(s.type, "f32");
    EXPECT_EQ(s.limit, 2048u);
    EXPECT_TRUE(s.greedy);
  }
}

TEST(Params, TomlIsFlat) {
  for (const char* bad :
       {"[sample]\nwindow = 3\n", "window = [3]\n", "window.size = 3\n", "text = 1979-05-27\n",
        "window = nan\n", "window = \n", "window = 3\nwindow = 4\n", "text = \"\xff\"\n"}) {
    const TemporaryFile file(".toml", bad);
    Sample s;
    const Status status = s.params.ParseConfigFile(file.path());
    EXPECT_FALSE(status) << bad;
    EXPECT_NE(s.ErrorOf(status).find(file.path()), std::string::npos) << "the file is named";
  }
  const TemporaryFile nested(".toml", "window = 3\n[serve]\nport = 1\n");
  Sample s;
  EXPECT_NE(s.ErrorOf(s.params.ParseConfigFile(nested.path())).find("'serve' is a table"), std::string::npos);
}

TEST(Params, ConfigFilesNeedAKnownEndingAndMustExist) {
  Sample s;
  const TemporaryFile yaml(".yaml", "window: 3\n");
  EXPECT_NE(s.ErrorOf(s.params.ParseConfigFile(yaml.path())).find(".json or .toml"), std::string::npos);
  const Status absent = s.params.ParseConfigFile("/nonexistent/file.json");
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().kind, ErrorKind::kNotFound);
}

TEST(Size, ParsesBinaryMultiples) {
  const std::pair<const char*, uint64_t> good[] = {
      {"0", 0},           {"512", 512},
      {"512B", 512},      {"64K", 64 << 10},
      {"64k", 64 << 10},  {"64KiB", 64 << 10},
      {"64KB", 64 << 10}, {"1.5G", 3ull << 29},
      {"2T", 2ull << 40}, {"1.4 MiB", 1468006},
      {"0.5K", 512},      {"18446744073709551615", std::numeric_limits<uint64_t>::max()}};
  for (const auto& [text, bytes] : good) {
    const auto parsed = ParseSize(text);
    ASSERT_TRUE(parsed) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
  for (const char* bad : {"", "K", "-1", "+1", "1e3", "1.2.3", "1 2", "12Q", "12iB", "1KK", "K1", "1.5.G",
                          ".", "1BB", "18446744073709551616", "16777216T", "99999999999999999999G"}) {
    EXPECT_FALSE(ParseSize(bad)) << bad;
  }
}

TEST(Size, FormatsExactlyWhereItCan) {
  EXPECT_EQ(FormatSize(0), "0 B");
  EXPECT_EQ(FormatSize(1023), "1023 B");
  EXPECT_EQ(FormatSize(1024), "1 KiB");
  EXPECT_EQ(FormatSize(1468006), "1.4 MiB");
  EXPECT_EQ(FormatSize(3ull << 29), "1.5 GiB");
  EXPECT_EQ(FormatSize(1ull << 60), "1 EiB");
  for (uint64_t bytes : {1ull << 10, 5ull << 20, 7ull << 30})
    EXPECT_EQ(ParseSize(FormatSize(bytes)).value(), bytes);
}

}  // namespace
}  // namespace larder
