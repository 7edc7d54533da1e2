#include "base/hash.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

namespace larder {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST(Hash, Sha256IsTheStandardOne) {
  // FIPS 180-4 examples.
  EXPECT_EQ(Sha256(Bytes("abc")).Hex(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(Sha256({}).Hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(Sha256(Bytes("abc")).ShortHex(), "ba7816bf8f01cfea");
}

TEST(Hash, FieldHashIsTheDocumentedByteString) {
  // (tag length, tag, value length, value), lengths as 8 bytes little endian.
  const std::string one("\x02\0\0\0\0\0\0\0id\x03\0\0\0\0\0\0\0xyz", 21);
  EXPECT_EQ(FieldHasher().Add("id", std::string_view("xyz")).Finish(), Sha256(Bytes(one)));
  const std::string number("\x01\0\0\0\0\0\0\0n\x08\0\0\0\0\0\0\0\x04\x03\x02\x01\0\0\0\0", 25);
  EXPECT_EQ(FieldHasher().Add("n", uint64_t{0x01020304}).Finish(), Sha256(Bytes(number)));
}

TEST(Hash, FieldsNeverCollideByConcatenation) {
  const auto digest = [](std::vector<std::pair<std::string, std::string>> fields) {
    FieldHasher hasher;
    for (const auto& [tag, value] : fields) hasher.Add(tag, std::string_view(value));
    return hasher.Finish().Hex();
  };
  const std::set<std::string> distinct = {
      digest({}),
      digest({{"a", "bc"}}),
      digest({{"ab", "c"}}),
      digest({{"abc", ""}}),
      digest({{"", "abc"}}),
      digest({{"a", "b"}, {"c", ""}}),
      digest({{"a", ""}, {"b", "c"}}),
      digest({{"b", "c"}, {"a", ""}}),
      digest({{"a", "bc"}, {"", ""}}),
      digest({{"a", std::string("bc\0", 3)}}),
  };
  EXPECT_EQ(distinct.size(), 10u);
}

TEST(Hash, TokensAreHashedByValueAndCount) {
  const std::vector<int32_t> a = {1, 2}, b = {1, 2, 0}, c = {2, 1};
  const auto digest = [](const std::vector<int32_t>& t) {
    return FieldHasher().Add("tokens", std::span<const int32_t>(t)).Finish();
  };
  EXPECT_EQ(digest(a), digest({1, 2}));
  EXPECT_NE(digest(a), digest(b));
  EXPECT_NE(digest(a), digest(c));
}

TEST(Hash, DigestFieldsAreTheirBytes) {
  const Digest inner = Sha256(Bytes("abc"));
  const std::string raw(reinterpret_cast<const char*>(inner.bytes.data()), inner.bytes.size());
  EXPECT_EQ(FieldHasher().Add("parent", inner).Finish(),
            FieldHasher().Add("parent", std::string_view(raw)).Finish());
}

TEST(Hash, ChecksumSeesEveryByte) {
  std::string text(1000, 'x');
  const uint64_t before = Checksum64(Bytes(text));
  EXPECT_EQ(Checksum64({}), 0x2d06800538d394c2u);  // published test vector of XXH3 for no input
  for (size_t i = 0; i < text.size(); i += 37) {
    std::string changed = text;
    changed[i] ^= 1;
    EXPECT_NE(Checksum64(Bytes(changed)), before) << i;
  }
}

}  // namespace
}  // namespace larder
