// Pages of keys and values as few-bit codes. A page of 16-bit rows (attention.h, kI16) is encoded once; it is
// read by decoding it into a page of the same layout, small enough for the first-level cache, so attention
// knows nothing of codes. Decoding is integers only; docs/formats/kv-codecs.md has the bytes.
//
//   kT4  4 bits, one scale and one zero point for each key and value: x = scale * (code - zero)
//   kQ8  8 bits, a scale for every 32 dimensions: x = scale * code
//   kQ4  4 bits, a scale for every 32 dimensions: x = scale * (code - 8)
#pragma once

#include <cstddef>
#include <cstdint>

namespace larder {

enum class KvCodes : uint8_t { kT4, kQ8, kQ4 };

// Heads must be a multiple of this.
inline constexpr int kCodedHeadStep = 16;

// Bytes of one page of one lane; a multiple of 512.
size_t CodedPageBytes(KvCodes codes, int head_dim);

// REQUIRES below: head_dim is a multiple of kCodedHeadStep and at most kMaxHeadDim; pages are 64-aligned.
//
// `rows`: a kI16 page with all 64 entries. An entry that is a NaN becomes one.
void EncodePage(KvCodes codes, int head_dim, const std::byte* rows, std::byte* coded);
// Into a whole kI16 page.
void DecodePage(KvCodes codes, int head_dim, const std::byte* coded, std::byte* rows);

namespace reference {
void EncodePage(KvCodes codes, int head_dim, const std::byte* rows, std::byte* coded);
void DecodePage(KvCodes codes, int head_dim, const std::byte* coded, std::byte* rows);
}  // namespace reference

// Multiplies each run of `block` numbers of x [n] by the orthogonal, symmetric Hadamard matrix of that size,
// in place: twice is the identity up to rounding. REQUIRES: block is a power of two that divides n.
void Hadamard(float* x, int64_t n, int block);

namespace reference {
void Hadamard(float* x, int64_t n, int block);
}

}  // namespace larder
