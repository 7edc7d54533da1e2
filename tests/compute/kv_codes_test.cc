// Coded pages and the Hadamard transform: equal to their reference to the last bit on every target, as near
// as their step allows, and, rotated, near enough where loud channels would spoil plain codes.
#include "compute/kv_codes.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "compute/attention.h"
#include "simd_targets_for_test.h"

namespace larder {
namespace {

constexpr KvCodes kAll[] = {KvCodes::kT4, KvCodes::kQ8, KvCodes::kQ4};
constexpr int kDims[] = {16, 32, 48, 64, 80, 96, 128, 256, 512};

AlignedBuffer Bytes(size_t size) {
  auto buffer = AlignedBuffer::Allocate(size);
  LARDER_CHECK(buffer.has_value());
  return *std::move(buffer);
}

using Rows = std::vector<std::vector<float>>;  // [64][head_dim]

Rows NormalRows(int head_dim, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 1);
  Rows rows(kPageTokens, std::vector<float>(static_cast<size_t>(head_dim)));
  for (auto& row : rows)
    for (float& x : row) x = normal(random);
  return rows;
}

AlignedBuffer PageOf(int head_dim, const Rows& k, const Rows& v) {
  AlignedBuffer page = Bytes(PageBytes(KvType::kI16, head_dim));
  for (int slot = 0; slot < kPageTokens; ++slot) {
    const size_t s = static_cast<size_t>(slot);
    StoreKvRow(KvType::kI16, head_dim, k[s].data(), v[s].data(), page.data(), slot);
  }
  return page;
}

// Rows of every awkward kind: zeros, one sign only, tiny, huge, a loud channel, infinities and NaNs.
AlignedBuffer AwkwardPage(int head_dim) {
  Rows k = NormalRows(head_dim, 1), v = NormalRows(head_dim, 2);
  for (Rows* rows : {&k, &v}) {
    for (float& x : (*rows)[3]) x = 0;
    for (float& x : (*rows)[4]) x = std::abs(x);
    for (float& x : (*rows)[5]) x = -std::abs(x);
    for (float& x : (*rows)[6]) x *= 1e-9f;
    for (float& x : (*rows)[7]) x *= 1e9f;
    for (float& x : (*rows)[8]) x *= 1e-6f;
    (*rows)[9][5] = 1000;
    (*rows)[10][7] = std::numeric_limits<float>::quiet_NaN();
    (*rows)[11][2] = std::numeric_limits<float>::infinity();
    for (float& x : (*rows)[12]) x = 2.5f;
  }
  return PageOf(head_dim, k, v);
}

TEST(KvCodes, EncodingAndDecodingEqualTheReference) {
  for (const KvCodes codes : kAll) {
    for (const int dim : kDims) {
      SCOPED_TRACE(dim);
      const AlignedBuffer page = AwkwardPage(dim);
      const size_t bytes = CodedPageBytes(codes, dim);
      AlignedBuffer expected = Bytes(bytes), expected_rows = Bytes(page.size());
      reference::EncodePage(codes, dim, page.data(), expected.data());
      reference::DecodePage(codes, dim, expected.data(), expected_rows.data());
      ForEachSimdTarget([&] {
        AlignedBuffer coded = Bytes(bytes), rows = Bytes(page.size());
        EncodePage(codes, dim, page.data(), coded.data());
        EXPECT_EQ(std::memcmp(coded.data(), expected.data(), bytes), 0);
        DecodePage(codes, dim, expected.data(), rows.data());
        EXPECT_EQ(std::memcmp(rows.data(), expected_rows.data(), rows.size()), 0);
      });
    }
  }
}

// Any bytes may come from a disk: decoding them reads and writes nothing outside, and codes stay in their
// range.
TEST(KvCodes, DecodesArbitraryBytesAsTheReferenceDoes) {
  std::mt19937 random(5);
  for (const KvCodes codes : kAll) {
    for (const int dim : {16, 64, 80}) {
      AlignedBuffer coded = Bytes(CodedPageBytes(codes, dim)), expected = Bytes(PageBytes(KvType::kI16, dim));
      for (size_t i = 0; i < coded.size(); ++i) coded.data()[i] = static_cast<std::byte>(random());
      reference::DecodePage(codes, dim, coded.data(), expected.data());
      ForEachSimdTarget([&] {
        AlignedBuffer rows = Bytes(expected.size());
        DecodePage(codes, dim, coded.data(), rows.data());
        const size_t codes_end = static_cast<size_t>(kPageTokens * dim) * 2 * sizeof(int16_t);
        EXPECT_EQ(std::memcmp(rows.data(), expected.data(), codes_end), 0);
      });
    }
  }
}

TEST(KvCodes, RowsComeBackWithinHalfAStep) {
  const int dim = 64;
  const Rows k = NormalRows(dim, 7), v = NormalRows(dim, 8);
  const AlignedBuffer page = PageOf(dim, k, v);
  for (const KvCodes codes : kAll) {
    AlignedBuffer coded = Bytes(CodedPageBytes(codes, dim)), rows = Bytes(page.size());
    EncodePage(codes, dim, page.data(), coded.data());
    DecodePage(codes, dim, coded.data(), rows.data());
    for (int slot = 0; slot < kPageTokens; ++slot) {
      std::vector<float> read_k(dim), read_v(dim);
      LoadKvRow(KvType::kI16, dim, rows.data(), slot, read_k.data(), read_v.data());
      for (const auto& [was, read] : {std::pair(k[static_cast<size_t>(slot)], read_k),
                                      std::pair(v[static_cast<size_t>(slot)], read_v)}) {
        float least = 0, largest = 0;
        for (const float x : was) {
          least = std::min(least, x);
          largest = std::max(largest, x);
        }
        const float magnitude = std::max(largest, -least);
        // kQ4 clips what lies opposite to its largest number.
        const float step = codes == KvCodes::kT4   ? (largest - least) / 15
                           : codes == KvCodes::kQ8 ? magnitude / 127
                                                   : magnitude / 8;
        const float allowed = step * (codes == KvCodes::kQ4 ? 1.02f : 0.52f) + 1e-3f * magnitude;
        for (int d = 0; d < dim; ++d)
          EXPECT_NEAR(read[static_cast<size_t>(d)], was[static_cast<size_t>(d)], allowed);
      }
    }
  }
}

TEST(KvCodes, PagesHaveTheBytesThatAreDocumented) {
  EXPECT_EQ(CodedPageBytes(KvCodes::kT4, 64), 4608u);
  EXPECT_EQ(CodedPageBytes(KvCodes::kQ4, 64), 4608u);
  EXPECT_EQ(CodedPageBytes(KvCodes::kQ8, 64), 8704u);
  EXPECT_EQ(CodedPageBytes(KvCodes::kT4, 256), 16384u + 512u);
  for (const KvCodes codes : kAll) EXPECT_EQ(CodedPageBytes(codes, 80) % 512, 0u);
}

TEST(Hadamard, EqualsTheReferenceAndTheDefinition) {
  std::mt19937 random(3);
  std::normal_distribution<float> normal(0, 1);
  for (const int block : {1, 2, 4, 8, 16, 32, 64, 128, 256}) {
    std::vector<float> x(static_cast<size_t>(3 * block));
    for (float& value : x) value = normal(random);
    std::vector<float> expected = x;
    reference::Hadamard(expected.data(), std::ssize(expected), block);
    for (int i = 0; i < block; ++i) {
      double sum = 0;
      for (int j = 0; j < block; ++j)
        sum += (std::popcount(static_cast<unsigned>(i & j)) % 2 ? -1.0 : 1.0) * x[static_cast<size_t>(j)];
      EXPECT_NEAR(expected[static_cast<size_t>(i)], sum / std::sqrt(block), 2e-6);
    }
    ForEachSimdTarget([&] {
      std::vector<float> y = x;
      Hadamard(y.data(), std::ssize(y), block);
      EXPECT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0) << block;
      Hadamard(y.data(), std::ssize(y), block);
      for (size_t i = 0; i < y.size(); ++i) EXPECT_NEAR(y[i], x[i], 1e-6) << block;
    });
  }
}

// Root mean square error of q.k over pages of 4-bit keys, relative to that of plain codes.
struct Outliers {
  explicit Outliers(bool offset) {
    keys_ = NormalRows(kDim, 11);
    queries_ = NormalRows(kDim, 12);
    for (auto& key : keys_) {
      if (offset) {
        key[5] += 15;
        key[40] -= 10;
      } else {
        key[5] *= 10;
        key[40] *= 6;
      }
    }
  }
  double Noise(int block, bool centred) const {
    std::vector<float> mean(kDim);
    for (const auto& key : keys_)
      for (size_t d = 0; d < kDim; ++d) mean[d] += centred ? key[d] / kPageTokens : 0.0f;
    Rows keys = keys_, queries = queries_;
    for (auto& key : keys) {
      for (size_t d = 0; d < kDim; ++d) key[d] -= mean[d];
      Hadamard(key.data(), kDim, block);
    }
    for (auto& query : queries) Hadamard(query.data(), kDim, block);
    const AlignedBuffer page = PageOf(kDim, keys, keys);
    AlignedBuffer coded = Bytes(CodedPageBytes(KvCodes::kT4, kDim)), rows = Bytes(page.size());
    EncodePage(KvCodes::kT4, kDim, page.data(), coded.data());
    DecodePage(KvCodes::kT4, kDim, coded.data(), rows.data());
    double sum = 0;
    for (const auto& query : queries) {
      for (int slot = 0; slot < kPageTokens; ++slot) {
        float k[kDim], v[kDim];
        LoadKvRow(KvType::kI16, kDim, rows.data(), slot, k, v);
        double error = 0;
        for (size_t d = 0; d < kDim; ++d)
          error += query[d] * (static_cast<double>(k[d]) - keys[static_cast<size_t>(slot)][d]);
        sum += error * error;
      }
    }
    return std::sqrt(sum);
  }

  static constexpr int kDim = 64;
  Rows keys_, queries_;
};

TEST(Hadamard, SpreadsLoudChannels) {
  const Outliers loud(false);
  EXPECT_LE(loud.Noise(64, false), 0.55 * loud.Noise(1, false));
}

TEST(Hadamard, AndCentringRemoveConstantOffsets) {
  const Outliers offset(true);
  EXPECT_LE(offset.Noise(64, false), 0.45 * offset.Noise(1, false));
  EXPECT_LE(offset.Noise(64, true), 0.25 * offset.Noise(1, false));
}

}  // namespace
}  // namespace larder
