// Published chat templates against Python's Jinja. The templates are not part of this tree: scripts/test_data
// unpacks them to LARDER_TEST_DATA_DIR/templates. What Python made of them is in
// tests/data/chat_templates/published.json, written by scripts/goldens/chat_templates.py.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "model/chat_template.h"

namespace larder {
namespace {

constexpr int64_t kNow = 1767323045;  // the NOW of the script

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

nlohmann::ordered_json ReadData(const std::string& name) {
  return nlohmann::ordered_json::parse(ReadText(LARDER_TEST_DATA "/chat_templates/" + name));
}

std::string DigestOf(const Result<std::string>& output) {
  return output ? Sha256(std::as_bytes(std::span(*output))).ShortHex() : "error";
}

std::vector<std::string> TemplateNames() {
  std::vector<std::string> names;
  const auto published = ReadData("published.json");
  for (const auto& [name, digests] : published.items()) names.push_back(name);
  return names;
}

class PublishedTemplate : public testing::TestWithParam<std::string> {};

TEST_P(PublishedTemplate, GivesWhatPythonGives) {
  const char* folder = std::getenv("LARDER_TEST_DATA_DIR");
  if (folder == nullptr)
    GTEST_SKIP() << "LARDER_TEST_DATA_DIR is not set: run scripts/test, or scripts/test_data";
  setenv("TZ", "UTC", 1);
  const std::string source = ReadText(std::string(folder) + "/templates/" + GetParam() + ".jinja");
  ASSERT_FALSE(source.empty()) << "no template " << GetParam() << " in " << folder << "/templates";
  auto parsed = ChatTemplate::Parse(source);
  if (parsed) parsed->SetTime(kNow);
  const auto published = ReadData("published.json");
  const auto conversations = ReadData("conversations.json");
  for (const auto& [name, digest] : published[GetParam()].items()) {
    const auto output = parsed ? parsed->Render(conversations[name].dump()) : std::unexpected(parsed.error());
    EXPECT_EQ(DigestOf(output), digest.get<std::string>())
        << "conversation " << name << ": " << (output ? *output : output.error().message);
  }
}

INSTANTIATE_TEST_SUITE_P(All, PublishedTemplate, testing::ValuesIn(TemplateNames()), [](const auto& info) {
  std::string name = info.param;
  for (char& c : name) {
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  }
  return name;
});

}  // namespace
}  // namespace larder
