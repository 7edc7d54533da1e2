#include "store/sealer.h"

#include <thread>

#include "base/file.h"
#include "store/keyring_file.h"
#include "tests/store/store_fixture.h"

namespace larder {
namespace {

class SealerTest : public testing::Test {
 protected:
  SealerTest()
      : folder_("sealer"), ring_(folder_ / "ring"), key_(folder_.Write("key", std::string(32, 'k'))) {}
  ErrorKind OpenError(const std::string& key) const {
    const auto ring = Keyring::Open(ring_, key);
    EXPECT_FALSE(ring);
    EXPECT_FALSE(ring.error().message.empty());
    return ring ? ErrorKind::kIo : ring.error().kind;
  }

  TemporaryFolder folder_;
  const std::string ring_, key_;
};

TEST_F(SealerTest, IdsAndKeysOutliveTheProcess) {
  SpaceId a, b;
  std::vector<std::byte> text(100, std::byte{5}), sealed(100);
  std::array<uint8_t, 12> nonce;
  std::array<uint8_t, 16> tag;
  {
    const auto ring = Keyring::Open(ring_, key_).value();
    a = ring->SpaceOf("a").value();
    b = ring->SpaceOf("").value();
    EXPECT_NE(a, b);
    EXPECT_EQ(ring->SpaceOf("a").value(), a);
    ASSERT_TRUE(ring->sealer()->Seal(a, {}, text, sealed, nonce, tag));
    EXPECT_NE(sealed, text);
  }
  const auto ring = Keyring::Open(ring_, key_).value();
  EXPECT_EQ(ring->SpaceOf("a").value(), a);
  EXPECT_EQ(ring->SpaceOf("").value(), b);
  auto opened = sealed;
  EXPECT_EQ(ring->sealer()->Open(b, {}, nonce, tag, opened).error().kind, ErrorKind::kCorrupt);
  opened = sealed;
  EXPECT_EQ(ring->sealer()->Open(a, text, nonce, tag, opened).error().kind, ErrorKind::kCorrupt);
  opened = sealed;
  ASSERT_TRUE(ring->sealer()->Open(a, {}, nonce, tag, opened));
  EXPECT_EQ(opened, text);
}

TEST_F(SealerTest, NoncesAreFresh) {
  const auto ring = Keyring::Open(ring_, key_).value();
  const SpaceId a = ring->SpaceOf("a").value();
  std::array<uint8_t, 12> first, second;
  std::array<uint8_t, 16> tag;
  ASSERT_TRUE(ring->sealer()->Seal(a, {}, {}, {}, first, tag));
  ASSERT_TRUE(ring->sealer()->Seal(a, {}, {}, {}, second, tag));
  EXPECT_NE(first, second);
}

TEST_F(SealerTest, WithoutAKeyThereAreIdsOnly) {
  const auto ring = Keyring::Open(ring_, "").value();
  EXPECT_EQ(ring->sealer(), nullptr);
  const SpaceId a = ring->SpaceOf("a").value();
  EXPECT_EQ(Keyring::Open(ring_, "").value()->SpaceOf("a").value(), a);
  EXPECT_EQ(OpenError(key_), ErrorKind::kInvalid);
}

TEST_F(SealerTest, ForgettingIsDurable) {
  SpaceId a;
  {
    const auto ring = Keyring::Open(ring_, key_).value();
    a = ring->SpaceOf("a").value();
    EXPECT_EQ(ring->Forget("a").value(), a);
    EXPECT_EQ(ring->Forget("b").error().kind, ErrorKind::kNotFound);
    std::array<uint8_t, 12> nonce;
    std::array<uint8_t, 16> tag;
    EXPECT_EQ(ring->sealer()->Seal(a, {}, {}, {}, nonce, tag).error().kind, ErrorKind::kNotFound);
  }
  const auto ring = Keyring::Open(ring_, key_).value();
  const SpaceId next = ring->SpaceOf("a").value();
  EXPECT_NE(next, a);
  EXPECT_EQ(ring->Forget("a").value(), next) << "again and again";
  const CipherKey master = ReadKeyFile(key_).value();
  const SpaceKey entry = ParseKeyring(ReadFile(ring_).value(), &master, Cipher()).value().at("a");
  EXPECT_EQ(entry.generation, 2u);
  EXPECT_TRUE(entry.untold) << "a Redis may join later";
}

TEST_F(SealerTest, AnotherStoreKeyIsRefused) {
  ASSERT_TRUE(Keyring::Open(ring_, key_));  // an empty ring is told apart too
  EXPECT_EQ(OpenError(folder_.Write("other", std::string(32, 'o'))), ErrorKind::kCorrupt);
  EXPECT_EQ(OpenError(""), ErrorKind::kInvalid);
  EXPECT_TRUE(Keyring::Open(ring_, key_)) << "a failed attempt changes nothing";
}

TEST_F(SealerTest, KeyFilesOfOtherSizesAreRefused) {
  for (const size_t bytes : {0, 1, 31, 33, 63, 65, 4096, 4097})
    EXPECT_EQ(OpenError(folder_.Write("bad", std::string(bytes, 'a'))), ErrorKind::kInvalid) << bytes;
  EXPECT_EQ(OpenError(folder_.Write("bad", std::string(63, 'a') + "g")), ErrorKind::kInvalid);
  EXPECT_EQ(OpenError(folder_ / "absent"), ErrorKind::kNotFound);
  EXPECT_FALSE(std::filesystem::exists(ring_));
}

TEST_F(SealerTest, AKeyInDigitsIsTheSameKey) {
  const SpaceId a = Keyring::Open(ring_, key_).value()->SpaceOf("a").value();
  std::string digits = " ";
  for (int i = 0; i < 32; ++i) digits += i % 2 == 0 ? "6B" : "6b\n";
  EXPECT_EQ(Keyring::Open(ring_, folder_.Write("digits", digits)).value()->SpaceOf("a").value(), a);
}

TEST_F(SealerTest, EveryFlippedBitOfARingIsFound) {
  ASSERT_TRUE(Keyring::Open(ring_, key_).value()->SpaceOf("a"));
  const std::string good = ReadFile(ring_).value();
  const CipherKey master = ReadKeyFile(key_).value();
  const Cipher cipher;
  ASSERT_TRUE(ParseKeyring(good, &master, cipher));
  for (size_t bit = 0; bit < good.size() * 8; ++bit) {
    std::string bad = good;
    bad[bit / 8] = static_cast<char>(bad[bit / 8] ^ 1 << bit % 8);
    EXPECT_FALSE(ParseKeyring(bad, &master, cipher)) << "bit " << bit;
  }
  for (size_t length = 0; length < good.size(); ++length)
    EXPECT_EQ(ParseKeyring(good.substr(0, length), &master, cipher).error().kind, ErrorKind::kCorrupt);
  folder_.Write("ring", good.substr(1));
  EXPECT_EQ(OpenError(key_), ErrorKind::kCorrupt);
}

// Who can write the file can make its checksum; entries must hold by their seal.
TEST_F(SealerTest, AnEntryCannotBeDropped) {
  ASSERT_TRUE(Keyring::Open(ring_, key_).value()->SpaceOf("a"));
  const std::string good = ReadFile(ring_).value();
  std::string forged = good.substr(0, 16) + std::string(4, '\0') + good.substr(20 + 4 + 1 + 20 + 60);
  forged.resize(forged.size() - 8);
  const uint64_t checksum = Checksum64(std::as_bytes(std::span(forged.data(), forged.size())));
  for (int i = 0; i < 8; ++i) forged += static_cast<char>(checksum >> (8 * i));
  folder_.Write("ring", forged);
  EXPECT_EQ(OpenError(key_), ErrorKind::kCorrupt);
}

TEST_F(SealerTest, TwoServersShareARing) {
  const auto one = Keyring::Open(ring_, key_).value(), two = Keyring::Open(ring_, key_).value();
  const SpaceId a = one->SpaceOf("a").value(), b = two->SpaceOf("b").value();
  EXPECT_EQ(two->SpaceOf("a").value(), a);
  EXPECT_EQ(one->SpaceOf("b").value(), b);
}

TEST_F(SealerTest, ThreadsAgreeOnIds) {
  const auto ring = Keyring::Open(ring_, key_).value();
  std::vector<SpaceId> ids(4);
  std::vector<std::thread> threads;
  for (auto& id : ids) threads.emplace_back([&] { id = ring->SpaceOf("a").value(); });
  for (auto& thread : threads) thread.join();
  for (const auto& id : ids) EXPECT_EQ(id, ids[0]);
}

TEST_F(SealerTest, AFailedWriteIsReportedAndChangesNothing) {
  const auto ring = Keyring::Open(ring_, key_).value();
  const SpaceId a = ring->SpaceOf("a").value();
  std::filesystem::rename(folder_.path(), folder_.path() + ".away");
  EXPECT_FALSE(ring->SpaceOf("b"));
  EXPECT_FALSE(ring->Forget("a"));
  EXPECT_EQ(ring->SpaceOf("a").value(), a);
  std::filesystem::rename(folder_.path() + ".away", folder_.path());
  EXPECT_TRUE(ring->SpaceOf("b"));
}

TEST_F(SealerTest, MarksOfTheForgottenAreKeptAndCostNothingOtherwise) {
  const CipherKey master = ReadKeyFile(key_).value();
  SpaceKeys keys{{"a", {.id = {1}, .generation = 3}}, {"b", {.id = {2}, .generation = 1}}};
  for (const CipherKey* key : {static_cast<const CipherKey*>(nullptr), &master}) {
    const std::string plain = FormatKeyring(keys, key, Cipher()).value();
    keys.at("b").untold = true;
    const std::string marked = FormatKeyring(keys, key, Cipher()).value();
    EXPECT_EQ(marked.size(), plain.size() + keys.size());
    EXPECT_EQ(ParseKeyring(marked, key, Cipher()).value(), keys);
    keys.at("b").untold = false;
    EXPECT_EQ(ParseKeyring(plain, key, Cipher()).value(), keys);
  }
}

TEST_F(SealerTest, NamesAreBounded) {
  const auto ring = Keyring::Open(ring_, key_).value();
  EXPECT_TRUE(ring->SpaceOf(std::string(1024, 'a')));
  EXPECT_EQ(ring->SpaceOf(std::string(1025, 'a')).error().kind, ErrorKind::kInvalid);
}

}  // namespace
}  // namespace larder
