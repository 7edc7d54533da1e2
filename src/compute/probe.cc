#include "compute/probe.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/memory.h"
#include "compute/attention.h"
#include "compute/ops.h"
#include "compute/simd_targets.h"
#include "hwy/targets.h"

namespace larder {
namespace {

// Fixed numbers: a linear congruential sequence, the same on every machine.
class Sequence {
 public:
  uint32_t Next() {
    state_ = state_ * 1664525u + 1013904223u;
    return state_ >> 8;
  }
  float NextFloat() { return static_cast<float>(Next() % 4096) / 1024.0f - 2.0f; }  // exact
  std::vector<float> Floats(size_t n) {
    std::vector<float> out(n);
    for (float& x : out) x = NextFloat();
    return out;
  }

 private:
  uint32_t state_ = 1;
};

void AddFloats(FieldHasher& hasher, std::string_view tag, const std::vector<float>& values) {
  hasher.Add(tag, std::as_bytes(std::span<const float>(values)));
}

// A small matrix in every format. Rows for every kind of kernel (a tile unit's 16, a few of their own), a
// width that is a multiple of every block, outputs that end a panel early.
void ProbeMatMul(FieldHasher& hasher, MathMode mode, ThreadPool& pool) {
  constexpr int64_t kInputs = 256, kOutputs = 24;
  constexpr int kRows = 16 + 5;
  for (const FormatInfo& format : AllFormats()) {
    Sequence numbers;
    const Result<uint64_t> row_bytes = RowBytes(format, kInputs);
    LARDER_CHECK(row_bytes.has_value());
    std::vector<uint8_t> bytes(kOutputs * *row_bytes);
    // With an exponent bit of each half and float cleared, every pattern is a finite number in every format.
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(numbers.Next() & 0xBB);
    const Result<Matrix> matrix = Matrix::Pack({format.type, bytes.data(), kOutputs, kInputs}, mode, pool);
    LARDER_CHECK(matrix.has_value());
    const std::vector<float> x = numbers.Floats(kRows * kInputs);
    std::vector<float> y(kRows * kOutputs);
    MatMulScratch scratch;
    const MatMulTarget target{&*matrix, y.data(), kOutputs};
    MatMul(pool, scratch, x.data(), kInputs, kRows, {&target, 1});
    AddFloats(hasher, format.name, y);
  }
}

class ProbePages : public TileProvider {
 public:
  ProbePages(KvType type, int head_dim, int64_t entries, Sequence& numbers)
      : type_(type), head_dim_(head_dim), entries_(entries) {
    const size_t page_bytes = PageBytes(type, head_dim);
    Result<AlignedBuffer> pages =
        AlignedBuffer::Allocate(page_bytes * static_cast<size_t>((entries + 63) / 64));
    LARDER_CHECK(pages.has_value());
    pages_ = *std::move(pages);
    for (int64_t i = 0; i < entries; ++i) {
      const std::vector<float> k = numbers.Floats(static_cast<size_t>(head_dim));
      const std::vector<float> v = numbers.Floats(static_cast<size_t>(head_dim));
      StoreKvRow(type, head_dim, k.data(), v.data(), pages_.data() + page_bytes * static_cast<size_t>(i / 64),
                 static_cast<int>(i % 64));
    }
  }
  int64_t Entries(int, int) const override { return entries_; }
  KvPage Page(int, int, int64_t page, std::byte*) const override {
    const std::byte* data = pages_.data() + PageBytes(type_, head_dim_) * static_cast<size_t>(page);
    KvPage out = StoredPage(type_, head_dim_, data);
    out.first_position = static_cast<int32_t>(page * kPageTokens);
    out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, entries_ - page * kPageTokens));
    return out;
  }

 private:
  KvType type_;
  int head_dim_;
  int64_t entries_;
  AlignedBuffer pages_;
};

// Two spans, a page that ends early, grouped heads, with and without a window.
void ProbeAttention(FieldHasher& hasher, ThreadPool& pool) {
  constexpr int kHeadDim = 32, kHeads = 3, kRows = 4;
  constexpr int64_t kEntries = 600;
  constexpr int32_t kPositions[kRows] = {40, 511, 512, 599};
  for (const KvType type : {KvType::kI16, KvType::kF32}) {
    for (const int window : {0, 100}) {
      Sequence numbers;
      const ProbePages pages(type, kHeadDim, kEntries, numbers);
      const std::vector<float> q = numbers.Floats(kRows * kHeads * kHeadDim);
      std::vector<float> out(q.size()), lse(kRows * kHeads);
      std::vector<AttentionRow> rows;
      for (size_t r = 0; r < kRows; ++r) {
        const size_t at = r * kHeads * kHeadDim;
        rows.push_back({q.data() + at, out.data() + at, lse.data() + r * kHeads, &pages, kPositions[r]});
      }
      AttentionScratch scratch;
      Attention(pool, scratch, {0, kHeads, 1, kHeadDim, 0.25f, window, type}, rows);
      AddFloats(hasher, "attention", out);
      AddFloats(hasher, "log-sum-exp", lse);
    }
  }
}

void ProbeOps(FieldHasher& hasher) {
  constexpr size_t kSize = 100;
  Sequence numbers;
  const std::vector<float> a = numbers.Floats(kSize), b = numbers.Floats(kSize);
  std::vector<float> out(kSize);
  RmsNorm(a.data(), b.data(), 1e-5f, kSize, out.data());
  AddFloats(hasher, "norm", out);
  out = a;
  Rotate(out.data(), 2, 50, 40, b.data(), b.data() + 20);
  AddFloats(hasher, "rotate", out);
  out = a;
  SiluMul(out.data(), b.data(), kSize);
  AddFloats(hasher, "silu", out);
  out = a;
  GeluMul(out.data(), b.data(), kSize);
  AddFloats(hasher, "gelu", out);
  AddFloats(hasher, "log-sum-exp of row", {LogSumExp(a.data(), kSize)});
}

}  // namespace

Digest NumericsProbe(MathMode mode, ThreadPool& pool) {
  FieldHasher hasher;
  hasher.Add("mode", mode == MathMode::kFast ? "fast" : "f32");
  ProbeMatMul(hasher, mode, pool);
  ProbeAttention(hasher, pool);
  ProbeOps(hasher);
  return hasher.Finish();
}

std::string SimdTargetName() {
  // Targets are numbered from the best.
  const int64_t usable = hwy::SupportedTargets() & HWY_TARGETS;
  return hwy::TargetName(usable & -usable);
}

}  // namespace larder
