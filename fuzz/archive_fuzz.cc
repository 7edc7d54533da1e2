// Any bytes as an archive of records, as they are and with the checksums of its header, marks and heads put
// right. Reading must end, and what it gives must lie within the file.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "base/hash.h"
#include "store/archive.h"

namespace {

using larder::ErrorKind;
using larder::Result;
using larder::Status;

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

class MemoryFile final : public larder::File {
 public:
  explicit MemoryFile(std::span<const std::byte> bytes) : bytes_(bytes) {}
  Result<size_t> Read(uint64_t offset, std::span<std::byte> to) override {
    if (offset >= bytes_.size()) return 0;
    const size_t count = std::min(to.size(), bytes_.size() - offset);
    std::copy_n(bytes_.begin() + static_cast<ptrdiff_t>(offset), count, to.begin());
    return count;
  }
  Status Write(uint64_t, std::span<const std::byte>) override { return ReadOnly(); }
  Status Sync() override { return ReadOnly(); }
  Result<uint64_t> Size() override { return bytes_.size(); }
  Status Truncate(uint64_t) override { return ReadOnly(); }
  Status Allocate(uint64_t) override { return ReadOnly(); }
  bool direct() const override { return false; }

 private:
  static Status ReadOnly() { return larder::Fail(ErrorKind::kIo, "read only"); }
  std::span<const std::byte> bytes_;
};

void Read(std::span<const std::byte> bytes) {
  const auto reader = larder::ArchiveReader::Open(std::make_unique<MemoryFile>(bytes), nullptr);
  if (!reader) return Require(!reader.error().message.empty());
  uint64_t at = 64, number = 0, payload = 0;
  for (;;) {
    const auto item = (*reader)->Next();
    if (!item) return Require(!item.error().message.empty());
    if (!*item) return Require(at + 64 == bytes.size());
    const larder::ArchiveItem& found = **item;
    Require(found.offset == at && found.next >= at && found.next <= bytes.size());
    Require(found.first == number && found.end >= number);
    Require(found.next > at || found.end > number);
    at = found.next;
    number = found.end;
    payload += found.payload.size();
    Require(payload <= bytes.size());
    if (found.status) {
      Require(found.header.payload_bytes() == found.payload.size());
    } else {
      Require(found.payload.empty() && !found.status.error().message.empty());
    }
  }
}

void PutChecksum(std::span<std::byte> block) {
  const uint64_t checksum = larder::Checksum64(block.first(block.size() - 8));
  std::memcpy(block.data() + block.size() - 8, &checksum, 8);
}

uint64_t NumberAt(std::span<const std::byte> bytes, size_t at, size_t size) {
  uint64_t number = 0;
  std::memcpy(&number, bytes.data() + at, size);
  return number;
}

void PutChecksums(std::span<std::byte> bytes) {
  if (bytes.size() < 64) return;
  PutChecksum(bytes.first(64));
  uint64_t number = 0;
  for (auto rest = bytes.subspan(64); rest.size() >= 64; ++number) {
    std::copy_n(bytes.begin() + 16, 16, rest.begin() + 32);  // the archive's id
    // Mostly in order, so that what follows is reached.
    if (rest[15] == std::byte{}) std::memcpy(rest.data() + 8, &number, 8);
    PutChecksum(rest.first(64));
    const uint64_t head = NumberAt(rest, 16, 4), payload = NumberAt(rest, 24, 8);
    rest = rest.subspan(64);
    if (head > rest.size()) return;
    if (head > 8) PutChecksum(rest.first(head));
    if (payload > rest.size() - head) return;
    rest = rest.subspan(head + payload);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  std::ranges::copy(std::as_bytes(std::span(data, size)), bytes.begin());
  Read(bytes);
  PutChecksums(bytes);
  Read(bytes);
  return 0;
}
