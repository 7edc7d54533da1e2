// Single rows in and out of pages.
#include <cstring>

#include "compute/attention.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/kv_rows.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

void ToHalvesOnTarget(const float* from, int n, uint16_t* to) {
  int i = 0;
  for (; i + 16 <= n; i += 16) StoreHalf(Load(from + i), to + i);
  for (; i < n; ++i) to[i] = FloatToHalf(from[i]);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {
namespace {

HWY_EXPORT(ToHalvesOnTarget);

constexpr int kChunk = 64;  // channels converted at a time

// Keys are [head_dim][64]: one row's elements lie 64 apart.
template <class T>
void ScatterKey(const T* from, int n, T* to) {
  for (int d = 0; d < n; ++d) to[static_cast<int64_t>(d) * kPageTokens] = from[d];
}

std::byte* MutableV(std::byte* page, KvType type, int head_dim) {
  return const_cast<std::byte*>(static_cast<const std::byte*>(PageV(page, type, head_dim)));
}

}  // namespace

size_t PageBytes(KvType type, int head_dim) {
  const size_t bytes = 2 * kPageTokens * static_cast<size_t>(head_dim) * KvTypeBytes(type);
  return (bytes + 511) / 512 * 512;
}

void StoreKvRow(KvType type, int head_dim, const float* k, const float* v, std::byte* page, int slot) {
  std::byte* v_row =
      MutableV(page, type, head_dim) + KvTypeBytes(type) * static_cast<size_t>(slot * head_dim);
  if (type == KvType::kF32) {
    ScatterKey(k, head_dim, reinterpret_cast<float*>(page) + slot);
    std::memcpy(v_row, v, sizeof(float) * static_cast<size_t>(head_dim));
    return;
  }
  const auto to_halves = HWY_DYNAMIC_DISPATCH(ToHalvesOnTarget);
  to_halves(v, head_dim, reinterpret_cast<uint16_t*>(v_row));
  for (int d = 0; d < head_dim; d += kChunk) {
    uint16_t halves[kChunk];
    const int n = HWY_MIN(kChunk, head_dim - d);
    to_halves(k + d, n, halves);
    ScatterKey(halves, n, reinterpret_cast<uint16_t*>(page) + static_cast<int64_t>(d) * kPageTokens + slot);
  }
}

void CopyKvRows(KvType type, int head_dim, const std::byte* from, std::byte* to, int rows) {
  const size_t element = KvTypeBytes(type);
  const size_t count = static_cast<size_t>(rows);
  for (int d = 0; d < head_dim; ++d) {
    const size_t at = element * kPageTokens * static_cast<size_t>(d);
    std::memcpy(to + at, from + at, element * count);
  }
  std::memcpy(MutableV(to, type, head_dim), PageV(from, type, head_dim),
              element * count * static_cast<size_t>(head_dim));
}

void LoadKvRow(KvType type, int head_dim, const std::byte* page, int slot, float* k, float* v) {
  const void* values = PageV(page, type, head_dim);
  for (int d = 0; d < head_dim; ++d) {
    const int64_t key_at = static_cast<int64_t>(d) * kPageTokens + slot;
    const int64_t value_at = static_cast<int64_t>(slot) * head_dim + d;
    if (type == KvType::kF32) {
      k[d] = reinterpret_cast<const float*>(page)[key_at];
      v[d] = static_cast<const float*>(values)[value_at];
    } else {
      k[d] = HalfToFloat(reinterpret_cast<const uint16_t*>(page)[key_at]);
      v[d] = HalfToFloat(static_cast<const uint16_t*>(values)[value_at]);
    }
  }
}

}  // namespace larder
#endif
