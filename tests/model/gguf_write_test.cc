// Is what is written what is read, and is nothing seen of a file that was not finished?
#include "model/gguf_write.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/model/gguf_writer.h"

namespace larder {
namespace {

class Folder {
 public:
  Folder() : path_(testing::TempDir() + "larder-gguf-write-" + std::to_string(getpid())) {
    std::filesystem::create_directories(path_);
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  size_t files() const {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(path_), {}));
  }

 private:
  std::string path_;
};

// Every type of value, and two tensors of which the first ends off the alignment.
std::vector<std::byte> Sample(uint64_t alignment = 32) {
  GgufWriter writer(3, alignment);
  writer.String("general.name", "sample").U8("a.u8", 200).I8("a.i8", -5).U16("a.u16", 60000).I16("a.i16", -6);
  writer.U32("a.u32", 4'000'000'000u).I32("a.i32", -7).U64("a.u64", 1ull << 63).I64("a.i64", -8);
  writer.F32("a.f32", 0.1f).F64("a.f64", 0.1).Bool("a.bool", true).Strings("a.strings", {"x", "", "yz"});
  writer.Array<int32_t>("a.ints", {1, -2}).Array<float>("a.floats", {0.5f}).Bools("a.bools", {1, 0, 1});
  writer.Tensor("one", {3}, std::vector<float>{1, 2, 3});
  writer.Tensor("two", {2, 2}, std::vector<float>{4, 5, 6, 7});
  return writer.Build();
}

std::vector<GgufOutputTensor> TensorsOf(const GgufFile& file) {
  std::vector<GgufOutputTensor> out;
  for (const GgufTensor& tensor : file.tensors())
    out.push_back({tensor.name, tensor.shape, tensor.format->type});
  return out;
}

std::string Bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

TEST(GgufWrite, ACopyIsTheSameToTheByte) {
  for (const uint64_t alignment : {32, 64}) {
    const Folder folder;
    const std::vector<std::byte> bytes = Sample(alignment);
    const auto file = GgufFile::Parse(bytes).value();
    auto out = GgufOutput::Create(folder / "copy.gguf", EntriesOf(*file), TensorsOf(*file)).value();
    for (const GgufTensor& tensor : file->tensors()) {
      // In two pieces.
      ASSERT_TRUE(out->Append({tensor.data, 4}));
      ASSERT_TRUE(out->Append({tensor.data + 4, tensor.bytes - 4}));
    }
    ASSERT_TRUE(out->Finish());
    const std::string copy = Bytes(folder / "copy.gguf");
    // The writer pads the last tensor; the sample's does not.
    ASSERT_GE(copy.size(), bytes.size());
    EXPECT_EQ(std::memcmp(copy.data(), bytes.data(), bytes.size()), 0);
    EXPECT_EQ(copy.find_first_not_of('\0', bytes.size()), std::string::npos);
    EXPECT_EQ(folder.files(), 1u) << "the temporary file is still there";
  }
}

TEST(GgufWrite, EntriesAreReplacedInPlaceOrAdded) {
  const std::vector<std::byte> bytes = Sample();
  const auto file = GgufFile::Parse(bytes).value();
  std::vector<GgufEntry> entries = EntriesOf(*file);
  const size_t count = entries.size();
  SetEntry(entries, GgufUint32("a.u32", 17));
  EXPECT_EQ(entries.size(), count);
  SetEntry(entries, GgufText("general.author", "nobody"));
  EXPECT_EQ(entries.size(), count + 1);
  const Folder folder;
  auto out = GgufOutput::Create(folder / "x.gguf", entries, {}).value();
  ASSERT_TRUE(out->Finish());
  const auto read = GgufFile::Open(folder / "x.gguf").value();
  EXPECT_EQ(read->IntOr("a.u32", 0), 17);
  EXPECT_EQ(read->StringOr("general.author", ""), "nobody");
  EXPECT_EQ(read->metadata()[5].first, file->metadata()[5].first);
}

TEST(GgufWrite, NothingIsSeenBeforeFinish) {
  const Folder folder;
  std::ofstream(folder / "x.gguf") << "what was there";
  {
    const GgufOutputTensor tensor{"t", {8}, TensorType::kF32};
    auto out = GgufOutput::Create(folder / "x.gguf", {}, {&tensor, 1}).value();
    EXPECT_EQ(Bytes(folder / "x.gguf"), "what was there");
    EXPECT_FALSE(out->Finish()) << "the tensor is not complete";
    const std::vector<std::byte> data(33);
    EXPECT_FALSE(out->Append(data)) << "more than the tensor has";
  }
  EXPECT_EQ(Bytes(folder / "x.gguf"), "what was there");
  EXPECT_EQ(folder.files(), 1u) << "the temporary file is still there";
}

TEST(GgufWrite, ImpossibleShapesAndPlacesAreRefused) {
  const Folder folder;
  const auto refused = [&](const GgufOutputTensor& tensor) {
    return !GgufOutput::Create(folder / "x.gguf", {}, {&tensor, 1}).has_value();
  };
  EXPECT_TRUE(refused({"t", {33}, TensorType::kQ8_0}));
  EXPECT_TRUE(refused({"t", {}, TensorType::kF32}));
  EXPECT_TRUE(refused({"t", {1, 1, 1, 1, 1}, TensorType::kF32}));
  EXPECT_TRUE(refused({"t", {1ull << 40, 1ull << 40}, TensorType::kF32}));
  const auto nowhere = GgufOutput::Create(folder / "no/such/folder/x.gguf", {}, {});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().kind, ErrorKind::kNotFound);
  const GgufEntry bad[] = {GgufUint32("general.alignment", 48)};
  EXPECT_FALSE(GgufOutput::Create(folder / "x.gguf", bad, {}));
  EXPECT_EQ(folder.files(), 0u);
}

}  // namespace
}  // namespace larder
