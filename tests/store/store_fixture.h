// What the store's tests share: a temporary folder, keyrings, records made of numbers.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "base/hash.h"
#include "store/sealer.h"
#include "store/tier.h"

namespace larder {

class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::string& label) {
    std::string path = ::testing::TempDir() + "larder-" + label + "-XXXXXX";
    if (mkdtemp(path.data()) == nullptr) std::abort();
    path_ = path;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(*this / name, std::ios::binary) << content;
    return *this / name;
  }

 private:
  std::string path_;
};

inline Digest TestName(uint64_t number) { return FieldHasher().Add("test", number).Finish(); }

// A record whose bytes follow from its number, so that what comes back can be checked.
struct TestRecord {
  RecordHeader header;
  std::vector<std::vector<std::byte>> groups;

  RecordPayload payload() const {
    RecordPayload out;
    for (const auto& group : groups) out.groups.emplace_back(group);
    return out;
  }
};

inline TestRecord MakeTestRecord(uint64_t number, const std::vector<size_t>& group_bytes,
                                 const SpaceId& space = {}, const Digest& parent = {}) {
  TestRecord record;
  record.header.name = TestName(number);
  record.header.parent = parent;
  record.header.space = space;
  record.header.kind = 7;
  record.header.metadata.assign(40 + number % 50, static_cast<std::byte>(number));
  uint64_t state = number * 2 + 1;
  for (const size_t bytes : group_bytes) {
    auto& group = record.groups.emplace_back(bytes);
    for (std::byte& b : group) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      b = static_cast<std::byte>(state >> 56);
    }
    record.header.group_bytes.push_back(bytes);
  }
  return record;
}

}  // namespace larder
