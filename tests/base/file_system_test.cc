#include "base/file_system.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>

namespace larder {
namespace {

class Files : public testing::Test {
 protected:
  Files() : directory_(testing::TempDir() + "larder-files-" + std::to_string(getpid())) {
    std::filesystem::create_directory(directory_);
  }
  ~Files() override { std::filesystem::remove_all(directory_); }
  std::string Path(const std::string& name) const { return directory_ + "/" + name; }

  std::string directory_;
  FileSystem* files_ = RealFileSystem();
};

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

TEST_F(Files, WritesReadsAndTruncates) {
  auto file = files_->Open(Path("a"), {.write = true, .create = true});
  ASSERT_TRUE(file);
  ASSERT_TRUE((*file)->Write(3, Bytes("larder")));
  ASSERT_TRUE((*file)->Sync());
  std::vector<std::byte> to(20);
  EXPECT_EQ((*file)->Read(3, to).value(), 6u);
  EXPECT_EQ(to[0], std::byte{'l'});
  EXPECT_EQ((*file)->Read(100, to).value(), 0u);
  ASSERT_TRUE((*file)->Truncate(5));
  EXPECT_EQ((*file)->Size().value(), 5u);
  EXPECT_EQ(files_->Open(Path("a"), {.write = true, .create = true}).error().kind, ErrorKind::kConflict);
  EXPECT_EQ(files_->Open(Path("b"), {}).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(ReadWhole(files_, Path("a"), 5)->size(), 5u);
  EXPECT_EQ(ReadWhole(files_, Path("a"), 4).error().kind, ErrorKind::kCorrupt);
}

TEST_F(Files, DirectOrNotTheBytesAreTheSame) {
  auto file = files_->Open(Path("a"), {.write = true, .create = true, .direct = true});
  ASSERT_TRUE(file) << file.error().message;
  auto* page = static_cast<std::byte*>(std::aligned_alloc(kDirectAlign, 2 * kDirectAlign));
  for (size_t i = 0; i < 2 * kDirectAlign; ++i) page[i] = static_cast<std::byte>(i / 7);
  ASSERT_TRUE((*file)->Write(kDirectAlign, {page, kDirectAlign}));
  const Status allocated = (*file)->Allocate(4 * kDirectAlign);
  EXPECT_TRUE(allocated || allocated.error().kind == ErrorKind::kUnsupported);
  EXPECT_EQ((*file)->Read(kDirectAlign, {page + kDirectAlign, kDirectAlign}).value(), kDirectAlign);
  EXPECT_TRUE(std::equal(page, page + kDirectAlign, page + kDirectAlign));
  std::free(page);
}

TEST_F(Files, NamesChange) {
  ASSERT_TRUE(files_->Open(Path("b"), {.write = true, .create = true}));
  ASSERT_TRUE(files_->Open(Path("a"), {.write = true, .create = true}));
  EXPECT_EQ(files_->List(directory_).value(), (std::vector<std::string>{"a", "b"}));
  ASSERT_TRUE(files_->Rename(Path("a"), Path("b")));
  ASSERT_TRUE(files_->SyncDirectory(directory_));
  EXPECT_EQ(files_->List(directory_).value(), (std::vector<std::string>{"b"}));
  ASSERT_TRUE(files_->Remove(Path("b")));
  EXPECT_EQ(files_->Remove(Path("b")).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(files_->List(Path("none")).error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(files_->MakeDirectory(Path("x/y/z")));
}

TEST_F(Files, ALockNamesItsHolder) {
  auto lock = files_->Lock(Path("LOCK"));
  ASSERT_TRUE(lock);
  const auto second = files_->Lock(Path("LOCK"));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::kConflict);
  EXPECT_NE(second.error().message.find(std::to_string(getpid())), std::string::npos);
  lock->reset();
  EXPECT_TRUE(files_->Lock(Path("LOCK")));
}

}  // namespace
}  // namespace larder
