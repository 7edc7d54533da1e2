#include "compute/quantize.h"

#include <cmath>
#include <cstring>

#include "compute/quantize_blocks.h"

namespace larder {
namespace formats {
namespace {

// 32 four-bit codes in 16 bytes: weights 0-15 in the low halves, 16-31 in the high halves.
void PackNibbles(const int* codes, uint8_t* packed) {
  for (int i = 0; i < 16; ++i) packed[i] = static_cast<uint8_t>((codes[i] & 15) | (codes[i + 16] & 15) << 4);
}

// The element with the largest magnitude, with its sign.
float Extreme(const float* x, int n) {
  return *std::max_element(x, x + n, [](float a, float b) { return std::abs(a) < std::abs(b); });
}

// The extreme element gets the lowest code, -levels, whichever its sign: the codes reach one step further to
// that side.
void SymmetricCodes(const float* x, int levels, uint8_t* scale_bytes, int* codes) {
  const float scale = StoreHalf(Extreme(x, 32) / static_cast<float>(-levels), scale_bytes);
  const float inverse = Inverse(scale);
  for (int i = 0; i < 32; ++i) codes[i] = RoundTo(x[i] * inverse, -levels, levels - 1) + levels;
}

}  // namespace

void PackQ4_0(const float* x, uint8_t* block) {
  int codes[32];
  SymmetricCodes(x, 8, block, codes);
  PackNibbles(codes, block + 2);
}

void PackQ5_0(const float* x, uint8_t* block) {
  int codes[32];
  SymmetricCodes(x, 16, block, codes);
  std::memset(block + 2, 0, 4);
  for (int i = 0; i < 32; ++i) block[2 + i / 8] |= static_cast<uint8_t>((codes[i] >> 4) << (i % 8));
  PackNibbles(codes, block + 6);
}

void PackQ4_1(const float* x, uint8_t* block) {
  const auto [low, high] = std::minmax_element(x, x + 32);
  const float scale = StoreHalf((*high - *low) / 15.0f, block);
  const float min = StoreHalf(*low, block + 2);
  const float inverse = Inverse(scale);
  int codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = RoundTo((x[i] - min) * inverse, 0, 15);
  PackNibbles(codes, block + 4);
}

void PackQ8_0(const float* x, uint8_t* block) {
  const float inverse = Inverse(StoreHalf(std::abs(Extreme(x, 32)) / 127.0f, block));
  for (int i = 0; i < 32; ++i)
    block[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(RoundTo(x[i] * inverse, -127, 127)));
}

}  // namespace formats

namespace {

formats::PackBlock Packer(TensorType type) {
  switch (type) {
    case TensorType::kQ4_0:
      return formats::PackQ4_0;
    case TensorType::kQ4_1:
      return formats::PackQ4_1;
    case TensorType::kQ5_0:
      return formats::PackQ5_0;
    case TensorType::kQ8_0:
      return formats::PackQ8_0;
    case TensorType::kQ4_K:
      return formats::PackQ4_K;
    case TensorType::kQ6_K:
      return formats::PackQ6_K;
    default:
      return nullptr;
  }
}

}  // namespace

bool CanQuantize(TensorType type) {
  return type == TensorType::kF32 || type == TensorType::kF16 || Packer(type) != nullptr;
}

Status QuantizeRow(TensorType type, const float* src, int64_t n, void* out) {
  const FormatInfo* info = FindFormat(static_cast<uint32_t>(type));
  LARDER_CHECK(CanQuantize(type) && n >= 0 && n % info->block_elements == 0);
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(src[i]))
      return Fail(ErrorKind::kInvalid, "element {} of a row is {}; only finite weights can be quantised", i,
                  src[i]);
  }
  auto* bytes = static_cast<uint8_t*>(out);
  if (type == TensorType::kF32) {
    if (n > 0) std::memcpy(bytes, src, static_cast<size_t>(n) * sizeof(float));
  } else if (type == TensorType::kF16) {
    for (int64_t i = 0; i < n; ++i) formats::StoreHalf(src[i], bytes + 2 * i);
  } else {
    const formats::PackBlock pack = Packer(type);
    for (int64_t start = 0; start < n; start += info->block_elements, bytes += info->block_bytes)
      pack(src + start, bytes);
  }
  return {};
}

}  // namespace larder
