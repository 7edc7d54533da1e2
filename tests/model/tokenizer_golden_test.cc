// Token ids against independent implementations, on the real vocabularies. Needs files that are not in the
// tree: scripts/test sets where they are (LARDER_SMOLLM2, LARDER_GEMMA3, LARDER_TEST_DATA_DIR, see
// scripts/test_data).
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/file.h"
#include "base/hash.h"
#include "model/gguf.h"
#include "model/tokenizer.h"

namespace larder {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

struct Loaded {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
};

Loaded LoadModel(const std::string& path) {
  Loaded loaded;
  auto file = GgufFile::Open(path);
  EXPECT_TRUE(file.has_value()) << path << ": " << file.error().message;
  if (!file) return loaded;
  loaded.file = std::move(*file);
  auto tokenizer = Tokenizer::Load(*loaded.file);
  EXPECT_TRUE(tokenizer.has_value()) << path << ": " << tokenizer.error().message;
  if (tokenizer) loaded.tokenizer = std::move(*tokenizer);
  return loaded;
}

// Where a vocabulary of goldens.json is; empty if the environment does not say.
std::string PathOf(const std::string& name) {
  if (name == "smollm2") return Environment("LARDER_SMOLLM2");
  if (name == "gemma3") return Environment("LARDER_GEMMA3");
  const std::string folder = Environment("LARDER_TEST_DATA_DIR");
  return folder.empty() ? "" : folder + "/vocabularies/ggml-vocab-" + name + ".gguf";
}

std::vector<std::string> SplitAt(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t begin = 0;
  for (size_t at; (at = text.find(separator, begin)) != text.npos; begin = at + separator.size()) {
    parts.push_back(text.substr(begin, at - begin));
  }
  parts.push_back(text.substr(begin));
  return parts;
}

// Strings made by rule from corpus.json; scripts/goldens/tokenizer.py makes the same ones.
class Strings {
 public:
  Strings() {
    const auto text = ReadFile(LARDER_TEST_DATA "/tokenizer/corpus.json");
    EXPECT_TRUE(text.has_value());
    corpus_ = nlohmann::json::parse(*text);
  }
  std::string Make(uint64_t index) {
    state_ = corpus_["seed"].get<uint64_t>() + index * 0x9E3779B97F4A7C15u;
    const auto& lists = corpus_["lists"];
    const uint64_t kinds = lists.size() + 2;  // one list, the code points, or a mixture of all
    const uint64_t kind = Next() % kinds;
    const uint64_t pieces = 1 + Next() % corpus_["longest"].get<uint64_t>();
    std::string out;
    for (uint64_t i = 0; i < pieces; ++i) {
      const uint64_t from = kind == kinds - 1 ? Next() % (kinds - 1) : kind;
      if (from == lists.size()) {
        const auto& ranges = corpus_["code_points"];
        const auto& range = ranges[Next() % ranges.size()];
        const uint64_t low = range[0], high = range[1];
        AppendUtf8(static_cast<uint32_t>(low + Next() % (high - low + 1)), &out);
      } else {
        out += lists[from][Next() % lists[from].size()].get<std::string>();
      }
    }
    return out;
  }

 private:
  uint64_t Next() {  // splitmix64
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  static void AppendUtf8(uint32_t c, std::string* out) {
    const auto push = [&](uint32_t byte) { out->push_back(static_cast<char>(byte)); };
    if (c < 0x80) return push(c);
    if (c < 0x800) {
      push(0xC0 | c >> 6);
    } else if (c < 0x10000) {
      push(0xE0 | c >> 12);
      push(0x80 | (c >> 6 & 0x3F));
    } else {
      push(0xF0 | c >> 18);
      push(0x80 | (c >> 12 & 0x3F));
      push(0x80 | (c >> 6 & 0x3F));
    }
    push(0x80 | (c & 0x3F));
  }
  nlohmann::json corpus_;
  uint64_t state_ = 0;
};

// Gemma's tokens for runs of spaces match U+2581 in the original and spaces in GGUF, so neither sees a
// U+2581.
std::string TextFor(const std::string& name, Strings* strings, uint64_t index) {
  std::string text = strings->Make(index);
  if (name != "gemma3") return text;
  for (size_t at; (at = text.find("\u2581")) != text.npos;) text.erase(at, 3);
  return text;
}

// The digest of one chunk of strings: for each, the number of ids and the ids, 32 bits each, little endian.
std::string DigestOf(const std::string& name, const Tokenizer& tokenizer, Strings* strings, uint64_t first,
                     uint64_t count) {
  std::vector<int32_t> all;
  for (uint64_t i = first; i < first + count; ++i) {
    const auto ids =
        tokenizer.Encode(TextFor(name, strings, i), {.add_special = false, .parse_special = false});
    all.push_back(static_cast<int32_t>(ids.size()));
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return Sha256(std::as_bytes(std::span<const int32_t>(all))).ShortHex();
}

class TokenizerGolden : public testing::TestWithParam<const char*> {};

// Do 12,000 generated strings become the ids that the reference tokenizers give them?
TEST_P(TokenizerGolden, AgreesOnGeneratedStrings) {
  const std::string path = PathOf(GetParam());
  if (path.empty())
    GTEST_SKIP() << "no path for " << GetParam() << ": run scripts/test, or set the environment";
  const auto text = ReadFile(LARDER_TEST_DATA "/tokenizer/goldens.json");
  ASSERT_TRUE(text.has_value());
  const auto goldens = nlohmann::json::parse(*text);
  const auto digests = goldens.at("digests").at(GetParam()).get<std::vector<std::string>>();
  const uint64_t chunk = goldens.at("strings_per_digest");
  ASSERT_GE(digests.size() * chunk, 10'000u);
  const Loaded loaded = LoadModel(path);
  ASSERT_NE(loaded.tokenizer, nullptr);
  Strings strings;
  int wrong = 0;
  for (uint64_t i = 0; i < digests.size() && wrong < 5; ++i) {
    if (DigestOf(GetParam(), *loaded.tokenizer, &strings, i * chunk, chunk) == digests[i]) continue;
    ++wrong;
    ADD_FAILURE() << GetParam() << ": strings " << i * chunk << " to " << (i + 1) * chunk - 1
                  << " differ; scripts/goldens/tokenizer.py --show prints what is expected of one";
  }
}

INSTANTIATE_TEST_SUITE_P(Vocabularies, TokenizerGolden,
                         testing::Values("smollm2", "gemma3", "llama-bpe", "qwen2", "qwen35", "gpt-2", "mpt",
                                         "falcon", "starcoder", "refact", "command-r", "deepseek-coder",
                                         "llama-spm", "baichuan", "gemma-4", "nomic-bert-moe"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

// Do the published inputs of every vocabulary that has them give the published ids?
TEST(TokenizerVocabularies, AgreeWithPublishedIds) {
  const std::string folder = Environment("LARDER_TEST_DATA_DIR");
  if (folder.empty())
    GTEST_SKIP() << "LARDER_TEST_DATA_DIR is not set: run scripts/test, or scripts/test_data";
  const std::set<std::string> unsupported = {"ggml-vocab-bert-bge.gguf"};  // WordPiece, an embedding model
  int vocabularies = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder + "/vocabularies")) {
    const std::string path = entry.path().string(), name = entry.path().filename().string();
    if (!name.ends_with(".gguf") || !std::filesystem::exists(path + ".inp") || unsupported.contains(name))
      continue;
    SCOPED_TRACE(name);
    const Loaded loaded = LoadModel(path);
    ASSERT_NE(loaded.tokenizer, nullptr);
    const auto inputs = SplitAt(*ReadFile(path + ".inp"), "\n__ggml_vocab_test__\n");
    const auto outputs = SplitAt(*ReadFile(path + ".out"), "\n");
    ASSERT_GT(inputs.size(), 40u);
    ASSERT_GE(outputs.size(), inputs.size() - 1);
    // The last input is what follows the last separator: nothing.
    for (size_t i = 0; i + 1 < inputs.size(); ++i) {
      std::istringstream numbers(outputs[i]);
      const std::vector<int32_t> expected{std::istream_iterator<int32_t>(numbers), {}};
      EXPECT_EQ(loaded.tokenizer->Encode(inputs[i], {.add_special = false}), expected)
          << "for \"" << inputs[i] << '"';
    }
    ++vocabularies;
  }
  EXPECT_GE(vocabularies, 14);
}

// Is a vocabulary of an unknown kind refused by name?
TEST(TokenizerVocabularies, RefusesWordPieceByName) {
  const std::string folder = Environment("LARDER_TEST_DATA_DIR");
  if (folder.empty())
    GTEST_SKIP() << "LARDER_TEST_DATA_DIR is not set: run scripts/test, or scripts/test_data";
  auto file = GgufFile::Open(folder + "/vocabularies/ggml-vocab-bert-bge.gguf");
  ASSERT_TRUE(file.has_value());
  auto tokenizer = Tokenizer::Load(**file);
  ASSERT_FALSE(tokenizer.has_value());
  EXPECT_EQ(tokenizer.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(tokenizer.error().message.find("bert"), std::string::npos);
}

// Do the two models' own special tokens read, write and end as their chat formats need?
TEST(TokenizerModels, SmolLm2ControlTokens) {
  const std::string path = PathOf("smollm2");
  if (path.empty()) GTEST_SKIP() << "LARDER_SMOLLM2 is not set: run scripts/test";
  const Loaded loaded = LoadModel(path);
  ASSERT_NE(loaded.tokenizer, nullptr);
  const Tokenizer& t = *loaded.tokenizer;
  const std::string text = "<|im_start|>user\nHi<|im_end|>";
  const auto ids = t.Encode(text, {.add_special = true, .parse_special = true});
  EXPECT_EQ(ids.front(), 1);
  EXPECT_EQ(ids.back(), 2);
  EXPECT_EQ(t.Decode(ids, true), text);
  EXPECT_EQ(t.Decode(ids), "user\nHi");
  for (int32_t id : t.Encode(text, {})) EXPECT_FALSE(t.IsControl(id)) << id;
  EXPECT_TRUE(t.IsEndOfGeneration(2));
  EXPECT_TRUE(t.IsEndOfGeneration(0));
  EXPECT_FALSE(t.IsEndOfGeneration(1));
}

TEST(TokenizerModels, Gemma3ControlTokens) {
  const std::string path = PathOf("gemma3");
  if (path.empty()) GTEST_SKIP() << "LARDER_GEMMA3 is not set: run scripts/test";
  const Loaded loaded = LoadModel(path);
  ASSERT_NE(loaded.tokenizer, nullptr);
  const Tokenizer& t = *loaded.tokenizer;
  const auto ids =
      t.Encode("<start_of_turn>user\nHi<end_of_turn>", {.add_special = true, .parse_special = true});
  EXPECT_EQ(ids, (std::vector<int32_t>{2, 105, 2364, 107, 10979, 106}));
  EXPECT_TRUE(t.IsEndOfGeneration(1));
  EXPECT_TRUE(t.IsEndOfGeneration(106));
  EXPECT_EQ(t.Decode(ids), "user\nHi");
  // HTML is text, also where a tag looks like another model's end token.
  EXPECT_EQ(t.Decode(t.Encode("<s>a</s>", {})), "<s>a</s>");
}

// Some byte-level vocabularies have no token for a few control characters; what their bytes leave behind is
// `text` without them.
std::string Representable(const Tokenizer& tokenizer, std::string text) {
  std::erase_if(text, [&](char c) {
    return c >= 0 && c < ' ' && tokenizer.Encode(std::string_view(&c, 1), {.add_special = false}).empty();
  });
  return text;
}

// Does decoding give back what was encoded, on every vocabulary that does not normalise?
TEST_P(TokenizerGolden, DecodesWhatItEncoded) {
  const std::string path = PathOf(GetParam()), name = GetParam();
  if (path.empty()) GTEST_SKIP() << "no path for " << name << ": run scripts/test, or set the environment";
  if (name == "nomic-bert-moe") GTEST_SKIP() << "its normalisation loses characters by design";
  const Loaded loaded = LoadModel(path);
  ASSERT_NE(loaded.tokenizer, nullptr);
  Strings strings;
  for (uint64_t i = 0; i < 2000; ++i) {
    const std::string text = Representable(*loaded.tokenizer, strings.Make(i));
    // The word marker itself reads back as a space.
    if (text.find("\u2581") != text.npos && loaded.tokenizer->model() != "gpt2") continue;
    const auto ids = loaded.tokenizer->Encode(text, {.add_special = false});
    ASSERT_EQ(loaded.tokenizer->Decode(ids, true), text) << i;
  }
}

}  // namespace
}  // namespace larder
