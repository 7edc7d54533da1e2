#include "store/trust.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/store/store_fixture.h"

namespace larder {
namespace {

std::string All(const TrustedPlaces& places) {
  std::string out;
  for (const std::string& sentence : TrustSentences(places)) out += sentence + "\n";
  return out;
}
bool Says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

TEST(Trust, WithoutLowerTiersNothingIsSaid) {
  EXPECT_EQ(All({}), "");
  EXPECT_EQ(All({.store_key = true}), "");
}

TEST(Trust, WithoutAStoreKeyEveryPlaceIsNamed) {
  const std::string disk = All({.disk = "/var/larder"}), redis = All({.redis_url = "rediss://h"});
  EXPECT_TRUE(Says(disk, "/var/larder is trusted") && Says(disk, "imported archives are trusted"));
  EXPECT_FALSE(Says(disk, "Redis"));
  EXPECT_TRUE(Says(redis, "Redis server and everybody who can write to it are trusted"));
  EXPECT_TRUE(Says(redis, "imported archives are trusted"));
  EXPECT_TRUE(Says(disk, "--store-key") && Says(redis, "--store-key"));
}

TEST(Trust, WithAStoreKeyNobodyIsTrusted) {
  const std::string text = All({.disk = "/var/larder", .redis_url = "rediss://h", .store_key = true});
  EXPECT_TRUE(Says(text, "encrypted and verified"));
  EXPECT_FALSE(Says(text, "trusted"));
}

TEST(Trust, AConnectionInTheClearIsSaidWithoutThePassword) {
  const std::string text = All({.redis_url = "redis://me:secret@h", .store_key = true});
  EXPECT_TRUE(Says(text, "not encrypted"));
  EXPECT_FALSE(Says(text, "secret"));
  EXPECT_TRUE(Says(All({.redis_url = "rediss://h", .redis_tls_verify = false}), "not verified"));
  EXPECT_FALSE(Says(All({.redis_url = "rediss://h"}), "not verified"));
}

TEST(Trust, TheMasterKeyLiesOutsideTheDirectory) {
  const TemporaryFolder folder("trust");
  const std::string store = folder / "store";
  std::filesystem::create_directories(store + "/deep");
  const std::string outside = folder.Write("key", "k"), inside = folder.Write("store/deep/key", "k");
  std::filesystem::create_symlink(outside, store + "/link-out");
  std::filesystem::create_symlink(inside, folder / "link-in");
  std::filesystem::create_directory_symlink(store, folder / "store-too");
  const std::string beside = folder.Write("store-key", "k");  // begins like the directory
  for (const std::string& key : {std::string(), outside, beside, store + "/link-out", store + "/../key"})
    EXPECT_TRUE(CheckKeyIsOutside(key, store)) << key;
  EXPECT_TRUE(CheckKeyIsOutside(inside, ""));
  EXPECT_TRUE(CheckKeyIsOutside(inside, store + "/other")) << "not made yet";
  for (const std::string& key :
       {inside, folder / "link-in", folder / "store-too/deep/key", store + "/absent"}) {
    for (const std::string& directory : {store, store + "/", folder / "store-too", store + "/deep/.."}) {
      const Status refused = CheckKeyIsOutside(key, directory);
      ASSERT_FALSE(refused) << key << " in " << directory;
      EXPECT_EQ(refused.error().kind, ErrorKind::kInvalid);
      EXPECT_TRUE(Says(refused.error().message, key) && Says(refused.error().message, "move the key"));
    }
  }
}

}  // namespace
}  // namespace larder
