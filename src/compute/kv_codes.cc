// The kernels of coded pages. Keys are worked on entry by entry in vector lanes (a row of two dimensions has
// all 64 entries), values dimension by dimension; both are streams in the order in which a page lies.
#include <cstring>

#include "base/result.h"
#include "compute/attention.h"
#include "compute/kv_codes_math.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/kv_codes.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_ops-inl.h"

#ifndef LARDER_COMPUTE_KV_CODES_SPACE_
#define LARDER_COMPUTE_KV_CODES_SPACE_
namespace larder {
namespace {

constexpr int kKeyRow = 2 * kPageTokens;  // elements of two dimensions of all keys
constexpr int kMostGroups = kMaxHeadDim / kCodedGroup;
constexpr int kPairRows = kCodedGroup / 2;       // rows of keys that share a scale
constexpr int kGroupElements = 2 * kCodedGroup;  // of a row of values

// Where a kI16 page's numbers are.
struct RowsPage {
  RowsPage(int head_dim, const std::byte* page) {
    const KvPage stored = StoredPage(KvType::kI16, head_dim, page);
    k = const_cast<int16_t*>(static_cast<const int16_t*>(stored.k));
    v = const_cast<int16_t*>(static_cast<const int16_t*>(stored.v));
    scales = const_cast<float*>(stored.scales);
  }
  int16_t* k;
  int16_t* v;
  float* scales;
};

}  // namespace
}  // namespace larder
#endif

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

// --- decoding

template <int kHalf>
using Lanes = hn::CappedTag<int16_t, kHalf>;

// A chunk of 2 * kHalf elements of kT4; zeros[i % kPeriod] belongs to element i.
template <int kHalf>
HWY_INLINE void DecodeZeroed(const uint8_t* codes, const int16_t* low_zeros, const int16_t* high_zeros,
                             int16_t* to) {
  const Lanes<kHalf> d;
  const hn::Rebind<uint8_t, Lanes<kHalf>> bytes;
  const auto mask = hn::Set(d, 15 << 9);  // codes are counted in 512ths
  for (size_t i = 0; i < kHalf; i += hn::Lanes(d)) {
    const auto both = hn::PromoteTo(d, hn::LoadU(bytes, codes + i));
    const auto low = hn::And(hn::ShiftLeft<9>(both), mask);
    const auto high = hn::And(hn::ShiftLeft<5>(both), mask);
    hn::StoreU(hn::Sub(low, hn::LoadU(d, low_zeros + i)), d, to + i);
    hn::StoreU(hn::Sub(high, hn::LoadU(d, high_zeros + i)), d, to + kHalf + i);
  }
}

// A chunk of kQ4: nibbles become numbers of 16 bits whose top four are code - 8.
template <int kHalf>
HWY_INLINE void DecodeScaled4(const uint8_t* codes, const int16_t* low_multipliers,
                              const int16_t* high_multipliers, int16_t* to) {
  const Lanes<kHalf> d;
  const hn::Rebind<uint8_t, Lanes<kHalf>> bytes;
  const auto eight = hn::Set(d, static_cast<int16_t>(-0x8000));
  const auto mask = hn::Set(d, static_cast<int16_t>(-0x1000));
  for (size_t i = 0; i < kHalf; i += hn::Lanes(d)) {
    const auto both = hn::PromoteTo(d, hn::LoadU(bytes, codes + i));
    const auto low = hn::Xor(hn::ShiftLeft<12>(both), eight);
    const auto high = hn::Xor(hn::And(hn::ShiftLeft<8>(both), mask), eight);
    hn::StoreU(hn::MulFixedPoint15(low, hn::LoadU(d, low_multipliers + i)), d, to + i);
    hn::StoreU(hn::MulFixedPoint15(high, hn::LoadU(d, high_multipliers + i)), d, to + kHalf + i);
  }
}

template <int kHalf>
HWY_INLINE void DecodeScaled8(const int8_t* codes, const int16_t* multipliers, int16_t* to) {
  const Lanes<kHalf> d;
  const hn::Rebind<int8_t, Lanes<kHalf>> bytes;
  for (size_t i = 0; i < kHalf; i += hn::Lanes(d)) {
    const auto wide = hn::ShiftLeft<8>(hn::PromoteTo(d, hn::LoadU(bytes, codes + i)));
    hn::StoreU(hn::MulFixedPoint15(wide, hn::LoadU(d, multipliers + i)), d, to + i);
  }
}

// A chunk at `element`, with what belongs to its two halves.
template <KvCodes kCodes, int kHalf>
HWY_INLINE void DecodeChunk(const std::byte* codes, int64_t element, const int16_t* low, const int16_t* high,
                            int16_t* to) {
  if constexpr (kCodes == KvCodes::kQ8) {
    const auto* from = reinterpret_cast<const int8_t*>(codes) + element;
    DecodeScaled8<kHalf>(from, low, to);
    DecodeScaled8<kHalf>(from + kHalf, high, to + kHalf);
  } else {
    const auto* from = reinterpret_cast<const uint8_t*>(codes) + element / 2;
    if constexpr (kCodes == KvCodes::kT4) DecodeZeroed<kHalf>(from, low, high, to);
    if constexpr (kCodes == KvCodes::kQ4) DecodeScaled4<kHalf>(from, low, high, to);
  }
}

// What each entry subtracts (kT4) or multiplies by: [group][64]. Fills in the page's scales.
template <KvCodes kCodes>
void ReadMetadata(const CodedLayout& layout, const std::byte* coded, int value, int16_t* factors,
                  float* scales) {
  const auto* halves = reinterpret_cast<const uint16_t*>(coded + layout.ScalesAt(value));
  if constexpr (kCodes == KvCodes::kT4) {
    std::memcpy(factors, coded + layout.ZerosAt(value), kPageTokens * sizeof(int16_t));
    const F16x unit = Splat(1.0f / kZeroUnit);
    for (int e = 0; e < kPageTokens; e += 16) Store(Mul(LoadHalf(halves + e), unit), scales + e);
  } else {
    for (int e = 0; e < kPageTokens; ++e)
      scales[e] = MultipliersOf(kCodes, halves + e, layout.groups, factors + e, kPageTokens);
  }
}

template <KvCodes kCodes, int kHalf>
void DecodeKeys(const CodedLayout& layout, const std::byte* coded, const int16_t* factors, int16_t* to) {
  alignas(64) int16_t pairs[kKeyRow];  // of each entry, for both dimensions of a row
  const std::byte* codes = coded + layout.CodesAt(0);
  for (int group = 0; group < layout.groups; ++group, factors += kPageTokens) {
    for (int e = 0; e < kPageTokens; ++e) pairs[2 * e] = pairs[2 * e + 1] = factors[e];
    const int end =
        layout.groups == 1 ? layout.head_dim / 2 : std::min((group + 1) * kPairRows, layout.head_dim / 2);
    for (int64_t row = group * kPairRows; row < end; ++row) {
      HWY_UNROLL(4)
      for (int i = 0; i < kKeyRow; i += 2 * kHalf) {
        const int64_t element = row * kKeyRow + i;
        DecodeChunk<kCodes, kHalf>(codes, element, pairs + i, pairs + i + kHalf, to + element);
      }
    }
  }
}

template <KvCodes kCodes, int kHalf>
void DecodeValues(const CodedLayout& layout, const std::byte* coded, const int16_t* factors, int16_t* to) {
  alignas(64) int16_t pairs[kHalf];  // of two entries, again and again
  const std::byte* codes = coded + layout.CodesAt(1);
  const int row_elements = 2 * layout.head_dim;
  const int group_elements = layout.groups == 1 ? row_elements : kGroupElements;
  for (int row = 0; row < kPageTokens / 2; ++row) {
    for (int first = 0; first < row_elements; first += group_elements) {
      const int16_t* factor = factors + first / group_elements * kPageTokens + 2 * row;
      for (int i = 0; i < kHalf; i += 2) {
        pairs[i] = factor[0];
        pairs[i + 1] = factor[1];
      }
      const int end = std::min(first + group_elements, row_elements);
      for (int i = first; i < end; i += 2 * kHalf) {
        const int64_t element = int64_t{row} * row_elements + i;
        DecodeChunk<kCodes, kHalf>(codes, element, pairs, pairs, to + element);
      }
    }
  }
}

template <KvCodes kCodes, int kHalf>
void DecodeAs(const CodedLayout& layout, const std::byte* coded, std::byte* rows) {
  const RowsPage page(layout.head_dim, rows);
  alignas(64) int16_t factors[kMostGroups * kPageTokens];
  ReadMetadata<kCodes>(layout, coded, 0, factors, page.scales);
  DecodeKeys<kCodes, kHalf>(layout, coded, factors, page.k);
  ReadMetadata<kCodes>(layout, coded, 1, factors, page.scales + kPageTokens);
  DecodeValues<kCodes, kHalf>(layout, coded, factors, page.v);
}

template <KvCodes kCodes>
void DecodeHalf(const CodedLayout& layout, const std::byte* coded, std::byte* rows) {
  if (layout.half() == 32) return DecodeAs<kCodes, 32>(layout, coded, rows);
  DecodeAs<kCodes, 16>(layout, coded, rows);
}

void DecodeOnTarget(KvCodes codes, int head_dim, const std::byte* coded, std::byte* rows) {
  const CodedLayout layout(codes, head_dim);
  if (codes == KvCodes::kT4) return DecodeHalf<KvCodes::kT4>(layout, coded, rows);
  if (codes == KvCodes::kQ8) return DecodeHalf<KvCodes::kQ8>(layout, coded, rows);
  DecodeHalf<KvCodes::kQ4>(layout, coded, rows);
}

// --- encoding: plain loops, which compilers turn into vectors

// `count` elements that lie one after another, with the rule of element i at i % period.
HWY_INLINE void MakeCodes(const int16_t* x, int count, int period, const float* to_code, const float* offset,
                          CodeLimits limits, uint8_t* codes) {
  for (int first = 0; first < count; first += period) {
    for (int i = 0; i < period; ++i)
      codes[first + i] = CodeOf(static_cast<float>(x[first + i]), to_code[i], offset[i], limits);
  }
}

// Least and largest of the elements i, i + period, ...: [period], 0 included.
HWY_INLINE void FindRange(const int16_t* x, int count, int period, int16_t* least, int16_t* largest) {
  for (int i = 0; i < period; ++i) least[i] = largest[i] = 0;
  for (int first = 0; first < count; first += period) {
    for (int i = 0; i < period; ++i) {
      const int16_t y = x[first + i];
      least[i] = y < least[i] ? y : least[i];
      largest[i] = y > largest[i] ? y : largest[i];
    }
  }
}

struct Encoder {
  const CodedLayout& layout;
  std::byte* coded;
  const float* scales;  // [64] of the rows
  int value;

  // The rule of a group of an entry; its metadata is stored.
  HWY_INLINE CodeRule Rule(int group, int entry, int least, int largest) const {
    const CodeRule rule = RuleOf(layout.codes, least, largest, scales[entry]);
    Metadata(layout.ScalesAt(value))[group * kPageTokens + entry] = rule.scale;
    if (layout.codes == KvCodes::kT4) Metadata(layout.ZerosAt(value))[entry] = rule.zero;
    return rule;
  }
  uint16_t* Metadata(size_t at) const { return reinterpret_cast<uint16_t*>(coded + at); }
};

void EncodeKeys(const Encoder& encoder, const int16_t* x, uint8_t* codes) {
  const CodedLayout& layout = encoder.layout;
  const int rows = layout.head_dim / 2, group_rows = layout.groups == 1 ? rows : kPairRows;
  for (int group = 0; group < layout.groups; ++group) {
    const int first = group * group_rows * kKeyRow;
    const int count = std::min(group_rows, rows - group * group_rows) * kKeyRow;
    int16_t least[kKeyRow], largest[kKeyRow];
    FindRange(x + first, count, kKeyRow, least, largest);
    float to_code[kKeyRow], offset[kKeyRow];
    for (int e = 0; e < kPageTokens; ++e) {
      const CodeRule rule = encoder.Rule(group, e, std::min(least[2 * e], least[2 * e + 1]),
                                         std::max(largest[2 * e], largest[2 * e + 1]));
      to_code[2 * e] = to_code[2 * e + 1] = rule.to_code;
      offset[2 * e] = offset[2 * e + 1] = rule.offset;
    }
    MakeCodes(x + first, count, kKeyRow, to_code, offset, LimitsOf(layout.codes), codes + first);
  }
}

void EncodeValues(const Encoder& encoder, const int16_t* x, uint8_t* codes) {
  const CodedLayout& layout = encoder.layout;
  const int row_elements = 2 * layout.head_dim;
  const int group_elements = layout.groups == 1 ? row_elements : kGroupElements;
  for (int row = 0; row < kPageTokens / 2; ++row) {
    for (int group = 0; group < layout.groups; ++group) {
      const int first = row * row_elements + group * group_elements;
      const int count = std::min(group_elements, row_elements - group * group_elements);
      constexpr int kPeriod = 2 * kCodedHeadStep;  // divides every count
      int16_t least[kPeriod], largest[kPeriod];
      FindRange(x + first, count, kPeriod, least, largest);
      float to_code[kPeriod], offset[kPeriod];
      for (int entry = 0; entry < 2; ++entry) {
        int low = 0, high = 0;
        for (int i = entry; i < kPeriod; i += 2) {
          low = std::min<int>(low, least[i]);
          high = std::max<int>(high, largest[i]);
        }
        const CodeRule rule = encoder.Rule(group, 2 * row + entry, low, high);
        for (int i = entry; i < kPeriod; i += 2) {
          to_code[i] = rule.to_code;
          offset[i] = rule.offset;
        }
      }
      MakeCodes(x + first, count, kPeriod, to_code, offset, LimitsOf(layout.codes), codes + first);
    }
  }
}

void PackCodes(const CodedLayout& layout, const uint8_t* codes, int value, std::byte* coded) {
  auto* to = reinterpret_cast<uint8_t*>(coded + layout.CodesAt(value));
  if (layout.codes == KvCodes::kQ8) {
    std::memcpy(to, codes, layout.payload);
    return;
  }
  const size_t half = static_cast<size_t>(layout.half());
  for (size_t chunk = 0; chunk < layout.payload; chunk += half) {
    for (size_t j = 0; j < half; ++j)
      to[chunk + j] = static_cast<uint8_t>(codes[2 * chunk + j] | codes[2 * chunk + half + j] << 4);
  }
}

void EncodeOnTarget(KvCodes codes, int head_dim, const std::byte* rows, std::byte* coded) {
  const CodedLayout layout(codes, head_dim);
  const RowsPage page(head_dim, rows);
  std::memset(coded, 0, layout.bytes());
  alignas(64) uint8_t each[kPageTokens * kMaxHeadDim];
  EncodeKeys({layout, coded, page.scales, 0}, page.k, each);
  PackCodes(layout, each, 0, coded);
  EncodeValues({layout, coded, page.scales + kPageTokens, 1}, page.v, each);
  PackCodes(layout, each, 1, coded);
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(DecodeOnTarget);
HWY_EXPORT(EncodeOnTarget);

size_t CodedPageBytes(KvCodes codes, int head_dim) { return CodedLayout(codes, head_dim).bytes(); }

void EncodePage(KvCodes codes, int head_dim, const std::byte* rows, std::byte* coded) {
  LARDER_CHECK(head_dim % kCodedHeadStep == 0 && head_dim <= kMaxHeadDim);
  HWY_DYNAMIC_DISPATCH(EncodeOnTarget)(codes, head_dim, rows, coded);
}
void DecodePage(KvCodes codes, int head_dim, const std::byte* coded, std::byte* rows) {
  LARDER_CHECK(head_dim % kCodedHeadStep == 0 && head_dim <= kMaxHeadDim);
  HWY_DYNAMIC_DISPATCH(DecodeOnTarget)(codes, head_dim, coded, rows);
}

}  // namespace larder
#endif
