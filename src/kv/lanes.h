// Private lane tables: for methods that keep different tokens per head. Every lane of a sequence has its own
// length, its own pages (carved from blocks of the cache's budget) and the original position of each entry;
// removal is O(1) and moves the last entry into the hole, because attention does not care about order in
// `keep` mode.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/result.h"
#include "kv/shape.h"

namespace larder {

enum class PositionMode : uint8_t {
  kKeep,     // keys stay rotated to their original positions
  kCompact,  // position = rank in the lane; keys are stored un-rotated and rotated by the tile on read
};

// Takes and returns pages; the cache's budget behind a small interface, so that tables can be tested alone.
class PageSource {
 public:
  virtual ~PageSource() = default;
  virtual Result<std::byte*> Take() = 0;  // page_bytes of the shape; kExhausted
  virtual void Return(std::byte* page) = 0;
};

class LaneTable final : public TileProvider {
 public:
  // rope_cos/rope_sin (compact mode only): [positions, head_dim / 2] tables that outlive this; null in keep
  // mode.
  struct RopeTables {
    const float* cosines = nullptr;
    const float* sines = nullptr;
    int64_t positions = 0;
  };
  LaneTable(const KvShape* shape, PageSource* pages, PositionMode mode, RopeTables rope);
  ~LaneTable() override;

  // k, v: [head_dim] floats; k rotated in keep mode, un-rotated in compact mode.
  Status Append(int layer, int kv_head, const float* k, const float* v, int32_t position);
  // Removes entry i by moving the last entry there (keep) or by closing the gap in order (compact: ranks must
  // hold).
  void Remove(int layer, int kv_head, int64_t entry);
  int64_t Length(int layer, int kv_head) const;
  int32_t PositionOf(int layer, int kv_head, int64_t entry) const;  // original position, both modes
  // Optional per-entry bias on the scaled score (merging methods); 0 by default.
  void SetLogitBias(int layer, int kv_head, int64_t entry, float bias);
  uint64_t bytes() const;  // pages and tables

  int64_t Entries(int layer, int kv_head) const override;
  bool MakesTiles() const override { return mode_ == PositionMode::kCompact; }  // keys rotated by their ranks
  KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const override;

 private:
  struct Lane;
  Lane& At(int layer, int kv_head);
  const Lane& At(int layer, int kv_head) const;
  void RotateInto(const std::byte* stored, size_t first_rank, int entries, std::byte* scratch) const;
  const KvShape* shape_;
  PageSource* source_;
  PositionMode mode_;
  RopeTables rope_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace larder
