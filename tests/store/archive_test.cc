// Archives: what is carried over is what was put in; damage costs what it touches and is told.
#include "store/archive.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "tests/store/disk/sim_files.h"
#include "tests/store/doc_example.h"
#include "tests/store/store_fixture.h"

namespace larder {
namespace {

constexpr char kPath[] = "/archive";

TestRecord Small(uint64_t number) {
  return MakeTestRecord(number, {50 + number, 1, 0, 30}, {}, TestName(99));
}

std::vector<std::byte> Flat(const TestRecord& record) {
  std::vector<std::byte> all;
  for (const auto& group : record.groups) all.insert(all.end(), group.begin(), group.end());
  return all;
}

// An archive of Small(0), Small(1), ... ; `ends`: where each record ends.
std::vector<std::byte> SomeArchive(uint64_t records, std::vector<uint64_t>* ends = nullptr,
                                   const Sealer* sealer = nullptr, const SpaceId& space = {}) {
  SimFiles files;
  auto writer = ArchiveWriter::Create(&files, kPath, sealer).value();
  for (uint64_t n = 0; n < records; ++n) {
    TestRecord record = Small(n);
    record.header.space = space;
    EXPECT_TRUE(writer->Add(record.header, record.payload()));
    if (ends != nullptr) ends->push_back(writer->bytes());
  }
  EXPECT_TRUE(writer->Finish());
  EXPECT_EQ(writer->records(), records);
  return files.Data(kPath);
}

struct ReadBack {
  Status opened, ended;
  std::vector<ArchiveItem> sound, unsound;

  bool Whole() const { return opened && ended && unsound.empty(); }
  uint64_t lost() const {
    uint64_t count = 0;
    for (const ArchiveItem& item : unsound) count += item.end - item.first;
    return count;
  }
  std::vector<uint64_t> numbers() const {
    std::vector<uint64_t> all;
    for (const ArchiveItem& item : sound) all.push_back(item.first);
    return all;
  }
};

ReadBack Read(std::vector<std::byte> bytes, const Sealer* sealer = nullptr) {
  SimFiles files;
  EXPECT_TRUE(files.Open(kPath, {.write = true, .create = true}));
  files.Data(kPath) = std::move(bytes);
  ReadBack out;
  auto reader = ArchiveReader::Open(files.Open(kPath, {}).value(), sealer);
  if (!reader) {
    out.opened = std::unexpected(reader.error());
    return out;
  }
  for (;;) {
    auto item = (*reader)->Next();
    if (!item) out.ended = std::unexpected(item.error());
    if (!item || !*item) return out;
    EXPECT_LE((*item)->offset, (*item)->next);
    EXPECT_LE((*item)->first, (*item)->end);
    ((*item)->status ? out.sound : out.unsound).push_back(std::move(**item));
  }
}

// Whatever comes out is as it was put in.
void ExpectTrue(const ReadBack& read) {
  for (const ArchiveItem& item : read.sound) {
    const TestRecord record = Small(item.first);
    EXPECT_EQ(item.header.name, record.header.name);
    EXPECT_EQ(item.header.parent, record.header.parent);
    EXPECT_EQ(item.header.metadata, record.header.metadata);
    EXPECT_EQ(item.header.group_bytes, record.header.group_bytes);
    EXPECT_EQ(item.payload, Flat(record));
  }
}

std::vector<uint64_t> AllBut(uint64_t count, std::vector<uint64_t> without) {
  std::vector<uint64_t> all;
  for (uint64_t n = 0; n < count; ++n)
    if (std::ranges::find(without, n) == without.end()) all.push_back(n);
  return all;
}

TEST(Archive, GivesBackWhatWasPutIn) {
  for (const uint64_t records : {0u, 1u, 5u}) {
    const ReadBack read = Read(SomeArchive(records));
    EXPECT_TRUE(read.Whole());
    EXPECT_EQ(read.numbers(), AllBut(records, {}));
    ExpectTrue(read);
  }
}

TEST(Archive, EveryFlippedBitIsSeenAndCostsOnlyItsRecord) {
  std::vector<uint64_t> ends;
  const std::vector<std::byte> whole = SomeArchive(4, &ends);
  for (size_t at = 0; at < whole.size(); ++at) {
    std::vector<std::byte> bytes = whole;
    bytes[at] ^= static_cast<std::byte>(1 << at % 8);
    const ReadBack read = Read(bytes);
    ExpectTrue(read);
    if (at < 64) {
      EXPECT_FALSE(read.opened) << at;
      continue;
    }
    const auto hit = static_cast<uint64_t>(std::ranges::upper_bound(ends, at) - ends.begin());
    if (hit == 4) {  // the end mark: nothing is lost, but nobody can know that
      EXPECT_EQ(read.ended.error().kind, ErrorKind::kCorrupt) << at;
      EXPECT_EQ(read.numbers(), AllBut(4, {})) << at;
      continue;
    }
    EXPECT_TRUE(read.ended) << at << ": " << read.ended.error().message;
    EXPECT_EQ(read.numbers(), AllBut(4, {hit})) << at;
    ASSERT_EQ(read.unsound.size(), 1u) << at;
    const ArchiveItem& item = read.unsound[0];
    EXPECT_EQ(std::pair(item.first, item.end), std::pair(hit, hit + 1)) << at;
    EXPECT_EQ(item.offset, hit == 0 ? 64 : ends[hit - 1]) << at;
    EXPECT_EQ(item.next, ends[hit]) << at;
    EXPECT_FALSE(item.status.error().message.empty());
  }
}

TEST(Archive, ATruncatedOneIsToldAndKeepsWhatWasWhole) {
  std::vector<uint64_t> ends;
  const std::vector<std::byte> whole = SomeArchive(3, &ends);
  for (size_t size = 0; size < whole.size(); ++size) {
    const ReadBack read = Read({whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size)});
    if (size < 64) {
      EXPECT_EQ(read.opened.error().kind, ErrorKind::kCorrupt) << size;
      continue;
    }
    ExpectTrue(read);
    EXPECT_EQ(read.ended.error().kind, ErrorKind::kCorrupt) << size;
    const auto before = static_cast<uint64_t>(std::ranges::upper_bound(ends, size) - ends.begin());
    EXPECT_EQ(read.numbers(), AllBut(before, {})) << size;
  }
  std::vector<std::byte> longer = whole;
  longer.push_back({});
  EXPECT_EQ(Read(longer).ended.error().kind, ErrorKind::kCorrupt);
  EXPECT_EQ(Read(longer).sound.size(), 3u);
}

TEST(Archive, MissingAndInsertedBytesCostOnlyWhatTheyTouch) {
  std::vector<uint64_t> ends;
  const std::vector<std::byte> whole = SomeArchive(5, &ends);
  const auto at = [](uint64_t offset) { return static_cast<ptrdiff_t>(offset); };
  for (uint64_t cut = 64; cut < ends[3]; cut += 13) {
    const auto hit = static_cast<uint64_t>(std::ranges::upper_bound(ends, cut) - ends.begin());
    std::vector<std::byte> less = whole;
    less.erase(less.begin() + at(cut), less.begin() + at(cut + 3));
    ReadBack read = Read(less);
    ExpectTrue(read);
    EXPECT_TRUE(read.ended);
    // Three bytes may end in the next record.
    EXPECT_EQ(read.numbers(), cut + 3 > ends[hit] ? AllBut(5, {hit, hit + 1}) : AllBut(5, {hit})) << cut;
    EXPECT_EQ(read.lost(), 5 - read.sound.size());
    std::vector<std::byte> more = whole;
    more.insert(more.begin() + at(cut), 7, std::byte{0x6c});
    read = Read(more);
    ExpectTrue(read);
    EXPECT_TRUE(read.ended);
    EXPECT_FALSE(read.unsound.empty());
    const bool between = cut == 64 || std::ranges::find(ends, cut) != ends.end();
    EXPECT_EQ(read.numbers(), between ? AllBut(5, {}) : AllBut(5, {hit})) << cut;
  }
  // A whole record taken out leaves nothing damaged, but its number is missing.
  std::vector<std::byte> less = whole;
  less.erase(less.begin() + at(ends[1]), less.begin() + at(ends[2]));
  const ReadBack read = Read(less);
  EXPECT_EQ(read.numbers(), AllBut(5, {2}));
  EXPECT_EQ(read.lost(), 1u);
}

TEST(Archive, RecordsOfAnotherArchiveAreNotTaken) {
  std::vector<uint64_t> ends;
  const std::vector<std::byte> ours = SomeArchive(3, &ends), theirs = SomeArchive(3);
  std::vector<std::byte> mixed = ours;
  std::copy(theirs.begin() + static_cast<ptrdiff_t>(ends[0]),
            theirs.begin() + static_cast<ptrdiff_t>(ends[1]),
            mixed.begin() + static_cast<ptrdiff_t>(ends[0]));
  const ReadBack read = Read(mixed);
  EXPECT_EQ(read.numbers(), AllBut(3, {1}));
}

TEST(Archive, AnotherVersionIsRefused) {
  std::vector<std::byte> bytes = SomeArchive(1);
  bytes[8] = std::byte{2};
  EXPECT_EQ(Read(bytes).opened.error().kind, ErrorKind::kUnsupported);
  EXPECT_NE(Read(bytes).opened.error().message.find("version 2"), std::string::npos);
}

TEST(Archive, SealedOnesNeedTheKeyAndTheTenant) {
  const TemporaryFolder folder("archive");
  const std::string key = folder.Write("key", std::string(32, 'k'));
  const auto ring = Keyring::Open(folder / "ring", key).value();
  const SpaceId space = ring->SpaceOf("a").value();
  const std::vector<std::byte> sealed = SomeArchive(3, nullptr, ring->sealer(), space);
  const ReadBack read = Read(sealed, ring->sealer());
  EXPECT_TRUE(read.Whole());
  EXPECT_EQ(read.numbers(), AllBut(3, {}));
  ExpectTrue(read);
  // Nothing of payload and metadata shows.
  const auto shows = [&](const std::vector<std::byte>& text) {
    return std::search(sealed.begin(), sealed.end(), text.begin(), text.begin() + 16) != sealed.end();
  };
  EXPECT_FALSE(shows(Small(1).groups[0]));
  EXPECT_FALSE(shows(Small(1).header.metadata));

  EXPECT_EQ(Read(sealed).opened.error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(Read(SomeArchive(1), ring->sealer()).opened.error().kind, ErrorKind::kUnsupported);
  ASSERT_TRUE(ring->Forget("a"));
  const ReadBack wiped = Read(sealed, ring->sealer());
  EXPECT_TRUE(wiped.sound.empty());
  ASSERT_EQ(wiped.unsound.size(), 3u);
  EXPECT_EQ(wiped.unsound[0].status.error().kind, ErrorKind::kNotFound);
  EXPECT_TRUE(wiped.ended);
}

TEST(Archive, HasItsNameOnlyWhenItIsWhole) {
  SimFiles files;
  {
    auto writer = ArchiveWriter::Create(&files, kPath, nullptr).value();
    ASSERT_TRUE(writer->Add(Small(1).header, Small(1).payload()));
    EXPECT_FALSE(files.Open(kPath, {}));
  }
  EXPECT_TRUE(files.Names("").empty());
  auto writer = ArchiveWriter::Create(&files, kPath, nullptr).value();
  EXPECT_TRUE(writer->Finish());
  EXPECT_EQ(files.Names(""), std::vector<std::string>{kPath});
  EXPECT_EQ(ArchiveWriter::Create(&files, kPath, nullptr).error().kind, ErrorKind::kConflict);
}

// A fixed id in place of the random one.
void PutId(std::span<std::byte> block, size_t at) {
  for (size_t i = 0; i < 16; ++i) block[at + i] = static_cast<std::byte>(i);
  const uint64_t sum = Checksum64(block.first(56));
  std::memcpy(block.data() + 56, &sum, sizeof sum);
}

TEST(Archive, TheDocumentShowsTheBytes) {
  TestRecord record;
  record.header.name.bytes.fill(0xa0);
  record.header.parent.bytes.fill(0xb0);
  record.header.space.fill(0xc0);
  record.header.kind = 1;
  for (const char c : {'d', 'a', 't', 'a'}) record.header.metadata.push_back(static_cast<std::byte>(c));
  record.header.group_bytes = {3, 2};
  record.groups = {{std::byte{1}, std::byte{2}, std::byte{3}}, {std::byte{4}, std::byte{5}}};
  SimFiles files;
  auto writer = ArchiveWriter::Create(&files, kPath, nullptr).value();
  ASSERT_TRUE(writer->Add(record.header, record.payload()));
  const uint64_t end = writer->bytes();
  ASSERT_TRUE(writer->Finish());
  std::vector<std::byte> bytes = files.Data(kPath);
  PutId(std::span(bytes).first(64), 16);
  PutId(std::span(bytes).subspan(64, 64), 32);
  PutId(std::span(bytes).subspan(end, 64), 32);
  EXPECT_EQ(HexDump(bytes), DocExample("archive.md", "archive"));
  const ReadBack read = Read(bytes);
  ASSERT_TRUE(read.Whole());
  EXPECT_EQ(read.sound.at(0).header.name, record.header.name);
}

}  // namespace
}  // namespace larder
