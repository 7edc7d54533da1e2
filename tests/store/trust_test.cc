#include "store/trust.h"

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace larder
