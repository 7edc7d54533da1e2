// Every field of a valid file, broken in every way that suits its kind: each result must be an error that
// names the field. The cases are generated from the writer's list of fields, so a new field is covered when
// the writer writes it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>

#include "gguf_writer.h"
#include "model/gguf.h"

namespace larder {
namespace {

using Kind = GgufWriter::FieldKind;
using Field = GgufWriter::Field;
using Bytes = std::vector<std::byte>;

constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();

// One of every shape of field, with names that no other text of a message contains.
GgufWriter Sample() {
  GgufWriter writer(3, 64);
  writer.U8("key.u8", 1).I16("key.i16", 2).U32("key.u32", 3).F32("key.f32", 4).F64("key.f64", 5);
  writer.Bool("key.bool", true).I64("key.i64", 6).String("key.string", "some text");
  writer.Array<uint16_t>("key.u16s", {1, 2, 3}).Array<float>("key.floats", {1, 2}).Bools("key.bools", {0, 1});
  writer.Strings("key.strings", {"first", "second", "third"}).Array<int64_t>("key.i64s", {1, 2});
  writer.Tensor("tensor.vector", {4}, TensorType::kF32, std::vector<uint8_t>(16, 1));
  writer.Tensor("tensor.packed", {32, 3}, TensorType::kQ8_0, std::vector<uint8_t>(3 * 34, 2));
  writer.Tensor("tensor.k", {256, 2, 2}, TensorType::kQ6_K, std::vector<uint8_t>(4 * 210, 3));
  writer.Tensor("tensor.half", {2, 2, 2, 2}, TensorType::kF16, std::vector<uint8_t>(32, 4));
  return writer;
}

// Copies the file into memory of exactly its size, so that a sanitizer sees a read past its end.
Result<std::unique_ptr<GgufFile>> ParseExactly(const Bytes& bytes) {
  const auto copy = std::make_unique<std::byte[]>(bytes.size());
  std::ranges::copy(bytes, copy.get());
  return GgufFile::Parse(std::span(copy.get(), bytes.size()));
}

void ExpectError(const Bytes& bytes, std::initializer_list<std::string> any_of, const std::string& what) {
  const auto file = ParseExactly(bytes);
  ASSERT_FALSE(file) << what << " was accepted";
  const std::string& message = file.error().message;
  const bool named = std::ranges::any_of(
      any_of, [&](const std::string& name) { return message.find(name) != std::string::npos; });
  EXPECT_TRUE(named) << what << ": " << message;
  EXPECT_TRUE(file.error().kind == ErrorKind::kCorrupt || file.error().kind == ErrorKind::kUnsupported ||
              file.error().kind == ErrorKind::kInvalid)
      << what;
}

// What a message about this field has to contain.
std::string NameOf(const Field& field) {
  if (!field.name.empty()) return "\"" + field.name + "\"";
  switch (field.kind) {
    case Kind::kMagic:
      return "magic number";
    case Kind::kVersion:
      return "ersion";
    case Kind::kCount:
      return "count";
    default:
      return " of ";  // "the key of metadata entry 3", "the name of tensor 2": it has no name yet
  }
}

// Values that no field of this kind may have, whatever else the file says.
std::vector<uint64_t> HostileValues(const Field& field, uint64_t file_size) {
  switch (field.kind) {
    case Kind::kVersion:
      return {0, 1, 4, 0xffffffff, 0x03000000, 0x02000000, 0x00030000};
    case Kind::kCount:
    case Kind::kLength:
      return {kMost,     kMost - 7,          uint64_t{1} << 63, uint64_t{1} << 61, uint64_t{1} << 32,
              file_size, file_size / 2 + 900};
    case Kind::kType:
      return field.in_array ? std::vector<uint64_t>{9, 13, 255, 0x80000000, 0xffffffff}
                            : std::vector<uint64_t>{13, 255, 0x80000000, 0xffffffff};
    case Kind::kDimensions:
      return {0, 5, 0x80000000, 0xffffffff};
    case Kind::kDimension:
      return {0, kMost, uint64_t{1} << 63, (uint64_t{1} << 62) + 32, uint64_t{1} << 40};
    case Kind::kTensorType:
      return {4, 5, 9, 15, 16, 31, 39, 0x80000000, 0xffffffff};
    case Kind::kOffset:
      return {1, 32, 63, kMost, kMost - 63, uint64_t{1} << 63, (file_size / 64 + 1) * 64};
    default:
      return {};
  }
}

Bytes With(Bytes bytes, const Field& field, uint64_t value) {
  std::memcpy(bytes.data() + field.at, &value, std::min(field.size, sizeof(value)));
  return bytes;
}

TEST(GgufMalformedTest, TheSampleItselfIsValid) {
  GgufWriter writer = Sample();
  const auto file = ParseExactly(writer.Build());
  EXPECT_TRUE(file) << file.error().message;
}

TEST(GgufMalformedTest, FilesCutAnywhereAreErrors) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  int cases = 0;
  for (const Field& field : writer.fields()) {
    for (const size_t end : {field.at, field.at + field.size / 2, field.at + field.size - 1}) {
      if (end < field.at || end >= field.at + field.size) continue;
      const Bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(end));
      // A cut file breaks the first thing that does not fit any more, which may be a count or length before
      // the cut, or the data of a tensor.
      ExpectError(cut, {NameOf(field), "count", "length"}, "cut at " + std::to_string(end));
      ++cases;
    }
  }
  EXPECT_GT(cases, 200);
}

TEST(GgufMalformedTest, HostileNumbersAreErrorsThatNameTheField) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  int cases = 0;
  for (const Field& field : writer.fields()) {
    for (const uint64_t value : HostileValues(field, whole.size())) {
      ExpectError(With(whole, field, value), {NameOf(field)},
                  "byte " + std::to_string(field.at) + " = " + std::to_string(value));
      ++cases;
    }
  }
  EXPECT_GT(cases, 200);
}

TEST(GgufMalformedTest, WrongMagic) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  for (size_t i = 0; i < 4; ++i) {
    Bytes bytes = whole;
    bytes[i] ^= std::byte{0x20};
    ExpectError(bytes, {"magic number"}, "magic byte " + std::to_string(i));
  }
  ExpectError({}, {"magic number"}, "an empty file");
}

TEST(GgufMalformedTest, BigEndianIsRefusedInASentence) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  const Bytes swapped = With(whole, writer.fields()[1], 0x03000000);
  ExpectError(swapped, {"big-endian"}, "version 3 the other way round");
}

TEST(GgufMalformedTest, TruthValuesAreZeroOrOne) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  for (const Field& field : writer.fields()) {
    if (field.kind != Kind::kValue || (field.name != "key.bool" && field.name != "key.bools")) continue;
    ExpectError(With(whole, field, 2), {NameOf(field)}, field.name);
    ExpectError(With(whole, field, 255), {NameOf(field)}, field.name);
  }
}

TEST(GgufMalformedTest, AlignmentIsAPowerOfTwoWithinReason) {
  for (const uint32_t alignment : {0u, 3u, 33u, 48u, 0x80000000u, 0xffffffffu}) {
    GgufWriter writer;
    writer.U32("general.alignment", alignment);
    ExpectError(writer.Build(), {"\"general.alignment\""}, std::to_string(alignment));
  }
  GgufWriter text;
  text.String("general.alignment", "32");
  ExpectError(text.Build(), {"\"general.alignment\""}, "a string");
}

TEST(GgufMalformedTest, NamesAreUniqueAndNotEmpty) {
  GgufWriter keys;
  keys.U32("same.key", 1).F32("other", 2).U32("same.key", 1);
  ExpectError(keys.Build(), {"\"same.key\""}, "a key twice");
  GgufWriter tensors;
  tensors.Tensor("same.tensor", {1}, TensorType::kF32, std::vector<uint8_t>(4));
  tensors.Tensor("same.tensor", {1}, TensorType::kF32, std::vector<uint8_t>(4));
  ExpectError(tensors.Build(), {"\"same.tensor\""}, "a tensor twice");
  GgufWriter no_key;
  no_key.U32("", 1);
  ExpectError(no_key.Build(), {"key of metadata entry 0"}, "an empty key");
  GgufWriter no_name;
  no_name.Tensor("", {1}, TensorType::kF32, std::vector<uint8_t>(4));
  ExpectError(no_name.Build(), {"name of tensor 0"}, "an empty tensor name");
  GgufWriter long_key;
  long_key.U32(std::string(65536, 'k'), 1);
  ExpectError(long_key.Build(), {"key of metadata entry 0"}, "a long key");
  GgufWriter long_name;
  long_name.Tensor(std::string(1025, 't'), {1}, TensorType::kF32, std::vector<uint8_t>(4));
  ExpectError(long_name.Build(), {"name of tensor 0"}, "a long tensor name");
}

TEST(GgufMalformedTest, RowsAreWholeBlocks) {
  for (const FormatInfo& format : AllFormats()) {
    if (format.block_elements == 1) continue;
    GgufWriter writer;
    writer.Tensor("some.tensor", {static_cast<uint64_t>(format.block_elements) / 2, 2}, format.type,
                  std::vector<uint8_t>(static_cast<size_t>(format.block_bytes)));
    ExpectError(writer.Build(), {"\"some.tensor\""}, std::string(format.name));
  }
}

TEST(GgufMalformedTest, UnknownTensorTypesAreUnsupportedByNumber) {
  GgufWriter writer;
  writer.Tensor("some.tensor", {256}, static_cast<TensorType>(16), std::vector<uint8_t>(66));
  const auto file = ParseExactly(writer.Build());
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(file.error().message.find("\"some.tensor\""), std::string::npos);
  EXPECT_NE(file.error().message.find("16"), std::string::npos);
}

TEST(GgufMalformedTest, TensorsShareNoBytes) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  std::vector<Field> offsets;
  for (const Field& field : writer.fields()) {
    if (field.kind == Kind::kOffset) offsets.push_back(field);
  }
  ASSERT_EQ(offsets.size(), 4u);
  for (const Field& field : offsets) {
    for (const Field& other : offsets) {
      if (field.at == other.at) continue;
      uint64_t offset;
      std::memcpy(&offset, whole.data() + other.at, sizeof(offset));
      ExpectError(With(whole, field, offset), {"overlaps", "past the end"}, field.name + " on " + other.name);
    }
  }
}

TEST(GgufMalformedTest, ShapesThatOverflowAreNotCounted) {
  const uint64_t big = uint64_t{1} << 32;
  for (const std::vector<uint64_t>& shape :
       std::vector<std::vector<uint64_t>>{{big, big},
                                          {1 << 21, 1 << 21, 1 << 21, 2},
                                          {kMost},
                                          {32, kMost / 2},
                                          {uint64_t{1} << 62, 1},
                                          {uint64_t{1} << 31, uint64_t{1} << 31}}) {
    GgufWriter writer;
    writer.Tensor("some.tensor", shape, TensorType::kF32, std::vector<uint8_t>(64));
    ExpectError(writer.Build(), {"\"some.tensor\""}, "a shape of " + std::to_string(shape.size()));
  }
}

// A length that cannot be is refused before anything is allocated for it.
TEST(GgufMalformedTest, ArrayLengthsAreCheckedAgainstWhatFollows) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  for (const Field& field : writer.fields()) {
    if (field.kind != Kind::kCount || !field.in_array) continue;
    ExpectError(With(whole, field, whole.size()), {"length of the array of key \"" + field.name + "\""},
                field.name);
  }
}

// Arrays may not make us allocate far more than a model's vocabulary, even where the file has the bytes for
// it.
TEST(GgufMalformedTest, ArraysTogetherAreBounded) {
  GgufWriter writer;
  const std::vector<uint8_t> many(9u << 20, 1);
  writer.Array<uint8_t>("first.array", many).Array<uint8_t>("second.array", many);
  const auto file = GgufFile::Parse(writer.Build());
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("\"second.array\""), std::string::npos) << file.error().message;
}

// Any single byte of the tables changed to anything: never a crash, and an error never lacks its sentence.
TEST(GgufMalformedTest, NoByteCrashes) {
  GgufWriter writer = Sample();
  const Bytes whole = writer.Build();
  const size_t tables = writer.fields().back().at;
  for (size_t i = 0; i < tables; ++i) {
    for (const uint8_t value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
      Bytes bytes = whole;
      bytes[i] = std::byte{value};
      const auto file = ParseExactly(bytes);
      if (!file) {
        ASSERT_GT(file.error().message.size(), 20u) << i;
      }
    }
  }
}

}  // namespace
}  // namespace larder
