// Pages for lane tables from the heap, at most `limit`; checks that each comes back once.
#pragma once

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <utility>

#include "base/memory.h"
#include "kv/lanes.h"

namespace larder {

class HeapPages final : public PageSource {
 public:
  explicit HeapPages(size_t page_bytes, size_t limit = std::numeric_limits<size_t>::max())
      : page_bytes_(page_bytes), limit_(limit) {}
  ~HeapPages() override { EXPECT_TRUE(pages_.empty()); }
  Result<std::byte*> Take() override {
    if (pages_.size() == limit_) return Fail(ErrorKind::kExhausted, "no more pages");
    auto page = AlignedBuffer::Allocate(page_bytes_);
    std::byte* data = page->data();
    pages_.emplace(data, *std::move(page));
    return data;
  }
  void Return(std::byte* page) override { ASSERT_EQ(pages_.erase(page), 1u); }
  size_t taken() const { return pages_.size(); }

 private:
  size_t page_bytes_, limit_;
  std::map<std::byte*, AlignedBuffer> pages_;
};

}  // namespace larder
