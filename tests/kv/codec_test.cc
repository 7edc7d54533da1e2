// Codecs as the cache keeps them: names and refusals, bytes, when a block has which form, and key means.
#include "kv/codec/codec.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "base/file.h"
#include "base/memory.h"
#include "compute/attention.h"
#include "kv/cache.h"
#include "kv/codec/means.h"
#include "kv_fixture.h"

namespace larder {
namespace {

std::shared_ptr<const KvCodec> Codec(const std::string& spec, int head_dim) {
  auto codec = CreateKvCodec(spec, head_dim);
  EXPECT_TRUE(codec) << codec.error().message;
  return codec ? std::shared_ptr<const KvCodec>(*std::move(codec)) : nullptr;
}

TEST(Codec, NamesSayAllThatDecidesTheBits) {
  EXPECT_EQ(Codec("t4", 64)->name(), "t4:rotate=64,center=1,sinks=4");
  EXPECT_EQ(Codec("t4", 256)->name(), "t4:rotate=128,center=1,sinks=4");
  EXPECT_EQ(Codec("t4", 80)->name(), "t4:rotate=16,center=1,sinks=4");
  EXPECT_EQ(Codec("t4:center=0,rotate=32,sinks=0", 64)->name(), "t4:rotate=32,center=0,sinks=0");
  EXPECT_EQ(Codec("t4:rotate=0", 64)->name(), "t4:rotate=0,center=1,sinks=4");
  EXPECT_EQ(Codec("q8_0", 64)->name(), "q8_0");
  EXPECT_EQ(Codec("q4_0", 64)->name(), "q4_0");
}

TEST(Codec, WhatItCannotDoIsRefusedInASentence) {
  const auto refused = [](const std::string& spec, int head_dim) {
    auto codec = CreateKvCodec(spec, head_dim);
    return codec ? std::string() : codec.error().message;
  };
  EXPECT_NE(refused("t5", 64).find("t4, q8_0, q4_0"), std::string::npos);
  EXPECT_NE(refused("t4:rotat=64", 64).find("rotate"), std::string::npos);
  EXPECT_NE(refused("t4:rotate=7", 64), "");
  EXPECT_NE(refused("q8_0:x=1", 64), "");
  for (const char* spec : {"t4", "q8_0", "q4_0"}) {
    EXPECT_NE(refused(spec, 72).find("multiple of 16"), std::string::npos);
    EXPECT_NE(refused(spec, 0), "");
    EXPECT_NE(refused(spec, 1024), "");
  }
  EXPECT_NE(refused("t4:rotate=64", 96).find("at most 32"), std::string::npos);
}

TEST(Codec, SinksAreExactAndNothingElseIs) {
  for (const int dim : {16, 64, 80}) {
    const auto with = Codec("t4:center=0", dim), without = Codec("t4:center=0,sinks=0", dim);
    AlignedBuffer rows = AlignedBuffer::Allocate(PageBytes(KvType::kI16, dim)).value();
    AlignedBuffer read = AlignedBuffer::Allocate(rows.size()).value();
    AlignedBuffer plain = AlignedBuffer::Allocate(rows.size()).value();
    for (int slot = 0; slot < kPageTokens; ++slot) {
      std::vector<float> k(static_cast<size_t>(dim)), v(k.size());
      for (size_t d = 0; d < k.size(); ++d) {
        k[d] = std::sin(static_cast<float>(slot * 31 + static_cast<int>(d)));
        v[d] = std::cos(static_cast<float>(slot * 17 + static_cast<int>(d)));
      }
      StoreKvRow(KvType::kI16, dim, k.data(), v.data(), rows.data(), slot);
    }
    AlignedBuffer coded = AlignedBuffer::Allocate(FirstPageBytes(*with, dim)).value();
    EXPECT_GT(coded.size(), with->PageBytes(dim));
    EXPECT_EQ(FirstPageBytes(*without, dim), without->PageBytes(dim));
    EncodeFirst(*with, dim, rows.data(), coded.data());
    DecodeFirst(*with, dim, coded.data(), read.data());
    with->Decode(dim, coded.data(), plain.data());
    for (int slot = 0; slot < kPageTokens; ++slot) {
      std::vector<float> k(static_cast<size_t>(dim)), v(k.size()), read_k(k.size()), read_v(k.size());
      LoadKvRow(KvType::kI16, dim, (slot < 4 ? rows : plain).data(), slot, k.data(), v.data());
      LoadKvRow(KvType::kI16, dim, read.data(), slot, read_k.data(), read_v.data());
      EXPECT_EQ(k, read_k) << slot;
      EXPECT_EQ(v, read_v) << slot;
    }
  }
}

// SmolLM2's lanes, fewer layers: bytes are resident ones, metadata, planes and the tail's rows included.
uint64_t BlockBytesAt(int64_t tokens, const std::string& codec) {
  constexpr int kLayers = 6, kHeads = 3, kDim = 64;
  ManualClock clock;
  auto shape = KvShape::Create(std::vector<int>(kLayers, 0), kHeads, kDim, KvType::kI16,
                               codec.empty() ? nullptr : Codec(codec, kDim));
  auto cache = KvCache::Create(*shape, KvIdentity{}, {.limit_bytes = 1ull << 30}, &clock);
  auto opened = (*cache)->Open("t", {});
  const auto sequence = std::move(opened->sequence);
  for (int64_t at = 0; at < tokens;) {
    const int64_t rows = std::min<int64_t>(512, tokens - at);
    EXPECT_TRUE((*cache)->Reserve(*sequence, rows));
    (*cache)->Publish(*sequence, std::vector<int32_t>(static_cast<size_t>(rows), 1));
    at += rows;
  }
  EXPECT_TRUE((*cache)->CheckInvariants());
  return (*cache)->stats().block_bytes;
}

TEST(Codec, ResidentBytesWithARowsTail) {
  const auto ratio = [](int64_t tokens, const std::string& codec) {
    return static_cast<double>(BlockBytesAt(tokens, codec)) / static_cast<double>(BlockBytesAt(tokens, ""));
  };
  EXPECT_LE(ratio(8191, "t4"), 0.29);
  EXPECT_LE(ratio(2047, "t4"), 0.31);
  EXPECT_LE(ratio(8191, "q4_0"), 0.29);
  EXPECT_LE(ratio(8191, "q8_0"), 0.53);
}

TEST(Codec, RowsAreGivenUpWhenTheirBlockIsFull) {
  KvWorld world({.codec = true, .sinks = 4});
  const KvShape& shape = world.cache().shape();
  EXPECT_LT(shape.BlockBytes(0, KvForm::kFirst), shape.BlockBytes(0, KvForm::kRows));
  auto sequence = world.Open("a", {});
  ASSERT_TRUE(world.Write(*sequence, Text(1, 63)));
  const uint64_t as_rows = world.cache().stats().block_bytes;
  EXPECT_GE(as_rows, shape.BlockBytes(0, KvForm::kRows));
  ASSERT_TRUE(world.Write(*sequence, Text(2, 1)));
  EXPECT_LT(world.cache().stats().block_bytes, as_rows);
  EXPECT_TRUE(world.Sound());
  // Who goes back into the block would need its rows.
  EXPECT_FALSE(world.cache().Truncate(*sequence, 30));
  EXPECT_TRUE(world.cache().Truncate(*sequence, 0));
  world.cache().Close(std::move(sequence));
  EXPECT_TRUE(world.Sound());
}

TEST(Codec, AForkInsideABlockKeepsItsRowsUntilItLeaves) {
  KvWorld world({.windows = {0, 40}, .codec = true});
  auto writer = world.Open("a", {});
  ASSERT_TRUE(world.Write(*writer, Text(1, 100)));
  auto fork = *world.cache().Fork(*writer);
  ASSERT_TRUE(world.Write(*writer, Text(2, 60)));
  EXPECT_TRUE(world.Sound());
  EXPECT_TRUE(world.Reads(*fork));
  const uint64_t both = world.cache().stats().block_bytes;
  ASSERT_TRUE(world.Write(*fork, Text(3, 20)));  // takes a copy of its 36 rows along
  EXPECT_TRUE(world.Sound());
  EXPECT_TRUE(world.Reads(*fork));
  EXPECT_EQ(world.cache().stats().block_bytes, both) << "its own rows instead of the shared ones";
  world.cache().Close(std::move(fork));
  world.cache().Close(std::move(writer));
  EXPECT_TRUE(world.Sound());
}

TEST(Codec, MissesInsideCodesAreExplained) {
  KvWorld world({.codec = true});
  const auto text = Text(1, 150);
  world.Run("a", text);
  auto other = text;
  other[100] = 7;
  EXPECT_EQ(world.OpenFull("a", other).outcome.reason, MissReason::kCodec);
  EXPECT_EQ(world.cache().Probe("a", other), 64);
  EXPECT_EQ(world.cache().Probe("a", First(text, 64)), 0) << "its last row would read its block's rows";
  EXPECT_EQ(world.cache().Probe("a", First(text, 65)), 64);
  EXPECT_EQ(world.cache().Probe("a", text), 150) << "a tail is rows";
}

KeyMeans SomeMeans() {
  KeyMeans means{.weights = {}, .layers = 2, .kv_heads = 3, .head_dim = 4, .values = {}};
  means.weights.bytes[3] = 9;
  for (int i = 0; i < 24; ++i) means.values.push_back(static_cast<float>(i) / 7);
  return means;
}

TEST(KeyMeansFile, IsReadAsItWasWritten) {
  const std::string path = ::testing::TempDir() + "key-means-test";
  const KeyMeans means = SomeMeans();
  ASSERT_TRUE(means.Write(path));
  const auto read = KeyMeans::Read(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->values, means.values);
  EXPECT_EQ(read->weights, means.weights);
  EXPECT_EQ(read->digest(), means.digest());
  KeyMeans other = means;
  other.values[5] += 1e-6f;
  EXPECT_NE(other.digest(), means.digest());
}

TEST(KeyMeansFile, DamageIsAnError) {
  const std::string path = ::testing::TempDir() + "key-means-damaged";
  EXPECT_EQ(KeyMeans::Read(path + "-none").error().kind, ErrorKind::kNotFound);
  ASSERT_TRUE(SomeMeans().Write(path));
  const std::string good = *ReadFile(path);
  for (size_t size = 0; size < good.size(); size += 5) {
    ASSERT_TRUE(WriteFileAtomically(path, good.substr(0, size)));
    EXPECT_FALSE(KeyMeans::Read(path)) << size;
  }
  for (size_t at = 0; at < good.size(); at += 3) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 1);
    ASSERT_TRUE(WriteFileAtomically(path, bad));
    EXPECT_FALSE(KeyMeans::Read(path)) << at;
  }
  // Sizes that overflow, under a checksum that is right.
  KeyMeans huge = SomeMeans();
  huge.layers = huge.kv_heads = huge.head_dim = 1 << 30;
  ASSERT_TRUE(huge.Write(path));
  EXPECT_EQ(KeyMeans::Read(path).error().kind, ErrorKind::kCorrupt);
}

}  // namespace
}  // namespace larder
