// Coded pages, one element at a time, as kv_codes.h and docs/formats/kv-codecs.md define them.
#include <cstring>

#include "compute/attention.h"
#include "compute/kv_codes_math.h"

namespace larder::reference {
namespace {

// Element (entry, dim) of the keys or values of a kI16 page.
int ElementOf(int head_dim, bool value, int entry, int dim) {
  return value ? (entry / 2 * head_dim + dim) * 2 + entry % 2 : (dim / 2 * kPageTokens + entry) * 2 + dim % 2;
}

struct RowsPage {
  explicit RowsPage(int head_dim, const std::byte* page) {
    const KvPage stored = StoredPage(KvType::kI16, head_dim, page);
    elements[0] = const_cast<int16_t*>(static_cast<const int16_t*>(stored.k));
    elements[1] = const_cast<int16_t*>(static_cast<const int16_t*>(stored.v));
    scales = const_cast<float*>(stored.scales);
  }
  int16_t* elements[2];  // of keys, of values
  float* scales;         // [2][64]
};

uint16_t& MetadataAt(std::byte* coded, size_t at, int group, int entry) {
  return reinterpret_cast<uint16_t*>(coded + at)[group * kPageTokens + entry];
}

// Nibble or byte of an element, as unsigned.
uint8_t GetCode(const CodedLayout& layout, const std::byte* coded, int value, int element) {
  const auto* codes = reinterpret_cast<const uint8_t*>(coded + layout.CodesAt(value));
  if (layout.codes == KvCodes::kQ8) return codes[element];
  const int chunk = element / (2 * layout.half()), in = element % (2 * layout.half());
  const uint8_t byte = codes[chunk * layout.half() + in % layout.half()];
  return in < layout.half() ? byte & 15 : byte >> 4;
}

void PutCode(const CodedLayout& layout, std::byte* coded, int value, int element, uint8_t code) {
  auto* codes = reinterpret_cast<uint8_t*>(coded + layout.CodesAt(value));
  if (layout.codes == KvCodes::kQ8) {
    codes[element] = code;
    return;
  }
  const int chunk = element / (2 * layout.half()), in = element % (2 * layout.half());
  uint8_t& byte = codes[chunk * layout.half() + in % layout.half()];
  byte = in < layout.half() ? static_cast<uint8_t>((byte & 0xF0) | code)
                            : static_cast<uint8_t>((byte & 0x0F) | code << 4);
}

}  // namespace

void EncodePage(KvCodes codes, int head_dim, const std::byte* rows, std::byte* coded) {
  const CodedLayout layout(codes, head_dim);
  const RowsPage page(head_dim, rows);
  std::memset(coded, 0, layout.bytes());
  for (int value = 0; value < 2; ++value) {
    for (int entry = 0; entry < kPageTokens; ++entry) {
      const auto element = [&](int dim) { return ElementOf(head_dim, value == 1, entry, dim); };
      for (int group = 0; group < layout.groups; ++group) {
        int least = 0, largest = 0;
        for (int dim = 0; dim < head_dim; ++dim) {
          if (layout.GroupOf(dim) != group) continue;
          const int x = page.elements[value][element(dim)];
          least = std::min(least, x);
          largest = std::max(largest, x);
        }
        const CodeRule rule = RuleOf(codes, least, largest, page.scales[value * kPageTokens + entry]);
        MetadataAt(coded, layout.ScalesAt(value), group, entry) = rule.scale;
        if (codes == KvCodes::kT4) MetadataAt(coded, layout.ZerosAt(value), group, entry) = rule.zero;
        for (int dim = 0; dim < head_dim; ++dim) {
          if (layout.GroupOf(dim) != group) continue;
          const auto x = static_cast<float>(page.elements[value][element(dim)]);
          PutCode(layout, coded, value, element(dim), CodeOf(x, rule.to_code, rule.offset, LimitsOf(codes)));
        }
      }
    }
  }
}

void DecodePage(KvCodes codes, int head_dim, const std::byte* coded, std::byte* rows) {
  const CodedLayout layout(codes, head_dim);
  const RowsPage page(head_dim, rows);
  const auto metadata = [&](size_t at, int group, int entry) {
    return MetadataAt(const_cast<std::byte*>(coded), at, group, entry);
  };
  for (int value = 0; value < 2; ++value) {
    for (int entry = 0; entry < kPageTokens; ++entry) {
      float& scale = page.scales[value * kPageTokens + entry];
      int16_t multipliers[kMaxHeadDim / kCodedGroup] = {};
      if (codes == KvCodes::kT4) {
        scale = HalfToFloat(metadata(layout.ScalesAt(value), 0, entry)) / kZeroUnit;
      } else {
        const auto* scales = reinterpret_cast<const uint16_t*>(coded + layout.ScalesAt(value)) + entry;
        scale = MultipliersOf(codes, scales, layout.groups, multipliers, 1);
      }
      for (int dim = 0; dim < head_dim; ++dim) {
        const int element = ElementOf(head_dim, value == 1, entry, dim);
        const int code = GetCode(layout, coded, value, element);
        int16_t& out = page.elements[value][element];
        if (codes == KvCodes::kT4) {
          out = static_cast<int16_t>(code * static_cast<int>(kZeroUnit) -
                                     metadata(layout.ZerosAt(value), 0, entry));
        } else {
          const int wide = codes == KvCodes::kQ8 ? static_cast<int8_t>(code) * 256 : (code - 8) * 4096;
          out = static_cast<int16_t>((wide * multipliers[layout.GroupOf(dim)] + 0x4000) >> 15);
        }
      }
    }
  }
}

void Hadamard(float* x, int64_t n, int block) {
  const float factor = 1.0f / std::sqrt(static_cast<float>(block));
  for (int64_t first = 0; first < n; first += block) {
    for (int stride = 1; stride < block; stride *= 2) {
      for (int i = 0; i < block; ++i) {
        if ((i & stride) != 0) continue;
        float& a = x[first + i];
        float& b = x[first + i + stride];
        const float sum = a + b, difference = a - b;
        a = sum;
        b = difference;
      }
    }
    for (int i = 0; i < block; ++i) x[first + i] *= factor;
  }
}

}  // namespace larder::reference
