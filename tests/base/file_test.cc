#include "base/file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

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
