// Any bytes as the frame before a record in a segment, as they are and with their checksum put right. What is
// accepted must hold together, and be read again as it is written.
#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/hash.h"
#include "store/disk/format.h"

namespace {

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

void Decode(std::span<const std::byte> bytes, const larder::StoreId& store) {
  const auto frame = larder::DecodeFrame(bytes, store);
  if (!frame) return Require(!frame.error().message.empty());
  const larder::RecordPlace& place = frame->place;
  Require(place.head_pages >= 1 && place.head_pages <= larder::kMaxHeadPages);
  Require(place.pages > place.head_pages && place.page + uint64_t{place.pages} <= UINT32_MAX);
  Require(larder::kFrameBytes + uint64_t{frame->head_bytes} <= place.head_pages * larder::kPage);
  std::array<std::byte, larder::kFrameBytes> again{};
  larder::EncodeFrame(*frame, store, again);
  const auto same = larder::DecodeFrame(again, store);
  Require(same && same->place == place && same->name == frame->name && same->parent == frame->parent &&
          same->space == frame->space && same->born == frame->born && same->sealed == frame->sealed &&
          same->payload_digest == frame->payload_digest && same->head_bytes == frame->head_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::vector<std::byte> bytes(size);
  std::ranges::copy(std::as_bytes(std::span(data, size)), bytes.begin());
  larder::StoreId store{};
  Decode(bytes, store);
  if (size < larder::kFrameBytes) return 0;
  std::memcpy(store.data(), data + 136, store.size());
  const uint64_t checksum = larder::Checksum64(std::span(bytes).first(larder::kFrameBytes - 8));
  for (size_t i = 0; i < 8; ++i) {
    bytes[larder::kFrameBytes - 8 + i] = static_cast<std::byte>(checksum >> (8 * i));
  }
  Decode(bytes, store);
  return 0;
}
