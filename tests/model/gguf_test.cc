#include "model/gguf.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <limits>
#include <numeric>

#include "gguf_writer.h"

namespace larder {
namespace {

std::vector<uint8_t> Counting(size_t size) {
  std::vector<uint8_t> bytes(size);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  return bytes;
}

GgufWriter EveryKind(uint32_t version = 3, uint64_t alignment = 32) {
  GgufWriter writer(version, alignment);
  writer.U8("a.u8", 255).I8("a.i8", -128).U16("a.u16", 65535).I16("a.i16", -32768);
  writer.U32("a.u32", 4294967295u).I32("a.i32", -2147483647).F32("a.f32", 0.5f).Bool("a.bool", true);
  writer.U64("a.u64", std::numeric_limits<uint64_t>::max()).I64("a.i64", std::numeric_limits<int64_t>::min());
  writer.F64("a.f64", -1e100).String("a.string", "larder").String("a.empty", "");
  writer.Array<uint8_t>("l.u8", {1, 255}).Array<int8_t>("l.i8", {-1, 2}).Array<uint16_t>("l.u16", {65535});
  writer.Array<int16_t>("l.i16", {-3}).Array<uint32_t>("l.u32", {7, 8, 9}).Array<int32_t>("l.i32", {-5, 6});
  writer.Array<uint64_t>("l.u64", {1, std::numeric_limits<uint64_t>::max()}).Array<int64_t>("l.i64", {-9});
  writer.Array<float>("l.f32", {0.25f, -2}).Array<double>("l.f64", {0.1}).Bools("l.bool", {1, 0, 1});
  writer.Strings("l.strings", {"a", "", "two words"}).Array<uint32_t>("l.none", {});
  const float values[] = {1, 2, 3, 4, 5, 6};
  writer.Tensor("plain", {3, 2}, values);
  writer.Tensor("packed", {64, 2, 3, 1}, TensorType::kQ4_1, Counting(2 * 20 * 6));
  writer.Tensor("last", {5}, TensorType::kF16, Counting(10));
  return writer;
}

template <class T>
std::string ErrorOf(const Result<T>& result) {
  return result ? "no error" : result.error().message;
}

class RoundTrip : public testing::TestWithParam<std::pair<uint32_t, uint64_t>> {};
INSTANTIATE_TEST_SUITE_P(Versions, RoundTrip,
                         testing::Values(std::pair(2u, 32ul), std::pair(3u, 32ul), std::pair(3u, 1ul),
                                         std::pair(3u, 64ul), std::pair(3u, 4096ul)));

TEST_P(RoundTrip, KeepsMetadata) {
  GgufWriter writer = EveryKind(GetParam().first, GetParam().second);
  const auto bytes = writer.Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file) << ErrorOf(file);
  const GgufFile& f = **file;
  EXPECT_EQ(f.version(), static_cast<int>(GetParam().first));
  EXPECT_EQ(f.Int("a.u8", 0, 255), 255);
  EXPECT_EQ(f.Int("a.i8", -128, 0), -128);
  EXPECT_EQ(f.Int("a.u16", 0, 65535), 65535);
  EXPECT_EQ(f.Int("a.i16", -32768, 0), -32768);
  EXPECT_EQ(f.Int("a.u32", 0, 1l << 40), 4294967295);
  EXPECT_EQ(f.IntOr("a.i32", 0), -2147483647);
  EXPECT_EQ(f.IntOr("a.i64", 0), std::numeric_limits<int64_t>::min());
  EXPECT_EQ(f.Float("a.f32"), 0.5);
  EXPECT_EQ(f.Float("a.f64"), -1e100);
  EXPECT_EQ(f.Float("a.i8"), -128.0);
  EXPECT_TRUE(f.BoolOr("a.bool", false));
  EXPECT_EQ(f.String("a.string"), "larder");
  EXPECT_EQ(f.StringOr("a.empty", "x"), "");
  EXPECT_EQ(f.Ints("l.u8"), (std::vector<int64_t>{1, 255}));
  EXPECT_EQ(f.Ints("l.i8"), (std::vector<int64_t>{-1, 2}));
  EXPECT_EQ(f.Ints("l.u16"), (std::vector<int64_t>{65535}));
  EXPECT_EQ(f.Ints("l.i16"), (std::vector<int64_t>{-3}));
  EXPECT_EQ(f.Ints("l.u32"), (std::vector<int64_t>{7, 8, 9}));
  EXPECT_EQ(f.Ints("l.i32"), (std::vector<int64_t>{-5, 6}));
  EXPECT_EQ(f.Ints("l.i64"), (std::vector<int64_t>{-9}));
  EXPECT_EQ(f.Ints("l.none"), std::vector<int64_t>{});
  EXPECT_EQ(f.Floats("l.f32"), (std::vector<float>{0.25f, -2}));
  EXPECT_EQ(f.Floats("l.f64"), (std::vector<float>{0.1f}));
  const auto strings = f.Strings("l.strings");
  ASSERT_TRUE(strings);
  EXPECT_EQ(std::vector<std::string_view>(strings->begin(), strings->end()),
            (std::vector<std::string_view>{"a", "", "two words"}));
  const auto& bools = std::get<std::shared_ptr<const GgufArray>>(*f.Find("l.bool"))->values;
  EXPECT_EQ(std::get<std::vector<bool>>(bools), (std::vector<bool>{true, false, true}));
  EXPECT_EQ(f.metadata()[GetParam().second == 32 ? 0 : 1].first, "a.u8");  // order is kept
}

TEST_P(RoundTrip, KeepsTensors) {
  GgufWriter writer = EveryKind(GetParam().first, GetParam().second);
  const auto bytes = writer.Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file) << ErrorOf(file);
  ASSERT_EQ((*file)->tensors().size(), 3u);
  const GgufTensor* plain = (*file)->Tensor("plain", {3, 2}).value();
  EXPECT_EQ(plain->inner(), 3);
  EXPECT_EQ(plain->rows(), 2);
  float values[6];
  std::memcpy(values, plain->data, sizeof(values));
  EXPECT_EQ(values[5], 6.0f);
  const GgufTensor* packed = (*file)->Tensor("packed", {64, 2, 3, 1}).value();
  EXPECT_EQ(packed->format->name, "Q4_1");
  EXPECT_EQ(packed->bytes, 240u);
  EXPECT_EQ(packed->rows(), 6);
  EXPECT_EQ(std::to_integer<int>(packed->data[0]), 1);
  EXPECT_EQ(std::to_integer<int>(packed->data[239]), 240);
  EXPECT_EQ(static_cast<uint64_t>(packed->data - bytes.data()) % GetParam().second, 0u);
  EXPECT_EQ(std::to_integer<int>((*file)->FindTensor("last")->data[9]), 10);
}

TEST(GgufTest, FilesWithoutTensorsMayEndAfterTheMetadata) {
  GgufWriter writer;
  writer.String("general.architecture", "llama");
  const auto bytes = writer.Build();
  const auto file = GgufFile::Parse(bytes);
  ASSERT_TRUE(file) << ErrorOf(file);
  EXPECT_TRUE((*file)->tensors().empty());
}

TEST(GgufTest, LookUpErrorsNameKeyExpectedAndFound) {
  GgufWriter writer = EveryKind();
  const auto bytes = writer.Build();
  const auto file = GgufFile::Parse(bytes).value();
  const auto has = [](const std::string& message, std::initializer_list<const char*> parts) {
    for (const char* part : parts)
      EXPECT_NE(message.find(part), std::string::npos) << message << " has no " << part;
  };
  has(ErrorOf(file->String("nope")), {"\"nope\"", "a string"});
  EXPECT_EQ(file->String("nope").error().kind, ErrorKind::kNotFound);
  has(ErrorOf(file->String("a.u32")), {"a.u32", "a string", "4294967295"});
  has(ErrorOf(file->Int("a.u32", 1, 10)), {"a.u32", "1 to 10", "4294967295"});
  has(ErrorOf(file->Int("a.u64", 0, 10)), {"a.u64", "18446744073709551615"});
  has(ErrorOf(file->Int("a.string", 0, 10)), {"a.string", "integer", "\"larder\""});
  has(ErrorOf(file->Float("a.bool")), {"a.bool", "number", "true"});
  has(ErrorOf(file->Strings("l.u32")), {"l.u32", "strings", "array of 3 unsigned integers"});
  has(ErrorOf(file->Ints("l.u64")), {"l.u64", "element 1"});
  has(ErrorOf(file->Ints("l.f32")), {"l.f32", "integers", "floats"});
  has(ErrorOf(file->Floats("l.i32")), {"l.i32", "floats", "integers"});
  has(ErrorOf(file->Tensor("nope", {2})), {"nope", "[2]"});
  has(ErrorOf(file->Tensor("plain", {2, 3})), {"plain", "[3, 2]", "[2, 3]"});
  has(ErrorOf(file->Tensor("plain", {3})), {"plain", "[3, 2]", "[3]"});
}

TEST(GgufTest, FallbacksServeAbsentAndOtherTypes) {
  GgufWriter writer = EveryKind();
  const auto bytes = writer.Build();
  const auto file = GgufFile::Parse(bytes).value();
  EXPECT_EQ(file->IntOr("nope", 3), 3);
  EXPECT_EQ(file->IntOr("a.string", 3), 3);
  EXPECT_EQ(file->IntOr("a.u64", 3), 3);  // does not fit
  EXPECT_EQ(file->FloatOr("a.string", 1.5), 1.5);
  EXPECT_TRUE(file->BoolOr("a.u8", true));
  EXPECT_EQ(file->StringOr("a.u8", "x"), "x");
  EXPECT_EQ(file->FindTensor("nope"), nullptr);
}

TEST(GgufTest, HostileNamesCannotBreakOutOfAMessage) {
  GgufWriter writer;
  writer.String("twice\n\x1b[31m\xff", "a").String("twice\n\x1b[31m\xff", "b");
  const auto bytes = writer.Build();
  const std::string message = ErrorOf(GgufFile::Parse(bytes));
  EXPECT_NE(message.find("twice\\x0a\\x1b[31m\\xff"), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
}

TEST(GgufTest, OpenMapsTheFileAndNamesItInErrors) {
  const auto folder = std::filesystem::temp_directory_path() / "larder_gguf_test";
  std::filesystem::create_directories(folder);
  const std::string path = folder / "model.gguf", broken = folder / "broken.gguf";
  GgufWriter writer = EveryKind();
  ASSERT_TRUE(writer.WriteTo(path));
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file) << ErrorOf(file);
  EXPECT_EQ((*file)->String("a.string"), "larder");
  std::ofstream(broken) << "GGML, long ago";
  EXPECT_NE(ErrorOf(GgufFile::Open(broken)).find(broken), std::string::npos);
  EXPECT_EQ(GgufFile::Open(folder / "absent.gguf").error().kind, ErrorKind::kNotFound);
  std::filesystem::remove_all(folder);
}

TEST(GgufTest, ReadsTheTinyModels) {
  int seen = 0;
  for (const auto& entry : std::filesystem::directory_iterator(LARDER_TEST_DATA "/models")) {
    const auto file = GgufFile::Open(entry.path());
    ASSERT_TRUE(file) << ErrorOf(file);
    const auto tokens = (*file)->Strings("tokenizer.ggml.tokens");
    ASSERT_TRUE(tokens) << ErrorOf(tokens);
    const GgufTensor* embedding = (*file)->FindTensor("token_embd.weight");
    ASSERT_NE(embedding, nullptr);
    EXPECT_EQ(static_cast<size_t>(embedding->rows()), tokens->size()) << entry.path();
    ++seen;
  }
  EXPECT_GE(seen, 5);
}

TEST(GgufTest, TheFuzzersSeedsAreValid) {
  int formats = 0;
  for (const auto& entry : std::filesystem::directory_iterator(LARDER_TEST_DATA "/../../fuzz/corpus/gguf")) {
    const auto file = GgufFile::Open(entry.path());
    ASSERT_TRUE(file) << ErrorOf(file);
    for (const GgufTensor& tensor : (*file)->tensors()) formats |= 1 << static_cast<int>(tensor.format->type);
  }
  for (const FormatInfo& format : AllFormats())
    EXPECT_TRUE(formats >> static_cast<int>(format.type) & 1) << format.name;
}

// Facts of the published file SmolLM2-135M-Instruct.Q4_1.gguf.
TEST(GgufTest, ReadsSmolLm2) {
  const char* path = std::getenv("LARDER_SMOLLM2");
  if (path == nullptr) GTEST_SKIP() << "LARDER_SMOLLM2 does not name the file";
  const auto file = GgufFile::Open(path);
  ASSERT_TRUE(file) << ErrorOf(file);
  const GgufFile& f = **file;
  EXPECT_EQ(f.version(), 3);
  EXPECT_EQ(f.metadata().size(), 33u);
  EXPECT_EQ(f.tensors().size(), 272u);
  EXPECT_EQ(f.String("general.architecture"), "llama");
  EXPECT_EQ(f.Int("llama.block_count", 1, 1000), 30);
  EXPECT_EQ(f.Float("llama.rope.freq_base"), 100000.0);
  EXPECT_EQ(f.Float("llama.attention.layer_norm_rms_epsilon"), static_cast<double>(1e-5f));
  const auto tokens = f.Strings("tokenizer.ggml.tokens").value();
  ASSERT_EQ(tokens.size(), 49152u);
  EXPECT_EQ(tokens[2], "<|im_end|>");
  EXPECT_EQ(f.Strings("tokenizer.ggml.merges").value().size(), 48900u);
  EXPECT_EQ(f.Ints("tokenizer.ggml.token_type").value()[16], 3);
  EXPECT_EQ(f.Tensor("token_embd.weight", {576, 49152}).value()->format->name, "Q8_0");
  EXPECT_EQ(f.Tensor("blk.29.attn_k.weight", {576, 192}).value()->format->name, "Q4_1");
}

}  // namespace
}  // namespace larder
