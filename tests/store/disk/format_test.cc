// The store's bytes: what is written is read, what is damaged is told apart from what is torn.
#include "store/disk/format.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/store/disk/disk_fixture.h"
#include "tests/store/doc_example.h"

namespace larder {
namespace {

constexpr StoreId kStore{1, 2, 3};

Frame SomeFrame() {
  return {.place = {.segment = 7, .page = 12, .pages = 30, .head_pages = 2},
          .head_bytes = 5000,
          .born = 99,
          .payload_digest = 0x1122334455667788,
          .sealed = true,
          .name = TestName(1),
          .parent = TestName(2),
          .space = Space(3)};
}

TEST(DiskFormat, FramesComeBackAndEveryBitCounts) {
  std::array<std::byte, kFrameBytes> bytes{};
  EncodeFrame(SomeFrame(), kStore, bytes);
  const auto frame = DecodeFrame(bytes, kStore);
  ASSERT_TRUE(frame);
  EXPECT_EQ(frame->place, SomeFrame().place);
  EXPECT_EQ(frame->born, 99u);
  EXPECT_EQ(frame->name, TestName(1));
  EXPECT_EQ(frame->parent, TestName(2));
  EXPECT_EQ(frame->space, Space(3));
  EXPECT_TRUE(frame->sealed);
  for (size_t at = 0; at < bytes.size(); ++at) {
    bytes[at] ^= std::byte{4};
    EXPECT_FALSE(DecodeFrame(bytes, kStore)) << at;
    bytes[at] ^= std::byte{4};
  }
  EXPECT_FALSE(DecodeFrame(bytes, StoreId{}));
  EXPECT_FALSE(DecodeFrame(std::span(bytes).first(100), kStore));
}

// A log of `batches` batches of one entry each.
std::vector<std::byte> SomeLog(uint64_t batches, std::vector<size_t>* ends = nullptr) {
  const LogHeader header{LogKind::kCatalog, kStore, 3, 1};
  std::vector<std::byte> log;
  EncodeLogHeader(header, log);
  for (uint64_t n = 1; n <= batches; ++n) {
    std::vector<std::byte> body;
    EncodeEntry({.type = LogEntryType::kPut, .key = KeyOf(TestName(n)), .place = {1, 2, 3, 1}, .born = n},
                body);
    EncodeEntry({.type = LogEntryType::kUsed, .key = KeyOf(TestName(n)), .used = n}, body);
    EncodeBatch({.number = n, .next_sequence = n + 1, .removals = 5, .next_segment = 2}, header, body, log);
    if (ends != nullptr) ends->push_back(log.size());
  }
  return log;
}

TEST(DiskFormat, LogsComeBack) {
  std::vector<LogEntry> entries;
  const auto end = ReadLog(SomeLog(3), LogKind::kCatalog, kStore,
                           [&](const LogEntry& entry) { entries.push_back(entry); });
  ASSERT_TRUE(end);
  EXPECT_EQ(end->batches, 3u);
  EXPECT_EQ(end->last.number, 3u);
  EXPECT_EQ(end->last.removals, 5u);
  EXPECT_FALSE(end->torn);
  ASSERT_EQ(entries.size(), 6u);
  EXPECT_EQ(entries[4].born, 3u);
  EXPECT_EQ(entries[5].used, 3u);
  const auto ignore = [](const LogEntry&) {};
  EXPECT_EQ(ReadLog(SomeLog(3), LogKind::kRemovals, kStore, ignore).error().kind, ErrorKind::kCorrupt);
  EXPECT_EQ(ReadLog(SomeLog(3), LogKind::kCatalog, StoreId{}, ignore).error().kind, ErrorKind::kCorrupt);
}

TEST(DiskFormat, ATornTailIsCutAndDamageIsNot) {
  std::vector<size_t> ends;
  const std::vector<std::byte> whole = SomeLog(4, &ends);
  const auto ignore = [](const LogEntry&) {};
  for (size_t size = ends[0]; size < whole.size(); ++size) {
    const auto end = ReadLog(std::span(whole).first(size), LogKind::kCatalog, kStore, ignore);
    ASSERT_TRUE(end) << size;
    // The zeros that fill up a batch may be missing.
    EXPECT_LE(std::count_if(ends.begin(), ends.end(), [&](size_t e) { return e <= size; }),
              static_cast<int>(end->batches));
  }
  EXPECT_FALSE(
      ReadLog(std::span(whole).first(ends[0] - 60), LogKind::kCatalog, kStore, ignore));  // its snapshot
  for (size_t batch = 0; batch < 4; ++batch) {
    std::vector<std::byte> log = whole;
    log[ends[batch] - 90] ^= std::byte{1};
    const auto end = ReadLog(log, LogKind::kCatalog, kStore, ignore);
    EXPECT_EQ(end.has_value(), batch == 3) << "batch " << batch;
  }
}

// The examples of docs/formats/disk-store.md.
template <size_t N>
std::array<uint8_t, N> Filled(uint8_t value) {
  std::array<uint8_t, N> bytes;
  bytes.fill(value);
  return bytes;
}

StoreId DocStore() {
  StoreId store;
  for (size_t i = 0; i < store.size(); ++i) store[i] = static_cast<uint8_t>(i);
  return store;
}

Frame DocFrame() {
  return {.place = {.segment = 7, .page = 12, .pages = 347, .head_pages = 1},
          .head_bytes = 500,
          .born = 99,
          .payload_digest = 0x1122334455667788,
          .sealed = true,
          .name = Digest{Filled<32>(0xa0)},
          .parent = Digest{Filled<32>(0xb0)},
          .space = Filled<16>(0xc0)};
}

TEST(DiskFormat, TheDocumentShowsTheBytes) {
  std::array<std::byte, kFrameBytes> frame{};
  EncodeFrame(DocFrame(), DocStore(), frame);
  EXPECT_EQ(HexDump(frame), DocExample("disk-store.md", "frame"));

  const LogHeader header{LogKind::kCatalog, DocStore(), 3, 1};
  BatchHeader batch{.number = 41, .next_sequence = 100, .removals = 5, .next_segment = 8};
  const Frame record = DocFrame();
  const RecordKey key = KeyOf(record.name);
  std::vector<std::byte> log, body;
  EncodeLogHeader(header, log);
  EncodeEntry({.type = LogEntryType::kPut,
               .sealed = true,
               .key = key,
               .place = record.place,
               .parent = ParentKeyOf(record.parent),
               .digest = record.payload_digest,
               .born = record.born,
               .used = 99,
               .space = record.space},
              body);
  EncodeBatch(batch, header, body, log);
  body.clear();
  EncodeEntry({.type = LogEntryType::kUsed, .key = key, .used = 100}, body);
  EncodeEntry({.type = LogEntryType::kWipe, .space = record.space, .sequence = 101}, body);
  batch.number = 42;
  batch.next_sequence = 102;
  EncodeBatch(batch, header, body, log);
  EXPECT_EQ(HexDump(log), DocExample("disk-store.md", "catalog"));

  const std::string text = EncodeStoreFile(DocStore());
  EXPECT_EQ(text, "larder disk store\nversion 1\nuuid 000102030405060708090a0b0c0d0e0f\n");
}

TEST(DiskFormat, NumbersInNames) {
  EXPECT_EQ(NumberIn(NumberedName("seg", 12), "seg"), 12u);
  for (const char* name :
       {"seg-", "seg-1x", "seg", "segment-1", "seg-99999999999999999999999", "catalog-1.tmp"}) {
    EXPECT_FALSE(NumberIn(name, "seg")) << name;
  }
}

TEST(DiskFormat, TheStoreFile) {
  const auto decode = [](std::string text) {
    return DecodeStoreFile(std::as_bytes(std::span(text.data(), text.size())));
  };
  const std::string text = EncodeStoreFile(kStore);
  EXPECT_EQ(decode(text).value(), kStore);
  for (size_t size = 0; size < text.size(); ++size) EXPECT_FALSE(decode(text.substr(0, size)));
  EXPECT_EQ(decode("larder disk store\nversion 12\n").error().kind, ErrorKind::kUnsupported);
}

}  // namespace
}  // namespace larder
