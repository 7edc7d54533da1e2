// Pages for lane tables from the heap, at most `limit` of all sizes; checks that each comes back once, to
// where it is from.
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
  Result<std::byte*> Take() override { return TakeOf(page_bytes_); }
  void Return(std::byte* page) override { ReturnOf(page_bytes_, page); }
  PageSource& OfSize(size_t page_bytes) override {
    return others_.try_emplace(page_bytes, this, page_bytes).first->second;
  }
  void SetLimit(size_t limit) { limit_ = limit; }
  size_t taken() const { return pages_.size(); }
  size_t bytes() const {
    size_t sum = 0;
    for (const auto& [data, page] : pages_) sum += page.size();
    return sum;
  }

 private:
  class Sized final : public PageSource {
   public:
    Sized(HeapPages* all, size_t page_bytes) : all_(all), page_bytes_(page_bytes) {}
    Result<std::byte*> Take() override { return all_->TakeOf(page_bytes_); }
    void Return(std::byte* page) override { all_->ReturnOf(page_bytes_, page); }
    PageSource& OfSize(size_t page_bytes) override { return all_->OfSize(page_bytes); }

   private:
    HeapPages* all_;
    size_t page_bytes_;
  };
  Result<std::byte*> TakeOf(size_t page_bytes) {
    if (pages_.size() == limit_) return Fail(ErrorKind::kExhausted, "no more pages");
    auto page = AlignedBuffer::Allocate(page_bytes);
    std::byte* data = page->data();
    pages_.emplace(data, *std::move(page));
    return data;
  }
  void ReturnOf(size_t page_bytes, std::byte* page) {
    const auto it = pages_.find(page);
    ASSERT_NE(it, pages_.end());
    ASSERT_EQ(it->second.size(), page_bytes);
    pages_.erase(it);
  }

  size_t page_bytes_, limit_;
  std::map<std::byte*, AlignedBuffer> pages_;
  std::map<size_t, Sized> others_;
};

}  // namespace larder
