#include "base/memory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <limits>

namespace larder {
namespace {

// Below and above the size from which a buffer is its own mapping.
constexpr size_t kSizes[] = {1, 63, 64, 65, 4096, 256 * 1024 - 1, 256 * 1024, 1 << 22};

TEST(Memory, BuffersAreAlignedAndZeroed) {
  for (size_t size : kSizes) {
    auto buffer = AlignedBuffer::Allocate(size);
    ASSERT_TRUE(buffer) << size;
    EXPECT_EQ(buffer->size(), size);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % kVectorAlign, 0u) << size;
    EXPECT_TRUE(
        std::all_of(buffer->data(), buffer->data() + size, [](std::byte b) { return b == std::byte{0}; }));
    std::memset(buffer->data(), 0xff, size);  // a second buffer must not see this
  }
}

TEST(Memory, EmptyBufferHoldsNothing) {
  auto buffer = AlignedBuffer::Allocate(0);
  ASSERT_TRUE(buffer);
  EXPECT_EQ(buffer->data(), nullptr);
  EXPECT_EQ(buffer->size(), 0u);
}

TEST(Memory, MoveTakesTheBytesAlong) {
  auto made = AlignedBuffer::Allocate(100);
  ASSERT_TRUE(made);
  AlignedBuffer a = *std::move(made);
  a.data()[7] = std::byte{42};
  AlignedBuffer b = std::move(a);
  EXPECT_EQ(b.data()[7], std::byte{42});
  AlignedBuffer c;
  c = std::move(b);
  EXPECT_EQ(c.data()[7], std::byte{42});
  EXPECT_EQ(b.size(), 0u);  // NOLINT: what is left behind is empty
}

TEST(Memory, ImpossibleSizesAreAnError) {
  const auto buffer = AlignedBuffer::Allocate(std::numeric_limits<size_t>::max() / 2);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().kind, ErrorKind::kExhausted);
}

TEST(Memory, FreedBuffersLeaveTheResidentSet) {
  constexpr size_t kSize = 64 << 20;
  const uint64_t before = ResidentBytes();
  ASSERT_GT(before, 0u);
  auto buffer = AlignedBuffer::Allocate(kSize);
  ASSERT_TRUE(buffer);
  std::memset(buffer->data(), 1, kSize);
  EXPECT_GE(ResidentBytes(), before + kSize / 2);
  buffer->Reset();
  EXPECT_LT(ResidentBytes(), before + kSize / 2);
  EXPECT_EQ(buffer->data(), nullptr);
}

TEST(Memory, SomeMemoryIsAvailable) { EXPECT_GT(AvailableBytes(), 1u << 20); }

}  // namespace
}  // namespace larder
