#include "model/vocab_index.h"

#include <algorithm>
#include <bit>

namespace larder {
namespace {

uint64_t HashOf(std::string_view text) {
  return Checksum64(std::as_bytes(std::span(text.data(), text.size())));
}

}  // namespace

void TextIndex::Build(const std::vector<std::string>* vocabulary, std::span<const int32_t> ids) {
  vocabulary_ = vocabulary;
  slots_.assign(std::bit_ceil(ids.size() * 2 + 1), Slot{});
  mask_ = slots_.size() - 1;
  longest_ = 0;
  for (int32_t id : ids) {
    const std::string& text = (*vocabulary)[static_cast<size_t>(id)];
    const uint64_t hash = HashOf(text);
    const auto tag = static_cast<uint32_t>(hash >> 32);
    size_t at = hash & mask_;
    bool known = false;
    for (; slots_[at].id >= 0; at = (at + 1) & mask_) {
      known = slots_[at].tag == tag && (*vocabulary)[static_cast<size_t>(slots_[at].id)] == text;
      if (known) break;
    }
    if (known) continue;
    slots_[at] = {tag, id};
    longest_ = std::max(longest_, text.size());
  }
}

int32_t TextIndex::Find(std::string_view text) const {
  if (text.size() > longest_) return -1;
  const uint64_t hash = HashOf(text);
  const auto tag = static_cast<uint32_t>(hash >> 32);
  for (size_t at = hash & mask_; slots_[at].id >= 0; at = (at + 1) & mask_) {
    if (slots_[at].tag == tag && (*vocabulary_)[static_cast<size_t>(slots_[at].id)] == text)
      return slots_[at].id;
  }
  return -1;
}

void PrefixIndex::Build(const std::vector<std::string>* vocabulary, std::vector<int32_t> ids) {
  vocabulary_ = vocabulary;
  std::erase_if(ids, [&](int32_t id) { return (*vocabulary)[static_cast<size_t>(id)].empty(); });
  const auto text = [&](int32_t id) { return std::string_view((*vocabulary)[static_cast<size_t>(id)]); };
  std::sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    const int order = text(a).compare(text(b));
    return order != 0 ? order < 0 : a < b;
  });
  ids.erase(std::unique(ids.begin(), ids.end(), [&](int32_t a, int32_t b) { return text(a) == text(b); }),
            ids.end());
  ids_ = std::move(ids);
  first_.fill(0);
  for (int32_t id : ids_) ++first_[static_cast<uint8_t>(text(id)[0]) + 1];
  for (size_t byte = 0; byte < 256; ++byte) first_[byte + 1] += first_[byte];
}

void PrefixIndex::Narrow(char byte, size_t depth, uint32_t& low, uint32_t& high) const {
  const auto wanted = static_cast<uint8_t>(byte);
  const auto at = [&](uint32_t index) { return static_cast<uint8_t>(TextOf(index)[depth]); };
  const auto first_not = [&](uint32_t from, auto below) {
    uint32_t left = from, right = high;
    while (left < right) {
      const uint32_t middle = left + (right - left) / 2;
      if (below(at(middle))) {
        left = middle + 1;
      } else {
        right = middle;
      }
    }
    return left;
  };
  low = first_not(low, [&](uint8_t b) { return b < wanted; });
  high = first_not(low, [&](uint8_t b) { return b <= wanted; });
}

}  // namespace larder
