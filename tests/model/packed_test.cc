// Packed weights beside the model: the second start computes what the first did, and no file that is not
// exactly ours is ever believed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "base/file.h"
#include "compute/packed.h"
#include "model/packed_file.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kDataBegins = 2 << 20;

std::string Contents(const std::string& path) { return ReadFile(path).value(); }

Digest DigestOf(const std::string& path) {
  const std::string content = Contents(path);
  return Sha256(std::as_bytes(std::span(content)));
}

void Write(const std::string& path, const std::string& content) {
  std::ofstream(path, std::ios::binary) << content;
}

std::string Flipped(std::string content, size_t at) {
  content[at] = static_cast<char>(content[at] ^ 0x10);
  return content;
}

class Packed : public ::testing::Test {
 protected:
  Packed() : folder_(::testing::TempDir() + "larder-packed-" + std::to_string(getpid())) {
    fs::create_directories(folder_);
    fs::copy_file(testing::DataPath("models/tiny-llama-q4_1.gguf"), model_);
  }
  ~Packed() override { fs::remove_all(folder_); }

  // Beside the model, without waiting for it to settle.
  static PackedOptions Beside() { return {.folders = {""}, .least_bytes = 0, .settled_ms = 0}; }

  static std::unique_ptr<Model> Load(const std::string& path, PackedOptions packed,
                                     MathMode math = MathMode::kFast) {
    ModelOptions options;
    options.math = math;
    options.threads = 2;
    options.packed = std::move(packed);
    auto model = Model::Load(path, std::move(options));
    EXPECT_TRUE(model.has_value()) << model.error().message;
    return model.has_value() ? *std::move(model) : nullptr;
  }
  std::unique_ptr<Model> Load(PackedOptions packed = Beside()) const {
    return Load(model_, std::move(packed));
  }

  static std::vector<std::vector<float>> Logits(Model& model) {
    testing::ModelSession session(&model);
    auto run = session.Open({1, 5, 9, 2, 7}, false);
    session.Finish(run);
    auto logits = run.logits;
    session.Close(run);
    return logits;
  }

  // What PackedFile::Open says of this content.
  ErrorKind KindOf(const std::string& content) const {
    const std::string path = folder_ + "/probe";
    Write(path, content);
    ThreadPool pool(1);
    const auto source = MappedFile::Open(model_);
    const auto file = PackedFile::Open(path, **source, pool);
    EXPECT_FALSE(file.has_value());
    EXPECT_FALSE(PackedFile::Open(path, **source, pool, PackedPages::kLarge).has_value());
    return file.has_value() ? ErrorKind::kCancelled : file.error().kind;
  }

  size_t FilesInFolder() const {
    return static_cast<size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }

  const std::string folder_;
  const std::string model_ = folder_ + "/model.gguf", packed_ = model_ + ".packed";
};

TEST_F(Packed, SecondStartEqualsTheFirstInEveryArchitecture) {
  for (const auto& entry : fs::directory_iterator(testing::DataPath("models"))) {
    SCOPED_TRACE(entry.path().filename().string());
    fs::copy_file(entry.path(), model_, fs::copy_options::overwrite_existing);
    fs::remove(packed_);
    const auto plain = Load({}), first = Load(), second = Load();
    EXPECT_EQ(plain->packed_path(), "");
    EXPECT_EQ(first->packed_path(), packed_);
    EXPECT_EQ(second->packed_path(), packed_);
    EXPECT_EQ(second->weights_digest(), DigestOf(model_));
    EXPECT_EQ(second->weight_bytes(), plain->weight_bytes());
    const auto expected = Logits(*plain);
    EXPECT_EQ(Logits(*first), expected);
    EXPECT_EQ(Logits(*second), expected);
  }
}

// Of the file of packed weights, shared with whoever else maps it.
size_t SharedMappings(const std::string& path) {
  std::ifstream maps("/proc/self/maps");
  size_t shared = 0;
  for (std::string line; std::getline(maps, line);)
    shared += line.find(path) != std::string::npos && line.find(" r--s ") != std::string::npos;
  return shared;
}

TEST_F(Packed, MappedWeightsAreSharedMemoryOfTheFile) {
  Load();
  const auto model = Load();
  EXPECT_EQ(SharedMappings(packed_), 1u);
}

TEST_F(Packed, ACopyInLargePagesComputesTheSame) {
  const auto expected = Logits(*Load());
  PackedOptions options = Beside();
  options.pages = PackedPages::kLarge;
  const auto model = Load(options);
  EXPECT_EQ(model->packed_path(), packed_);
  EXPECT_EQ(SharedMappings(packed_), 0u);
  EXPECT_EQ(Logits(*model), expected);
}

TEST_F(Packed, EveryFlippedByteIsFound) {
  Load();
  const std::string good = Contents(packed_);
  uint64_t head_bytes;
  std::memcpy(&head_bytes, good.data() + 16, sizeof head_bytes);
  ASSERT_LT(head_bytes, kDataBegins);
  for (size_t at = 0; at < head_bytes; at += 3) KindOf(Flipped(good, at));
  std::mt19937 random(1);
  for (int i = 0; i < 50; ++i) {
    const size_t at = kDataBegins + random() % (good.size() - kDataBegins);
    EXPECT_EQ(KindOf(Flipped(good, at)), ErrorKind::kCorrupt) << at;
  }
  for (const size_t size :
       {size_t{0}, size_t{7}, size_t{100}, static_cast<size_t>(head_bytes), good.size() - 1})
    EXPECT_EQ(KindOf(good.substr(0, size)), ErrorKind::kCorrupt) << size;
  EXPECT_EQ(KindOf(good + 'x'), ErrorKind::kCorrupt);
}

TEST_F(Packed, AHeadThatLiesWithARightChecksumIsRefused) {
  Load();
  const std::string good = Contents(packed_);
  uint64_t head_bytes;
  std::memcpy(&head_bytes, good.data() + 16, sizeof head_bytes);
  const auto with = [&](size_t at, auto value) {
    std::string content = good;
    std::memcpy(content.data() + at, &value, sizeof value);
    const uint64_t checksum = Checksum64(std::as_bytes(std::span(content)).first(head_bytes - 8));
    std::memcpy(content.data() + head_bytes - 8, &checksum, sizeof checksum);
    return content;
  };
  ASSERT_EQ(with(8, uint32_t{1}), good);
  EXPECT_EQ(KindOf(with(8, uint32_t{2})), ErrorKind::kUnsupported);         // version
  EXPECT_EQ(KindOf(with(12, kPackedLayout + 1)), ErrorKind::kUnsupported);  // layout
  EXPECT_EQ(KindOf(with(64, uint64_t{1})), ErrorKind::kUnsupported);        // size of the source
  EXPECT_EQ(KindOf(with(96, uint32_t{1} << 31)), ErrorKind::kCorrupt);      // number of matrices
  EXPECT_EQ(KindOf(with(24, ~uint64_t{0})), ErrorKind::kCorrupt);           // bytes of data
  EXPECT_EQ(KindOf(with(104, uint64_t{64} << 40)), ErrorKind::kCorrupt);    // offset of the first matrix
  EXPECT_EQ(KindOf(with(104, uint64_t{1})), ErrorKind::kCorrupt);           // not aligned
  EXPECT_EQ(KindOf(with(104 + 8, ~uint64_t{0})), ErrorKind::kCorrupt);      // its bytes
  EXPECT_EQ(KindOf(with(104 + 44, uint32_t{2})), ErrorKind::kCorrupt);      // its flags
  // Shapes are compared when a matrix is asked for.
  const auto plain = Load({});
  for (const size_t field : {16, 24, 32}) {  // outputs, inputs, order of rows
    Write(packed_, with(104 + field, uint64_t{48}));
    const auto model = Load();
    EXPECT_EQ(Logits(*model), Logits(*plain));
    EXPECT_EQ(Contents(packed_), good);
  }
}

TEST_F(Packed, WhatIsNoGoodIsWrittenAgain) {
  const auto expected = Logits(*Load());
  const std::string good = Contents(packed_);
  for (const std::string& bad : {std::string(), std::string("something else"), Flipped(good, 12),
                                 Flipped(good, good.size() - 1), good.substr(0, good.size() / 2)}) {
    Write(packed_, bad);
    const auto model = Load();
    EXPECT_EQ(model->packed_path(), packed_);
    EXPECT_EQ(Logits(*model), expected);
    EXPECT_EQ(Contents(packed_), good);
  }
  EXPECT_EQ(FilesInFolder(), 2u);
}

TEST_F(Packed, AChangedModelIsPackedAnewAlsoWhenItsTimeWasSetBack) {
  const auto expected = Logits(*Load());
  struct stat before{};
  ASSERT_EQ(stat(model_.c_str(), &before), 0);
  const std::string content = Contents(model_);
  Write(model_, Flipped(content, content.size() - 9));
  const timespec times[] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(utimensat(AT_FDCWD, model_.c_str(), times, 0), 0);
  const auto changed = Load();
  EXPECT_EQ(changed->weights_digest(), DigestOf(model_));
  EXPECT_NE(Logits(*changed), expected);
  EXPECT_EQ(Logits(*Load()), Logits(*changed));
}

TEST_F(Packed, TheFirstFolderThatCanBeWrittenIsTaken) {
  const std::string other = folder_ + "/cache/packed";
  PackedOptions options = Beside();
  options.folders = {model_ + "/no-folder", other};
  const auto first = Load(options);
  ASSERT_TRUE(first->packed_path().starts_with(other));
  EXPECT_EQ(Load(options)->packed_path(), first->packed_path());
  // Another model of the same name has a file of its own there.
  fs::create_directory(folder_ + "/b");
  fs::copy_file(model_, folder_ + "/b/model.gguf");
  EXPECT_NE(Load(folder_ + "/b/model.gguf", options)->packed_path(), first->packed_path());
}

TEST_F(Packed, WhereNothingCanBeWrittenTheModelLoadsAllTheSame) {
  PackedOptions options = Beside();
  options.folders = {model_ + "/no-folder"};
  const auto model = Load(options);
  EXPECT_EQ(model->packed_path(), "");
  EXPECT_EQ(Logits(*model), Logits(*Load({})));
}

TEST_F(Packed, AFullDiskLeavesNothingBehind) {
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{kDataBegins + 100, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const auto model = Load();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(model->packed_path(), "");
  EXPECT_EQ(FilesInFolder(), 1u);
}

TEST_F(Packed, ManyStartsAtOnceEndWithOneGoodFile) {
  const auto expected = Logits(*Load({}));
  std::vector<pid_t> children;
  for (int i = 0; i < 3; ++i) {
    const pid_t pid = fork();
    if (pid == 0) _exit(Logits(*Load()) == expected ? 0 : 1);
    children.push_back(pid);
  }
  std::vector<std::jthread> threads;
  for (int i = 0; i < 3; ++i) threads.emplace_back([&] { EXPECT_EQ(Logits(*Load()), expected); });
  threads.clear();
  for (const pid_t child : children) {
    int status = 1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
  }
  EXPECT_EQ(Load()->packed_path(), packed_);
  EXPECT_EQ(FilesInFolder(), 2u);
}

TEST_F(Packed, AFileOfAnotherUserIsNotBelieved) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can give a file away";
  Load();
  ASSERT_EQ(chown(packed_.c_str(), 12345, 12345), 0);
  EXPECT_EQ(KindOf(""), ErrorKind::kCorrupt);
  ThreadPool pool(1);
  const auto source = MappedFile::Open(model_);
  const auto foreign = PackedFile::Open(packed_, **source, pool);
  ASSERT_FALSE(foreign.has_value());
  EXPECT_EQ(foreign.error().kind, ErrorKind::kUnsupported);
}

TEST_F(Packed, NothingIsKeptOfSmallFreshOrFloatModels) {
  PackedOptions fresh = Beside();
  fresh.settled_ms = 60'000;
  PackedOptions small = Beside();
  small.least_bytes = 1 << 20;
  EXPECT_EQ(Load(fresh)->packed_path(), "");
  EXPECT_EQ(Load(small)->packed_path(), "");
  EXPECT_EQ(Load(PackedOptions{})->packed_path(), "");
  EXPECT_EQ(Load(model_, Beside(), MathMode::kF32)->packed_path(), "");
  EXPECT_EQ(FilesInFolder(), 1u);
}

}  // namespace
}  // namespace larder
