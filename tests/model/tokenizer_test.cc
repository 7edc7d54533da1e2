// Tokenizers on vocabularies small enough to follow by hand, and their promises on random bytes.
#include "model/tokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <sstream>

#include "gguf_writer.h"
#include "model/pretokenize.h"
#include "model/sentencepiece.h"
#include "model/utf8.h"

namespace larder {
namespace {

constexpr int32_t kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kByte = 6;
constexpr EncodeOptions kPlain = {.add_special = false, .parse_special = false};
constexpr EncodeOptions kParse = {.add_special = false, .parse_special = true};

using Ids = std::vector<int32_t>;

Result<std::unique_ptr<Tokenizer>> Load(GgufWriter writer) {
  const std::vector<std::byte> bytes = writer.Build();
  LARDER_ASSIGN(const auto file, GgufFile::Parse(bytes));
  return Tokenizer::Load(*file);
}

std::unique_ptr<Tokenizer> LoadTiny(const char* name) {
  auto file = GgufFile::Open(std::string(LARDER_TEST_DATA "/models/") + name);
  EXPECT_TRUE(file.has_value());
  auto tokenizer = Tokenizer::Load(**file);
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return std::move(*tokenizer);
}

struct Entry {
  std::string text;
  float score;
  int32_t type;
};

GgufWriter Vocabulary(const std::string& model, const std::vector<Entry>& entries) {
  std::vector<std::string> texts;
  std::vector<float> scores;
  std::vector<int32_t> types;
  for (const Entry& entry : entries) {
    texts.push_back(entry.text);
    scores.push_back(entry.score);
    types.push_back(entry.type);
  }
  GgufWriter writer;
  writer.String("tokenizer.ggml.model", model).Strings("tokenizer.ggml.tokens", texts);
  writer.Array("tokenizer.ggml.scores", scores).Array("tokenizer.ggml.token_type", types);
  return writer;
}

std::vector<Entry> SpmEntries() {
  std::vector<Entry> entries = {{"<unk>", 0, kUnknown}, {"<s>", 0, kControl}, {"</s>", 0, kControl}};
  for (int byte = 0; byte < 256; ++byte) entries.push_back({fmt::format("<0x{:02X}>", byte), 0, kByte});
  for (const char* text : {"\u2581", "a", "b", "c"}) entries.push_back({text, -100, kNormal});  // 259 to 262
  entries.push_back({"ab", -2, kNormal});                                                       // 263
  entries.push_back({"bc", -1, kNormal});                                                       // 264
  entries.push_back({"\u2581a", -3, kNormal});                                                  // 265
  entries.push_back({"<tool>", 0, kUserDefined});                                               // 266
  entries.push_back({"<tool>>", 0, kUserDefined});                                              // 267
  return entries;
}

constexpr int32_t kByteBase = 3, kMarker = 259, kA = 260, kBc = 264, kMarkerA = 265, kTool = 266,
                  kToolLong = 267;

std::unique_ptr<Tokenizer> LoadSpm(bool space_prefix) {
  auto tokenizer =
      Load(Vocabulary("llama", SpmEntries()).Bool("tokenizer.ggml.add_space_prefix", space_prefix));
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().message;
  return std::move(*tokenizer);
}

// A byte-level vocabulary of <end>, the printable ASCII bytes as themselves and a few merges; other bytes
// have no token.
struct ByteLevel {
  std::vector<Entry> entries = {{"<|im_end|>", 0, kControl}};
  std::vector<std::string> merges;
  ByteLevel() {
    for (char c = '!'; c <= '~'; ++c) entries.push_back({std::string(1, c), 0, kNormal});
    entries.push_back({"\u0120", 0, kNormal});  // the space
  }
  void Merge(const std::string& left, const std::string& right) {
    entries.push_back({left + right, 0, kNormal});
    merges.push_back(left + " " + right);
  }
  int32_t Id(const std::string& text) const {
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].text == text) return static_cast<int32_t>(i);
    }
    return kNoToken;
  }
  GgufWriter Writer(const std::string& pre) const {
    GgufWriter writer = Vocabulary("gpt2", entries);
    writer.Strings("tokenizer.ggml.merges", merges).String("tokenizer.ggml.pre", pre);
    writer.U32("tokenizer.ggml.eos_token_id", 0);
    return writer;
  }
};

// Bytes of every kind: ASCII, whole UTF-8, pieces of it, noise.
std::string RandomBytes(std::mt19937* random) {
  static constexpr const char* kPieces[] = {
      "a",        " ",    "the",  "\n",           "\xE2\x82\xAC", "\xF0\x9F\xA6\x99", "\xE2\x82",
      "\xF0\x9F", "\xFF", "\x80", "\xED\xA0\x80", "\xC0\xAF",     "<|im_end|>",       "1234"};
  std::string out;
  const size_t pieces = (*random)() % 40;
  for (size_t i = 0; i < pieces; ++i) {
    if ((*random)() % 4 == 0) {
      out.push_back(static_cast<char>((*random)()));
    } else {
      out += kPieces[(*random)() % std::size(kPieces)];
    }
  }
  return out;
}

bool IsUtf8(std::string_view text) { return ValidUtf8Prefix(text) == text.size(); }

TEST(Bpe, MergesTheLowestRankFirst) {
  ByteLevel level;
  level.Merge("b", "c");
  level.Merge("a", "b");
  level.Merge("a", "bc");
  const auto t = Load(level.Writer("gpt-2"));
  ASSERT_TRUE(t.has_value()) << t.error().message;
  EXPECT_EQ((*t)->Encode("abc", kPlain), Ids{level.Id("abc")});
  EXPECT_EQ((*t)->Encode("abd", kPlain), (Ids{level.Id("ab"), level.Id("d")}));
}

TEST(Bpe, MergesTheLeftmostOfEqualRanks) {
  ByteLevel level;
  level.Merge("a", "a");
  const auto t = Load(level.Writer("gpt-2"));
  ASSERT_TRUE(t.has_value());
  const int32_t pair = level.Id("aa"), one = level.Id("a");
  EXPECT_EQ((*t)->Encode("aaaaa", kPlain), (Ids{pair, pair, one}));
}

TEST(Bpe, PreTokenizerKeepsMergesInsideItsPieces) {
  ByteLevel level;
  level.Merge("1", "2");
  level.Merge("\u0120", "a");
  const auto digits = Load(level.Writer("smollm")), words = Load(level.Writer("gpt-2"));
  ASSERT_TRUE(digits.has_value() && words.has_value());
  EXPECT_EQ((*digits)->Encode("12", kPlain), (Ids{level.Id("1"), level.Id("2")}));
  EXPECT_EQ((*words)->Encode("12", kPlain), Ids{level.Id("12")});
  EXPECT_EQ((*words)->Encode(" a", kPlain), Ids{level.Id("\u0120"
                                                         "a")});
}

TEST(Bpe, WholePiecesThatAreTokensSkipTheMergesOnlyWherePublishedSo) {
  ByteLevel level;
  level.entries.push_back({"xyz", 0, kNormal});  // reachable by no merge
  const auto skips = Load(level.Writer("llama-bpe")), merges = Load(level.Writer("qwen2"));
  ASSERT_TRUE(skips.has_value() && merges.has_value());
  EXPECT_EQ((*skips)->Encode("xyz", kPlain), Ids{level.Id("xyz")});
  EXPECT_EQ((*merges)->Encode("xyz", kPlain), (Ids{level.Id("x"), level.Id("y"), level.Id("z")}));
}

TEST(Bpe, BytesWithoutTokensAreDroppedAndNeverBecomeControlTokens) {
  ByteLevel level;
  const auto t = Load(level.Writer("gpt-2").U32("tokenizer.ggml.unknown_token_id", 0));
  ASSERT_TRUE(t.has_value());
  EXPECT_EQ((*t)->Encode("a\x01\xFF"
                         "b",
                         kPlain),
            (Ids{level.Id("a"), level.Id("b")}));
}

TEST(Bpe, RefusesWhatItDoesNotKnowByName) {
  const auto pre = Load(ByteLevel().Writer("no-such-pre"));
  ASSERT_FALSE(pre.has_value());
  EXPECT_EQ(pre.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(pre.error().message.find("no-such-pre"), std::string::npos);
  EXPECT_NE(pre.error().message.find("smollm"), std::string::npos) << "the known ones are listed";
  const auto model = Load(Vocabulary("rwkv", {{"a", 0, kNormal}}));
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().kind, ErrorKind::kUnsupported);
}

TEST(PreTokenizers, AllThatAreListedCompileAndCoverTheText) {
  const std::string message = PreTokenizer::Make("").error().message;
  std::istringstream names(message.substr(message.rfind("it knows ") + 9));
  int made = 0;
  for (std::string name; std::getline(names >> std::ws, name, ',');) {
    const auto pre = PreTokenizer::Make(name);
    ASSERT_TRUE(pre.has_value()) << pre.error().message;
    std::mt19937 random(4);
    for (int round = 0; round < 100; ++round) {
      // Long runs would show an expression that needs memory for each character.
      const std::string text = RandomBytes(&random) + std::string(round % 10 * 5000, "aA 1!\n"[random() % 6]);
      std::vector<std::string_view> pieces;
      (*pre)->Split(text, &pieces);
      std::string joined;
      for (std::string_view piece : pieces) {
        ASSERT_FALSE(piece.empty()) << name;
        joined += piece;
      }
      ASSERT_EQ(joined, text) << name;
    }
    ++made;
  }
  EXPECT_GT(made, 50);
}

TEST(PreTokenizers, CutWhereThePublishedOnesDo) {
  const auto split = [](const char* name, std::string_view text) {
    std::vector<std::string_view> pieces;
    (*PreTokenizer::Make(name))->Split(text, &pieces);
    return std::vector<std::string>(pieces.begin(), pieces.end());
  };
  using Pieces = std::vector<std::string>;
  EXPECT_EQ(split("gpt-4o", "HelloWorld's 12345"), (Pieces{"Hello", "World's", " ", "123", "45"}));
  EXPECT_EQ(split("tekken", "HelloWorld 12"), (Pieces{"Hello", "World", " ", "1", "2"}));
  EXPECT_EQ(split("llama-bpe", "I'LL  go\n\n 1234"),
            (Pieces{"I", "'LL", " ", " go", "\n\n", " ", "123", "4"}));
  EXPECT_EQ(split("bloom", "a b, c"), (Pieces{"a", " b", ",", " c"}));
  EXPECT_EQ(split("gpt-2", "a\u180E b"), (Pieces{"a", "\u180E", " b"})) << "U+180E is no white space";
  EXPECT_EQ(split("gpt-2", "a\xFF\xFE b"), (Pieces{"a", "\xFF\xFE", " b"}));
}

TEST(Load, RefusesBrokenFieldsByName) {
  const auto expect = [](GgufWriter writer, const std::string& field) {
    const auto t = Load(std::move(writer));
    ASSERT_FALSE(t.has_value()) << field;
    EXPECT_NE(t.error().message.find(field), std::string::npos) << t.error().message;
  };
  expect(GgufWriter(), "tokenizer.ggml.model");
  expect(GgufWriter().String("tokenizer.ggml.model", "gpt2"), "tokenizer.ggml.tokens");
  expect(Vocabulary("gpt2", {{"a", 0, kNormal}}), "tokenizer.ggml.merges");
  expect(ByteLevel().Writer("gpt-2").U32("tokenizer.ggml.bos_token_id", 5000), "tokenizer.ggml.bos_token_id");
  ByteLevel without_part;
  without_part.merges = {"a \u0110"};
  expect(without_part.Writer("gpt-2"), "tokenizer.ggml.merges[0]");
  ByteLevel without_space;
  without_space.merges = {"ab"};
  expect(without_space.Writer("gpt-2"), "tokenizer.ggml.merges[0]");
  expect(Vocabulary("llama", {{"a", 0, 9}}), "tokenizer.ggml.token_type[0]");
  expect(Vocabulary("llama", {{"a", std::nanf(""), kNormal}}), "tokenizer.ggml.scores[0]");
  GgufWriter short_scores;
  short_scores.String("tokenizer.ggml.model", "llama").Strings("tokenizer.ggml.tokens", {"a", "b"});
  expect(short_scores.Array("tokenizer.ggml.scores", std::vector<float>{1}), "tokenizer.ggml.scores");
  expect(Vocabulary("t5", {{"a", 0, kNormal}})
             .Array("tokenizer.ggml.precompiled_charsmap", std::vector<uint8_t>{255, 255, 0, 0, 1}),
         "tokenizer.ggml.precompiled_charsmap");
}

TEST(Spm, MergesTheBestScoreFirst) {
  const auto t = LoadSpm(false);
  EXPECT_EQ(t->Encode("abc", kPlain), (Ids{kA, kBc}));
}

TEST(Spm, AddsAndStripsOneSpace) {
  const auto t = LoadSpm(true);
  EXPECT_EQ(t->Encode("a", kPlain), Ids{kMarkerA});
  EXPECT_EQ(t->Encode(" a", kPlain), (Ids{kMarker, kMarkerA}));
  EXPECT_EQ(t->Encode("a", {}), (Ids{1, kMarkerA})) << "the file says nothing of BOS, and this kind adds it";
  EXPECT_EQ(t->Decode(t->Encode(" a", {})), " a");
  EXPECT_EQ(t->TokenBytes(kMarkerA), " a");
  EXPECT_EQ(t->Decode(Ids{1, kMarkerA}, /*special=*/true), "<s>a");
  const auto bare = LoadSpm(false);
  EXPECT_EQ(bare->Encode("a", kPlain), Ids{kA});
  EXPECT_EQ(bare->Decode(bare->Encode(" a", kPlain)), " a");
}

TEST(Spm, FallsBackToBytes) {
  const auto t = LoadSpm(false);
  EXPECT_EQ(t->Encode("\u20AC", kPlain), (Ids{kByteBase + 0xE2, kByteBase + 0x82, kByteBase + 0xAC}));
  EXPECT_EQ(t->Encode("\xFF", kPlain), Ids{kByteBase + 0xFF});
  const auto unknown = Load(Vocabulary("llama", {{"<unk>", 0, kUnknown}, {"a", -1, kNormal}})
                                .Bool("tokenizer.ggml.add_space_prefix", false));
  ASSERT_TRUE(unknown.has_value());
  EXPECT_EQ((*unknown)->Encode("a\u20AC"
                               "a",
                               kPlain),
            (Ids{1, 0, 1}));
}

TEST(Spm, RemovesExtraSpacesWhereTheFileSaysSo) {
  const auto t = Load(Vocabulary("llama", SpmEntries())
                          .Bool("tokenizer.ggml.add_space_prefix", false)
                          .Bool("tokenizer.ggml.remove_extra_whitespaces", true));
  ASSERT_TRUE(t.has_value());
  EXPECT_EQ((*t)->Encode("  a   a  ", kPlain), (Ids{kA, kMarkerA}));
}

TEST(Special, ControlTokensAreReadOnlyWhenAsked) {
  const auto t = LoadSpm(false);
  EXPECT_EQ(t->Encode("a</s>", kParse), (Ids{kA, 2}));
  for (int32_t id : t->Encode("a</s>", kPlain)) EXPECT_FALSE(t->IsControl(id));
  EXPECT_EQ(t->Decode(t->Encode("a</s>", kPlain)), "a</s>");
}

TEST(Special, NoTextMergesIntoAControlToken) {
  std::vector<Entry> entries = SpmEntries();
  for (const char* text : {"<", "s", ">", "<s"}) entries.push_back({text, -1, kNormal});
  const auto t = Load(Vocabulary("llama", entries).Bool("tokenizer.ggml.add_space_prefix", false));
  ASSERT_TRUE(t.has_value());
  for (int32_t id : (*t)->Encode("<s>", kPlain)) EXPECT_NE(id, 1);
}

TEST(Special, UserDefinedTokensAlwaysMatchTheLongest) {
  const auto t = LoadSpm(false);
  EXPECT_EQ(t->Encode("a<tool>a", kPlain), (Ids{kA, kTool, kA}));
  EXPECT_EQ(t->Encode("<tool>><tool>", kPlain), (Ids{kToolLong, kTool}));
  EXPECT_EQ(t->Decode(Ids{kTool}), "<tool>");
}

TEST(Special, Phi3SwallowsSpaceAfterItsTokens) {
  const auto t = Load(Vocabulary("llama", SpmEntries())
                          .String("general.name", "Phi-3-mini")
                          .Bool("tokenizer.ggml.add_space_prefix", false));
  ASSERT_TRUE(t.has_value());
  EXPECT_EQ((*t)->Encode("<tool> \na", kPlain), (Ids{kTool, kA}));
  EXPECT_EQ((*t)->Encode("<s> a", kParse), (Ids{1, kMarkerA})) << "not after every one";
}

TEST(Ends, AreTheDeclaredOnesAndTheMarkersOfChatModels) {
  std::vector<Entry> entries = SpmEntries();
  const auto first = static_cast<int32_t>(entries.size());
  entries.push_back({"<|eot_id|>", 0, kControl});
  entries.push_back({"<|im_end|>", 0, kNormal});  // mistyped by a converter
  entries.push_back({"<eos>", 0, kNormal});       // ordinary text here
  entries.push_back({"halt", 0, kNormal});
  const auto t =
      Load(Vocabulary("llama", entries).U32("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(first + 3)));
  ASSERT_TRUE(t.has_value());
  EXPECT_TRUE((*t)->IsEndOfGeneration(2)) << "eos";
  EXPECT_TRUE((*t)->IsEndOfGeneration(first));
  EXPECT_TRUE((*t)->IsEndOfGeneration(first + 1));
  EXPECT_TRUE((*t)->IsControl(first + 1));
  EXPECT_FALSE((*t)->IsEndOfGeneration(first + 2));
  EXPECT_TRUE((*t)->IsEndOfGeneration(first + 3)) << "eot";
  EXPECT_FALSE((*t)->IsEndOfGeneration(1));
  EXPECT_FALSE((*t)->IsEndOfGeneration(-1));
  EXPECT_FALSE((*t)->IsEndOfGeneration(1 << 30));
}

TEST(Unigram, FindsTheBestSumAndFusesUnknownCharacters) {
  const std::vector<Entry> entries = {{"<pad>", 0, kControl},  {"</s>", 0, kControl}, {"<unk>", 0, kUnknown},
                                      {"\u2581", -2, kNormal}, {"a", -3, kNormal},    {"b", -3, kNormal},
                                      {"ab", -4, kNormal},     {"abb", -9, kNormal},  {"bb", -3.5, kNormal}};
  const auto t = Load(Vocabulary("t5", entries));
  ASSERT_TRUE(t.has_value()) << t.error().message;
  EXPECT_EQ((*t)->Encode("abb", kPlain), (Ids{3, 4, 8})) << "-3 - 3.5 beats -4 - 3 and -9";
  EXPECT_EQ((*t)->Encode("axya", kPlain), (Ids{3, 4, 2, 4}));
  EXPECT_EQ((*t)->Encode("a", {}), (Ids{3, 4, 1})) << "ends with eos";
  EXPECT_EQ((*t)->Decode((*t)->Encode("ab a", {})), "ab a");
}

TEST(CharacterMap, StaysInsideItsTableWhateverTheTableSays) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::string blob(4 + 4 * (1 + random() % 300) + random() % 20, '\0');
    for (char& c : blob) c = static_cast<char>(random() % 3 == 0 ? random() : 0);
    const uint32_t bytes = static_cast<uint32_t>((blob.size() - 4) / 4 * 4);
    for (int i = 0; i < 4; ++i) blob[i] = static_cast<char>(bytes >> (8 * i));
    const auto map = CharacterMap::Parse(blob);
    ASSERT_TRUE(map.has_value());
    const std::string text = RandomBytes(&random) + "x";
    std::string_view replacement;
    const size_t matched = map->Match(text, &replacement);
    ASSERT_LE(matched, text.size());
    if (matched > 0) {
      ASSERT_LE(replacement.size(), blob.size());
    }
  }
}

TEST(Digest, SeesEverythingThatChangesTheEncoding) {
  std::vector<Digest> digests;
  const auto add = [&](GgufWriter writer) {
    const auto t = Load(std::move(writer));
    ASSERT_TRUE(t.has_value());
    digests.push_back((*t)->digest());
  };
  ByteLevel level, swapped, retyped;
  level.Merge("a", "b");
  level.Merge("b", "c");
  swapped = retyped = level;
  std::swap(swapped.merges[0], swapped.merges[1]);
  retyped.entries.back().type = kUserDefined;
  add(level.Writer("gpt-2"));
  add(level.Writer("qwen2"));
  add(swapped.Writer("gpt-2"));
  add(retyped.Writer("gpt-2"));
  add(level.Writer("gpt-2").U32("tokenizer.ggml.bos_token_id", 3).Bool("tokenizer.ggml.add_bos_token", true));
  auto rescored = SpmEntries();
  rescored[kBc].score = -50;
  add(Vocabulary("llama", SpmEntries()));
  add(Vocabulary("llama", rescored));
  add(Vocabulary("llama", SpmEntries()).Bool("tokenizer.ggml.add_space_prefix", false));
  add(Vocabulary("llama", SpmEntries()).Bool("tokenizer.ggml.remove_extra_whitespaces", true));
  for (size_t i = 0; i < digests.size(); ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(digests[i], digests[j]) << i << " and " << j;
  }
  add(level.Writer("gpt-2"));
  EXPECT_EQ(digests.back(), digests.front());
}

TEST(Properties, ByteLevelModelsGiveBackAnyBytes) {
  for (const char* name : {"tiny-llama.gguf", "tiny-llama3.gguf", "tiny-qwen2.gguf"}) {
    const auto t = LoadTiny(name);
    std::mt19937 random(1);
    for (int round = 0; round < 2000; ++round) {
      const std::string text = RandomBytes(&random);
      ASSERT_EQ(t->Decode(t->Encode(text, kPlain)), text) << name << ", round " << round;
      ASSERT_EQ(t->Decode(t->Encode(text, kParse), /*special=*/true), text) << name << ", round " << round;
    }
  }
}

TEST(Properties, SentencePieceModelsGiveBackAnyBytes) {
  const auto prefixed = LoadSpm(true), bare = LoadTiny("tiny-gemma3.gguf");
  std::mt19937 random(2);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = RandomBytes(&random);
    ASSERT_EQ(prefixed->Decode(prefixed->Encode(text, kPlain)), text) << round;
    ASSERT_EQ(bare->Decode(bare->Encode(text, kPlain)), text) << round;
  }
}

TEST(Properties, ALongWordIsTheSumOfNoQuadraticWork) {
  // Quadratic merging would take hours here and trip the test's time limit; nothing is timed.
  const auto bytes = LoadTiny("tiny-llama.gguf"), pieces = LoadTiny("tiny-gemma3.gguf");
  for (const char* unit : {"a", " ", "\n", "e ", "the", "\xE2\x82\xAC", "\xFF"}) {
    std::string text;
    while (text.size() < 2'000'000) text += unit;
    EXPECT_EQ(bytes->Decode(bytes->Encode(text, kPlain)), text);
    EXPECT_EQ(pieces->Decode(pieces->Encode(text, kPlain)), text);
  }
}

TEST(Stream, EmitsOnlyWholeUtf8AndLosesNothing) {
  const auto t = LoadTiny("tiny-llama.gguf");
  std::mt19937 random(3);
  for (int round = 0; round < 2000; ++round) {
    const std::string text = RandomBytes(&random);
    const Ids ids = t->Encode(text, kPlain);
    StreamDecoder stream(t.get());
    std::string all;
    for (int32_t id : ids) {
      const std::string part = stream.Push(id);
      ASSERT_TRUE(IsUtf8(part)) << round;
      all += part;
    }
    const std::string rest = stream.Finish();
    ASSERT_TRUE(IsUtf8(rest)) << round;
    ASSERT_EQ(all + rest, SanitizeUtf8(t->Decode(ids))) << round;
  }
}

TEST(Stream, HoldsBackOnlyWhatMayStillBecomeACharacter) {
  const auto t = LoadSpm(false);
  StreamDecoder stream(t.get());
  EXPECT_EQ(stream.Push(kA), "a");
  EXPECT_EQ(stream.Push(kByteBase + 0xE2), "");
  EXPECT_EQ(stream.Push(kByteBase + 0x82), "");
  EXPECT_EQ(stream.Push(kByteBase + 0xAC), "\u20AC");
  EXPECT_EQ(stream.Push(kByteBase + 0xE2), "");
  EXPECT_EQ(stream.Push(kA), "\uFFFDa") << "certain as soon as the next byte does not fit";
  EXPECT_EQ(stream.Push(kByteBase + 0xFF), "\uFFFD") << "nothing begins with this byte";
  EXPECT_EQ(stream.Push(kByteBase + 0xF0), "");
  EXPECT_EQ(stream.Finish(), "\uFFFD");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(Utf8, FollowsTheStandardAtItsEdges) {
  const auto valid = [](std::string_view text) { return IsUtf8(text); };
  EXPECT_TRUE(valid("\x7F\xC2\x80\xDF\xBF\xE0\xA0\x80\xEF\xBF\xBF\xF0\x90\x80\x80\xF4\x8F\xBF\xBF"));
  EXPECT_FALSE(valid("\xC1\xBF")) << "overlong";
  EXPECT_FALSE(valid("\xE0\x9F\xBF")) << "overlong";
  EXPECT_FALSE(valid("\xF0\x8F\xBF\xBF")) << "overlong";
  EXPECT_FALSE(valid("\xED\xA0\x80")) << "surrogate";
  EXPECT_FALSE(valid("\xF4\x90\x80\x80")) << "past U+10FFFF";
  EXPECT_EQ(SanitizeUtf8("a\xE2\x82z\xF0\x9F\xA6\x99\xE2\x82"), "a\uFFFDz\U0001F999\uFFFD");
  EXPECT_EQ(SanitizeUtf8("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");
}

}  // namespace
}  // namespace larder
