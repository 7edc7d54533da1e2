// The plane of exact rows behind a page of a text's first block. Per token: its key and value as the 16-bit
// codes of the page they come from, and their two scales.
#include <cstring>

#include "compute/attention.h"
#include "kv/codec/codec.h"

namespace larder {
namespace {

// K [tokens][head_dim], V [tokens][head_dim] codes, scales [2][tokens].
struct Plane {
  template <class Body>
  static void ForEachElement(int tokens, int head_dim, Body&& body) {
    for (int token = 0; token < tokens; ++token) {
      for (int d = 0; d < head_dim; ++d) {
        const int key = (d / 2 * kPageTokens + token) * 2 + d % 2;
        const int value = (token / 2 * head_dim + d) * 2 + token % 2;
        body(key, value, token * head_dim + d);
      }
    }
  }
  static size_t Elements(int tokens, int head_dim) {
    return static_cast<size_t>(tokens) * static_cast<size_t>(head_dim);
  }
};

}  // namespace

size_t FirstPageBytes(const KvCodec& codec, int head_dim) {
  const size_t elements = Plane::Elements(codec.sinks(), head_dim);
  const size_t plane =
      2 * elements * sizeof(int16_t) + 2 * static_cast<size_t>(codec.sinks()) * sizeof(float);
  return codec.PageBytes(head_dim) + (plane + 511) / 512 * 512;
}

void EncodeFirst(const KvCodec& codec, int head_dim, const std::byte* rows, std::byte* coded) {
  codec.Encode(head_dim, rows, coded);
  const size_t page_bytes = codec.PageBytes(head_dim), elements = Plane::Elements(codec.sinks(), head_dim);
  std::byte* plane = coded + page_bytes;
  std::memset(plane, 0, FirstPageBytes(codec, head_dim) - page_bytes);
  const KvPage page = StoredPage(KvType::kI16, head_dim, rows);
  auto* k = reinterpret_cast<int16_t*>(plane);
  int16_t* v = k + elements;
  Plane::ForEachElement(codec.sinks(), head_dim, [&](int key, int value, int at) {
    k[at] = static_cast<const int16_t*>(page.k)[key];
    v[at] = static_cast<const int16_t*>(page.v)[value];
  });
  auto* scales = reinterpret_cast<float*>(v + elements);
  for (int token = 0; token < codec.sinks(); ++token) {
    scales[token] = page.scales[token];
    scales[codec.sinks() + token] = page.scales[kPageTokens + token];
  }
}

void DecodeFirst(const KvCodec& codec, int head_dim, const std::byte* coded, std::byte* rows) {
  codec.Decode(head_dim, coded, rows);
  const size_t elements = Plane::Elements(codec.sinks(), head_dim);
  const KvPage page = StoredPage(KvType::kI16, head_dim, rows);
  const auto* k = reinterpret_cast<const int16_t*>(coded + codec.PageBytes(head_dim));
  const int16_t* v = k + elements;
  auto* page_k = reinterpret_cast<int16_t*>(rows);
  int16_t* page_v = page_k + (static_cast<const int16_t*>(page.v) - static_cast<const int16_t*>(page.k));
  Plane::ForEachElement(codec.sinks(), head_dim, [&](int key, int value, int at) {
    page_k[key] = k[at];
    page_v[value] = v[at];
  });
  const auto* scales = reinterpret_cast<const float*>(v + elements);
  auto* page_scales =
      reinterpret_cast<float*>(rows + (reinterpret_cast<const std::byte*>(page.scales) - rows));
  for (int token = 0; token < codec.sinks(); ++token) {
    page_scales[token] = scales[token];
    page_scales[kPageTokens + token] = scales[codec.sinks() + token];
  }
}

}  // namespace larder
