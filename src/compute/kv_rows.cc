// Single rows in and out of pages.
#include <cstring>

#include "base/result.h"
#include "compute/attention.h"
#include "compute/attention_math.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/kv_rows.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

float QuantizeOnTarget(const float* x, int n, int16_t* codes) {
  return QuantizeRow16(x, n, kStoredCodeLimit, codes);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {
namespace {

HWY_EXPORT(QuantizeOnTarget);

size_t KeyBytes(KvType type, int head_dim) {
  const size_t dim = static_cast<size_t>(head_dim);
  return kPageTokens * (type == KvType::kI16 ? (dim + 1) / 2 * 2 * sizeof(int16_t) : dim * sizeof(float));
}
size_t ValueBytes(KvType type, int head_dim) {
  return kPageTokens * static_cast<size_t>(head_dim) *
         (type == KvType::kI16 ? sizeof(int16_t) : sizeof(float));
}

// The parts of a kI16 page, to be written (Byte std::byte) or read (const std::byte).
template <class Byte>
struct CodedPage {
  template <class T>
  using Like = std::conditional_t<std::is_const_v<Byte>, const T, T>;

  CodedPage(Byte* page, int head_dim)
      : k(reinterpret_cast<Like<int16_t>*>(page)),
        v(reinterpret_cast<Like<int16_t>*>(page + KeyBytes(KvType::kI16, head_dim))),
        scales(reinterpret_cast<Like<float>*>(page + KeyBytes(KvType::kI16, head_dim) +
                                              ValueBytes(KvType::kI16, head_dim))),
        head_dim(head_dim) {}

  Like<int16_t>* Key(int slot, int d) const { return k + (d / 2 * kPageTokens + slot) * 2 + d % 2; }
  Like<int16_t>* Value(int slot, int d) const { return v + (slot / 2 * head_dim + d) * 2 + slot % 2; }

  Like<int16_t>* k;
  Like<int16_t>* v;
  Like<float>* scales;
  int head_dim;
};

void StoreCodedRow(int head_dim, const float* k, const float* v, std::byte* bytes, int slot) {
  LARDER_CHECK(head_dim <= kMaxHeadDim);
  const CodedPage<std::byte> page(bytes, head_dim);
  const auto quantize = HWY_DYNAMIC_DISPATCH(QuantizeOnTarget);
  int16_t codes[kMaxHeadDim + 1];
  page.scales[slot] = quantize(k, head_dim, codes);
  codes[head_dim] = 0;  // fills the last pair of an odd dimension
  for (int d = 0; d < head_dim; d += 2) std::memcpy(page.Key(slot, d), codes + d, 2 * sizeof(int16_t));
  page.scales[kPageTokens + slot] = quantize(v, head_dim, codes);
  int16_t* value = page.Value(slot, 0);  // the neighbour's elements lie between and may be written elsewhere
  for (int d = 0; d < head_dim; ++d) value[2 * d] = codes[d];
}

float* FloatValues(std::byte* page, int head_dim) {
  return reinterpret_cast<float*>(page + KeyBytes(KvType::kF32, head_dim));
}

void CopyFloatRow(int head_dim, const std::byte* from, int from_slot, std::byte* to, int to_slot) {
  for (int d = 0; d < head_dim; ++d) {
    const float* keys = reinterpret_cast<const float*>(from) + int64_t{d} * kPageTokens;
    (reinterpret_cast<float*>(to) + int64_t{d} * kPageTokens)[to_slot] = keys[from_slot];
  }
  const float* values = reinterpret_cast<const float*>(from + KeyBytes(KvType::kF32, head_dim));
  std::memcpy(FloatValues(to, head_dim) + int64_t{to_slot} * head_dim, values + int64_t{from_slot} * head_dim,
              sizeof(float) * static_cast<size_t>(head_dim));
}

void CopyCodedRow(int head_dim, const std::byte* from_bytes, int from_slot, std::byte* to_bytes,
                  int to_slot) {
  const CodedPage<const std::byte> from(from_bytes, head_dim);
  const CodedPage<std::byte> to(to_bytes, head_dim);
  for (int d = 0; d < head_dim; d += 2) {
    std::memcpy(to.Key(to_slot, d), from.Key(from_slot, d), 2 * sizeof(int16_t));
  }
  for (int d = 0; d < head_dim; ++d) *to.Value(to_slot, d) = *from.Value(from_slot, d);
  to.scales[to_slot] = from.scales[from_slot];
  to.scales[kPageTokens + to_slot] = from.scales[kPageTokens + from_slot];
}

}  // namespace

size_t PageBytes(KvType type, int head_dim) {
  const size_t scales = type == KvType::kI16 ? 2 * kPageTokens * sizeof(float) : 0;
  return (KeyBytes(type, head_dim) + ValueBytes(type, head_dim) + scales + 511) / 512 * 512;
}

KvPage StoredPage(KvType type, int head_dim, const std::byte* page) {
  KvPage out;
  out.k = page;
  out.v = page + KeyBytes(type, head_dim);
  if (type == KvType::kI16) out.scales = CodedPage<const std::byte>(page, head_dim).scales;
  return out;
}

void StoreKvRow(KvType type, int head_dim, const float* k, const float* v, std::byte* page, int slot) {
  if (type == KvType::kI16) return StoreCodedRow(head_dim, k, v, page, slot);
  float* keys = reinterpret_cast<float*>(page) + slot;
  for (int d = 0; d < head_dim; ++d) keys[int64_t{d} * kPageTokens] = k[d];
  std::memcpy(FloatValues(page, head_dim) + int64_t{slot} * head_dim, v,
              sizeof(float) * static_cast<size_t>(head_dim));
}

void CopyKvRows(KvType type, int head_dim, const std::byte* from, int from_slot, std::byte* to, int to_slot,
                int rows) {
  for (int i = 0; i < rows; ++i) {
    if (type == KvType::kI16) {
      CopyCodedRow(head_dim, from, from_slot + i, to, to_slot + i);
    } else {
      CopyFloatRow(head_dim, from, from_slot + i, to, to_slot + i);
    }
  }
}

void LoadKvRow(KvType type, int head_dim, const std::byte* page, int slot, float* k, float* v) {
  if (type == KvType::kI16) {
    const CodedPage<const std::byte> coded(page, head_dim);
    for (int d = 0; d < head_dim; ++d) {
      k[d] = static_cast<float>(*coded.Key(slot, d)) * coded.scales[slot];
      v[d] = static_cast<float>(*coded.Value(slot, d)) * coded.scales[kPageTokens + slot];
    }
    return;
  }
  const float* keys = reinterpret_cast<const float*>(page) + slot;
  for (int d = 0; d < head_dim; ++d) k[d] = keys[int64_t{d} * kPageTokens];
  const float* values = reinterpret_cast<const float*>(page + KeyBytes(type, head_dim));
  std::memcpy(v, values + int64_t{slot} * head_dim, sizeof(float) * static_cast<size_t>(head_dim));
}

}  // namespace larder
#endif
