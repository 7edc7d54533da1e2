#include "store/record.h"

#include <functional>

#include "tests/store/store_fixture.h"

namespace larder {
namespace {

struct Encoded {
  RecordHead head;
  std::vector<std::byte> bytes;                // of the head
  std::vector<std::vector<std::byte>> groups;  // as stored
};

Encoded Encode(const TestRecord& record, const Sealer* sealer, uint64_t alignment = 1) {
  Encoded out{.head = MakeRecordHead(record.header, record.payload(), alignment, sealer).value()};
  for (size_t i = 0; i < record.groups.size(); ++i) {
    auto& stored = out.groups.emplace_back(record.groups[i].size());
    EXPECT_TRUE(EncodeGroup(out.head, i, record.groups[i], stored, sealer));
  }
  EXPECT_TRUE(EncodeRecordHead(out.head, sealer, out.bytes));
  return out;
}

// Every test runs plain and sealed.
class Record : public testing::TestWithParam<bool> {
 protected:
  Record() : folder_("record") {
    const std::string key = GetParam() ? folder_.Write("key", std::string(32, 'k')) : "";
    ring_ = Keyring::Open(folder_ / "ring", key).value();
    space_ = ring_->SpaceOf("t").value();
    other_space_ = ring_->SpaceOf("u").value();
  }
  const Sealer* sealer() const { return ring_->sealer(); }

  TemporaryFolder folder_;
  std::unique_ptr<Keyring> ring_;
  SpaceId space_{}, other_space_{};
};

TEST_P(Record, ComesBackAsItWas) {
  const TestRecord record = MakeTestRecord(3, {1000, 1, 0, 4096}, space_, TestName(9));
  Encoded encoded = Encode(record, sealer());
  EXPECT_EQ(RecordHeadBytes(std::span(encoded.bytes).first(kRecordPrefixBytes)).value(),
            encoded.bytes.size());
  encoded.bytes.resize(encoded.bytes.size() + 100);  // a tier may have more behind it
  const RecordHead head = DecodeRecordHead(encoded.bytes, sealer()).value();
  EXPECT_EQ(head.header.name, record.header.name);
  EXPECT_EQ(head.header.parent, record.header.parent);
  EXPECT_EQ(head.header.space, space_);
  EXPECT_EQ(head.header.kind, 7u);
  EXPECT_EQ(head.header.metadata, record.header.metadata);
  EXPECT_EQ(head.header.group_bytes, record.header.group_bytes);
  EXPECT_EQ(head.payload_digest, encoded.head.payload_digest);
  EXPECT_EQ(head.sealed, GetParam());
  for (size_t i = 0; i < record.groups.size(); ++i) {
    ASSERT_TRUE(DecodeGroup(head, i, encoded.groups[i], sealer()));
    EXPECT_EQ(encoded.groups[i], record.groups[i]);
  }
}

TEST_P(Record, SealedBytesAreNotThePlainOnes) {
  const TestRecord record = MakeTestRecord(40, {512}, space_);
  const Encoded encoded = Encode(record, sealer());
  EXPECT_EQ(encoded.groups[0] == record.groups[0], !GetParam());
  const auto found = std::ranges::search(encoded.bytes, record.header.metadata);
  EXPECT_EQ(found.empty(), GetParam());
}

TEST_P(Record, GroupsAreAligned) {
  const TestRecord record = MakeTestRecord(1, {100, 4096, 1}, space_);
  const RecordHead head = MakeRecordHead(record.header, record.payload(), 4096, sealer()).value();
  EXPECT_EQ(head.groups[0].offset, 0u);
  EXPECT_EQ(head.groups[1].offset, 4096u);
  EXPECT_EQ(head.groups[2].offset, 8192u);
  EXPECT_EQ(PayloadAreaBytes(head, 4096), 12288u);
}

TEST_P(Record, EveryFlippedBitOfAHeadIsFound) {
  Encoded encoded = Encode(MakeTestRecord(2, {64, 64}, space_), sealer());
  for (size_t bit = 0; bit < encoded.bytes.size() * 8; ++bit) {
    encoded.bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_FALSE(DecodeRecordHead(encoded.bytes, sealer())) << "bit " << bit;
    encoded.bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
  }
  EXPECT_TRUE(DecodeRecordHead(encoded.bytes, sealer()));
}

TEST_P(Record, EveryCutHeadIsFound) {
  const Encoded encoded = Encode(MakeTestRecord(2, {64}, space_), sealer());
  for (size_t length = 0; length < encoded.bytes.size(); ++length)
    EXPECT_EQ(DecodeRecordHead(std::span(encoded.bytes).first(length), sealer()).error().kind,
              ErrorKind::kCorrupt);
}

TEST_P(Record, EveryFlippedBitOfAGroupIsFound) {
  const Encoded encoded = Encode(MakeTestRecord(2, {50}, space_), sealer());
  for (size_t bit = 0; bit < 50 * 8; ++bit) {
    auto bytes = encoded.groups[0];
    bytes[bit / 8] ^= static_cast<std::byte>(1 << bit % 8);
    EXPECT_EQ(DecodeGroup(encoded.head, 0, bytes, sealer()).error().kind, ErrorKind::kCorrupt);
  }
}

TEST_P(Record, AGroupOfAnotherSizeOrPlaceIsFound) {
  Encoded encoded = Encode(MakeTestRecord(2, {50, 50}, space_), sealer());
  EXPECT_EQ(DecodeGroup(encoded.head, 0, std::span(encoded.groups[0]).first(49), sealer()).error().kind,
            ErrorKind::kCorrupt);
  EXPECT_EQ(DecodeGroup(encoded.head, 1, encoded.groups[0], sealer()).error().kind, ErrorKind::kCorrupt);
}

TEST_P(Record, PayloadsUnderOneNameAreToldApart) {
  TestRecord record = MakeTestRecord(5, {64, 64}, space_);
  const uint64_t digest = MakeRecordHead(record.header, record.payload(), 1, sealer())->payload_digest;
  EXPECT_EQ(MakeRecordHead(record.header, record.payload(), 4096, sealer())->payload_digest, digest);
  record.groups[1][63] ^= std::byte{1};
  EXPECT_NE(MakeRecordHead(record.header, record.payload(), 1, sealer())->payload_digest, digest);
}

TEST_P(Record, TooMuchIsRefused) {
  const auto kind = [&](const TestRecord& record) {
    return MakeRecordHead(record.header, record.payload(), 1, sealer()).error().kind;
  };
  EXPECT_EQ(kind(MakeTestRecord(1, {}, space_)), ErrorKind::kInvalid);
  EXPECT_EQ(kind(MakeTestRecord(1, std::vector<size_t>(65, 1), space_)), ErrorKind::kInvalid);
  TestRecord fat = MakeTestRecord(1, {1}, space_);
  fat.header.metadata.resize(kMaxRecordMetadata + 1);
  EXPECT_EQ(kind(fat), ErrorKind::kInvalid);
  TestRecord liar = MakeTestRecord(1, {10}, space_);
  liar.header.group_bytes[0] = 11;
  EXPECT_EQ(kind(liar), ErrorKind::kInvalid);
  liar.header.group_bytes = {10, 0};
  EXPECT_EQ(kind(liar), ErrorKind::kInvalid);
  liar.header.group_bytes[0] = ~uint64_t{0};
  EXPECT_EQ(kind(liar), ErrorKind::kInvalid);
}

TEST_P(Record, TheLargestHeadFits) {
  TestRecord record = MakeTestRecord(1, std::vector<size_t>(kMaxRecordGroups, 1), space_);
  record.header.metadata.resize(kMaxRecordMetadata);
  const Encoded encoded = Encode(record, sealer());
  EXPECT_LE(encoded.bytes.size(), kMaxRecordHeadBytes);
  EXPECT_TRUE(DecodeRecordHead(encoded.bytes, sealer()));
}

// A head written by hand: sizes that contradict each other under a right checksum.
TEST_P(Record, LyingSizesAreFoundBeforeUse) {
  const Encoded encoded = Encode(MakeTestRecord(2, {64, 64}, space_), sealer());
  const auto kind_with = [&](size_t offset, uint32_t value) {
    auto bytes = encoded.bytes;
    for (int i = 0; i < 4; ++i) bytes[offset + i] = static_cast<std::byte>(value >> (8 * i));
    const uint64_t checksum = Checksum64(std::span(bytes).first(bytes.size() - 8));
    for (int i = 0; i < 8; ++i) bytes[bytes.size() - 8 + i] = static_cast<std::byte>(checksum >> (8 * i));
    const auto head = DecodeRecordHead(bytes, sealer());
    return head ? ErrorKind::kInvalid : head.error().kind;
  };
  EXPECT_EQ(kind_with(8, 2), ErrorKind::kUnsupported);         // version
  EXPECT_EQ(kind_with(12, ~0u), ErrorKind::kCorrupt);          // length
  EXPECT_EQ(kind_with(12, 0), ErrorKind::kCorrupt);            //
  EXPECT_EQ(kind_with(100, 2), ErrorKind::kCorrupt);           // flags
  EXPECT_EQ(kind_with(104, 3), ErrorKind::kCorrupt);           // groups
  EXPECT_EQ(kind_with(104, 0), ErrorKind::kCorrupt);           //
  EXPECT_EQ(kind_with(104, ~0u), ErrorKind::kCorrupt);         //
  EXPECT_EQ(kind_with(108, 1), ErrorKind::kCorrupt);           // metadata
  EXPECT_EQ(kind_with(108, ~0u), ErrorKind::kCorrupt);         //
  EXPECT_EQ(kind_with(112 + 4, 1), ErrorKind::kCorrupt);       // bytes of group 0: 4 GiB and more
  EXPECT_EQ(kind_with(112 + 52 + 8, 1), ErrorKind::kCorrupt);  // group 1 inside group 0
  EXPECT_EQ(kind_with(112 + 52 + 12, ~0u), ErrorKind::kCorrupt);
}

INSTANTIATE_TEST_SUITE_P(PlainAndSealed, Record, testing::Bool(),
                         [](const auto& info) { return info.param ? "Sealed" : "Plain"; });

class SealedRecord : public Record {};
INSTANTIATE_TEST_SUITE_P(Sealed, SealedRecord, testing::Values(true));

TEST_P(SealedRecord, AForeignNameSpaceOrParentIsFound) {
  Encoded encoded = Encode(MakeTestRecord(2, {50}, space_), sealer());
  RecordHead head = encoded.head;
  head.header.name = TestName(3);
  auto bytes = encoded.groups[0];
  EXPECT_EQ(DecodeGroup(head, 0, bytes, sealer()).error().kind, ErrorKind::kCorrupt);
  EXPECT_TRUE(std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; }));
  head = encoded.head;
  head.header.space = other_space_;
  bytes = encoded.groups[0];
  EXPECT_EQ(DecodeGroup(head, 0, bytes, sealer()).error().kind, ErrorKind::kCorrupt);

  // Who can write to the tier can also make a checksum; the tag is what holds.
  for (const size_t offset : {16, 48, 80, 96, 112 + 24, 112 + 36}) {
    auto forged = encoded.bytes;
    forged[offset] ^= std::byte{1};
    const uint64_t checksum = Checksum64(std::span(forged).first(forged.size() - 8));
    for (int i = 0; i < 8; ++i) forged[forged.size() - 8 + i] = static_cast<std::byte>(checksum >> (8 * i));
    EXPECT_FALSE(DecodeRecordHead(forged, sealer())) << "offset " << offset;
  }
}

TEST_P(SealedRecord, AForgottenTenantIsUnreadable) {
  const Encoded encoded = Encode(MakeTestRecord(2, {50}, space_), sealer());
  EXPECT_EQ(ring_->Forget("t").value(), space_);
  EXPECT_EQ(DecodeRecordHead(encoded.bytes, sealer()).error().kind, ErrorKind::kNotFound);
  auto bytes = encoded.groups[0];
  EXPECT_EQ(DecodeGroup(encoded.head, 0, bytes, sealer()).error().kind, ErrorKind::kNotFound);
  EXPECT_NE(ring_->SpaceOf("t").value(), space_);
  EXPECT_EQ(DecodeRecordHead(encoded.bytes, sealer()).error().kind, ErrorKind::kNotFound);
}

TEST_P(SealedRecord, PlainAndSealedDoNotMix) {
  const TestRecord record = MakeTestRecord(2, {50}, space_);
  Encoded sealed = Encode(record, sealer()), plain = Encode(record, nullptr);
  EXPECT_EQ(DecodeRecordHead(sealed.bytes, nullptr).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(DecodeRecordHead(plain.bytes, sealer()).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(DecodeGroup(sealed.head, 0, sealed.groups[0], nullptr).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(DecodeGroup(plain.head, 0, plain.groups[0], sealer()).error().kind, ErrorKind::kUnsupported);
}

TEST_P(SealedRecord, ASpaceWithoutAKeyCannotSeal) {
  const TestRecord record = MakeTestRecord(2, {50});
  RecordHead head = MakeRecordHead(record.header, record.payload(), 1, sealer()).value();
  std::vector<std::byte> stored(50), out(3);
  EXPECT_EQ(EncodeGroup(head, 0, record.groups[0], stored, sealer()).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(EncodeRecordHead(head, sealer(), out).error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(out.size(), 3u);
}

}  // namespace
}  // namespace larder
