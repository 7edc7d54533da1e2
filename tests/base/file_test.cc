#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <random>

#include "base/file_writer.h"
#include "base/memory.h"

namespace larder {
namespace {

class File : public testing::Test {
 protected:
  File() : directory_(testing::TempDir() + "larder-file-" + std::to_string(getpid())) {
    std::filesystem::create_directory(directory_);
  }
  ~File() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }
  void Write(const std::string& name, const std::string& content) { std::ofstream(Path(name)) << content; }
  std::string directory_;
};

TEST_F(File, MapsWhatIsThere) {
  Write("a", std::string("x\0y", 3));
  const auto file = MappedFile::Open(Path("a"));
  ASSERT_TRUE(file);
  ASSERT_EQ((*file)->bytes().size(), 3u);
  EXPECT_EQ((*file)->bytes()[2], std::byte{'y'});
  EXPECT_EQ((*file)->path(), Path("a"));
}

// Touches everything, which is what brings pages.
uint64_t SumOf(std::span<const std::byte> bytes) {
  uint64_t sum = 0;
  for (size_t i = 0; i < bytes.size(); ++i) sum += static_cast<uint64_t>(bytes[i]) * (i + 1);
  return sum;
}

TEST_F(File, SmallPagesOfTheSystemsCacheBecomeLargeOnes) {
  constexpr size_t kSize = 4 * kLargePageBytes + 4096, kWords = kSize / sizeof(uint64_t);
  std::vector<uint64_t> content(kWords);
  std::mt19937_64 random(7);
  for (uint64_t& word : content) word = random();
  const auto bytes = std::as_bytes(std::span(content));
  for (const auto& [name, piece] : {std::pair("large", kLargePageBytes), std::pair("small", size_t{4096})}) {
    auto file = FileWriter::Create(Path(name));
    ASSERT_TRUE(file);
    for (size_t at = 0; at < kSize; at += piece)
      ASSERT_TRUE((*file)->Write(bytes.subspan(at, std::min(piece, kSize - at))));
    ASSERT_TRUE((*file)->Commit());
  }
  const auto large = MappedFile::Open(Path("large")), small = MappedFile::Open(Path("small"));
  ASSERT_TRUE(large && small);
  for (const auto* file : {&large, &small}) {
    (**file)->PreferLargePages();
    EXPECT_EQ(SumOf((**file)->bytes()), SumOf(bytes));
    EXPECT_LE((**file)->LargePageBytes(), kSize);
  }
  if ((*large)->LargePageBytes() == 0) GTEST_SKIP() << "the file system has no large pages";
  EXPECT_EQ((*small)->LargePageBytes(), (*large)->LargePageBytes());
}

TEST_F(File, MapsAnEmptyFile) {
  Write("empty", "");
  const auto file = MappedFile::Open(Path("empty"));
  ASSERT_TRUE(file);
  EXPECT_TRUE((*file)->bytes().empty());
}

TEST_F(File, AbsentFilesAndDirectoriesAreNamed) {
  const auto absent = MappedFile::Open(Path("none"));
  ASSERT_FALSE(absent);
  EXPECT_EQ(absent.error().kind, ErrorKind::kNotFound);
  EXPECT_NE(absent.error().message.find(Path("none")), std::string::npos);
  EXPECT_FALSE(MappedFile::Open(directory_));
  EXPECT_EQ(ReadFile(Path("none")).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(ReadFile(directory_).error().kind, ErrorKind::kInvalid);
}

TEST_F(File, ReadRefusesMoreThanItWasToldTo) {
  Write("ten", "0123456789");
  EXPECT_EQ(ReadFile(Path("ten"), 10).value(), "0123456789");
  EXPECT_EQ(ReadFile(Path("ten"), 9).error().kind, ErrorKind::kInvalid);
}

TEST_F(File, AtomicWriteReplacesAndLeavesNothingBehind) {
  ASSERT_TRUE(WriteFileAtomically(Path("out"), "first"));
  ASSERT_TRUE(WriteFileAtomically(Path("out"), std::string(100000, 'z')));
  EXPECT_EQ(ReadFile(Path("out")).value(), std::string(100000, 'z'));
  size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_)) ++files;
  EXPECT_EQ(files, 1u);
  EXPECT_EQ(std::filesystem::status(Path("out")).permissions() & std::filesystem::perms::mask,
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write)
      << "for nobody else";
}

TEST_F(File, FailedAtomicWriteKeepsTheOldContentAndCleansUp) {
  std::filesystem::create_directory(Path("target"));  // a file cannot be renamed over a directory
  ASSERT_FALSE(WriteFileAtomically(Path("target"), "new"));
  EXPECT_TRUE(std::filesystem::is_directory(Path("target")));
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_)) ++entries;
  EXPECT_EQ(entries, 1u) << "the temporary file is gone";
  EXPECT_FALSE(WriteFileAtomically(Path("no/such/folder"), "x"));
}

}  // namespace
}  // namespace larder
