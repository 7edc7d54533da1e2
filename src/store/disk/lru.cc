// Least recently used: a list through the slots, the coldest at the front.
#include <algorithm>
#include <memory>
#include <vector>

#include "store/disk/index.h"
#include "store/disk/policy.h"

namespace larder {
namespace {

class Lru final : public DiskPolicy {
 public:
  void Add(uint32_t slot) override {
    while (slot / kSlab >= slabs_.size()) slabs_.push_back(std::make_unique<std::vector<Link>>(kSlab));
    Link& link = At(slot);
    link = {.colder = hottest_, .hotter = kNoSlot};
    (hottest_ == kNoSlot ? coldest_ : At(hottest_).hotter) = slot;
    hottest_ = slot;
  }

  void Use(uint32_t slot) override {
    Remove(slot);
    Add(slot);
  }

  void Remove(uint32_t slot) override {
    const Link link = At(slot);
    (link.colder == kNoSlot ? coldest_ : At(link.colder).hotter) = link.hotter;
    (link.hotter == kNoSlot ? hottest_ : At(link.hotter).colder) = link.colder;
  }

  uint32_t First() const override { return coldest_; }
  uint32_t After(uint32_t slot) const override { return (*slabs_[slot / kSlab])[slot % kSlab].hotter; }
  uint64_t bytes() const override { return slabs_.size() * (kSlab * sizeof(Link) + sizeof(void*)); }

 private:
  static constexpr uint32_t kSlab = 1024;  // grows by pieces, so that growing does not double it
  struct Link {
    uint32_t colder = kNoSlot, hotter = kNoSlot;
  };
  Link& At(uint32_t slot) { return (*slabs_[slot / kSlab])[slot % kSlab]; }

  std::vector<std::unique_ptr<std::vector<Link>>> slabs_;
  uint32_t coldest_ = kNoSlot, hottest_ = kNoSlot;
};

}  // namespace

std::unique_ptr<DiskPolicy> MakeLruPolicy() { return std::make_unique<Lru>(); }

}  // namespace larder
