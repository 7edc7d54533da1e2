// Space of one Attention call; grows, never shrinks, is never cleared.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "compute/attention.h"

namespace larder {

// A buffer of floats that keeps its size unless it must grow. Contents are undefined.
class GrowingFloats {
 public:
  float* Get(size_t count) {
    if (buffer_.size() < count * sizeof(float)) {
      Result<AlignedBuffer> larger = AlignedBuffer::Allocate(count * sizeof(float));
      LARDER_CHECK(larger.has_value());
      buffer_ = *std::move(larger);
    }
    return buffer_.as<float>();
  }

 private:
  AlignedBuffer buffer_;
};

// Where an item's rows find their pages.
struct SpanProvider {
  const TileProvider* tiles;
  int64_t entries;
  std::array<KvPage, kSpanPages> pages;
  std::array<const void*, kSpanPages> sources;  // of pages: where they lie, or what they are made from
  std::array<bool, kSpanPages> t4;              // of sources
  bool done;
};

struct AttentionScratch::Impl {
  struct Worker {
    GrowingFloats tiles;         // a span's pages made on the way
    GrowingFloats query_codes;   // kI16: [query][head_dim rounded up to 32] 16-bit codes
    GrowingFloats query_scales;  // [query]
    GrowingFloats running;       // softmax of the span: [query]{maximum, sum, values}
    GrowingFloats total;         // and of the spans so far
    std::vector<SpanProvider> providers;
  };
  std::vector<Worker> workers;
  GrowingFloats partial;  // spans' results, [row][head][span]{maximum, sum, values}
  std::atomic<uint64_t> pages_read{0};
};

}  // namespace larder
