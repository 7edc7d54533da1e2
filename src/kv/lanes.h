// Private lane tables: for methods that keep different tokens per head. Every lane of a sequence has its own
// length, its own pages (carved from runs of the cache's budget) and the original position of each entry, and
// may begin with pages that it only borrows from a shared prefix. What is shared is never written: an entry
// that is to change is copied first. Full pages of a lane may be kept as codes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/memory.h"
#include "base/result.h"
#include "kv/row_store.h"
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
  // Pages of another size out of the same memory; lives as long as this.
  virtual PageSource& OfSize(size_t page_bytes) = 0;
};

// Neighbouring entries of a lane that become one.
struct MergedRun {
  int32_t first = 0, count = 1;  // entries [first, first + count)
  float logit_bias = 0;          // of what they become; a single entry stays as it is
};

class LaneTable final : public RowStore {
 public:
  // Beside each own page: positions, scores, a bias, and its place.
  static constexpr uint64_t kTableBytesPerPage = kPageTokens * (sizeof(int32_t) + 2 * sizeof(float)) + 16;
  // Compact mode only: [positions, rotary_dim / 2] tables that outlive this; null in keep mode.
  struct RopeTables {
    const float* cosines = nullptr;
    const float* sines = nullptr;
    int64_t positions = 0;
    int rotary_dim = 0;  // elements of a key that are rotated; 0: all
  };
  LaneTable(const KvShape* shape, PageSource* pages, PositionMode mode, RopeTables rope);
  ~LaneTable() override;
  LaneTable(LaneTable&& other) noexcept;  // `other` is only to be destroyed

  // Begins with rows [0, rows) of a prefix, at positions equal to their indices: whole pages are borrowed,
  // the rest is copied. The prefix outlives this, or borrows() is false by then. Keep mode, empty table.
  // kExhausted: nothing has changed.
  Status Borrow(const TileProvider* prefix, int64_t rows);
  bool borrows() const;  // whether any lane still reads the prefix
  // Copies what is still borrowed and gives tables only the memory that they use, so that this may outlive
  // the prefix. kExhausted: no entry has changed.
  Status Settle();
  // Becomes equal to a settled table of the same shape and mode, with pages of its own. Empty table.
  // kExhausted: nothing has changed.
  Status CopyFrom(const LaneTable& other);

  // Makes `rows` further entries writable in every lane, for rows whose original positions are
  // [position, position + rows). They are visible to attention's mask by position at once, and entries only
  // after Advance. In keep mode a row's position is its original one; in compact mode it is its rank, and all
  // lanes have the same length. kExhausted: nothing has changed.
  Status Reserve(int64_t rows, int32_t position);
  void Advance();  // what was reserved has been written
  int64_t reserved() const { return reserved_; }

  // Appends one entry. k, v: [head_dim] floats; k rotated in keep mode, un-rotated in compact mode.
  Status Append(int layer, int kv_head, const float* k, const float* v, int32_t position);
  // Removes entry i by moving the last entry there (keep) or by closing the gap in order (compact: ranks must
  // hold). kExhausted: a borrowed page would have to be copied and there is no room.
  Status Remove(int layer, int kv_head, int64_t entry);
  // Keeps only these entries, ascending, in their order; pages that get free go back at once. kExhausted:
  // nothing has changed.
  Status Keep(int layer, int kv_head, std::span<const int32_t> entries);
  // The lane becomes one entry for each of these runs, which ascend; what lies in none of them goes. Several
  // entries become the mean of their keys and values, rounded as any row: `weights` has a number for each
  // entry of the lane, and those of a run add up to 1. Its position, for attention's mask, is its newest
  // entry's, its score their sum. Pages that get free go back at once. Keep mode: no rank suits a mean.
  // No entry is a code. kExhausted: nothing has changed.
  Status Merge(int layer, int kv_head, std::span<const MergedRun> runs, std::span<const float> weights);

  // --- entries as codes: lanes_codes.cc. Keep mode, 16-bit rows.
  //
  // A lane begins with its pages of codes, full ones; its rows follow. An entry is encoded once, from the row
  // that was written. Codes move and go as whole pages only: where a part of a page is to go, the rest of it
  // becomes rows again, as they were decoded, and none of that lane's rows are encoded from then on.

  // What codes are made with; without it, the shape's codec. Before the first.
  void SetCodec(std::shared_ptr<const KvCodec> codec);
  // These entries, lowest-ranked first, become codes: as many as fill whole pages, the highest-ranked others
  // stay rows. So do entries at positions that the codec keeps exact (sinks), and those that are codes stay
  // what they are. Entries get other places. kExhausted: nothing has changed.
  Status Demote(int layer, int kv_head, std::span<const int32_t> entries);
  // In every lane all full pages of rows, oldest entries first. kExhausted: some lanes may have no codes yet.
  Status DemoteFullPages();
  int64_t CodedPages(int layer, int kv_head) const;

  // Lets go of leading pages of a layer that hold only positions below `position`; a window has passed them.
  void DropBefore(int layer, int64_t position);

  // Pages for this many entries stay with each lane once it has them: what comes and goes around a page's
  // border then takes no memory.
  void KeepRoom(int64_t entries) { room_ = entries; }

  int64_t Length(int layer, int kv_head) const;
  int32_t PositionOf(int layer, int kv_head, int64_t entry) const;  // original position, both modes
  std::span<const int32_t> Positions(int layer, int kv_head) const;
  // A number beside each entry, reserved ones included, that follows it when entries move (accumulated
  // scores); 0 at first. There is room for whole pages.
  std::span<float> Scores(int layer, int kv_head);
  // The entry as it is stored.
  void Load(int layer, int kv_head, int64_t entry, float* k, float* v) const;
  // Optional per-entry bias on the scaled score (merging methods); 0 by default.
  void SetLogitBias(int layer, int kv_head, int64_t entry, float bias);
  float LogitBias(int layer, int kv_head, int64_t entry) const;

  int64_t Pages(int layer, int kv_head) const;  // that a lane has, own ones and borrowed ones
  uint64_t bytes() const;                       // own pages and tables
  uint64_t borrowed_bytes() const;              // pages of others that are read here

  std::byte* WritablePage(int layer, int kv_head, int64_t position) override;
  int WritableSlot(int layer, int kv_head, int64_t position) const override;
  bool keys_rotated() const override { return mode_ == PositionMode::kKeep; }
  int64_t Entries(int layer, int kv_head) const override;
  // Keys rotated by their ranks, codes decoded.
  bool MakesTiles() const override { return mode_ == PositionMode::kCompact || coded_pages_ > 0; }
  TileSource Source(int layer, int kv_head, int64_t page) const override;
  KvPage Page(int layer, int kv_head, int64_t page, std::byte* scratch) const override;

 private:
  struct Lane;
  Lane& At(int layer, int kv_head);
  const Lane& At(int layer, int kv_head) const;
  KvPage Stored(int layer, int kv_head, int64_t page, std::byte* tile) const;
  Status Grow(Lane& lane, int64_t entries);
  void Shrink(Lane& lane, int64_t entries);
  Status Own(int layer, int kv_head, int64_t page);
  void Move(int layer, int kv_head, int64_t from, int64_t to);
  void StoreMean(int layer, int kv_head, const MergedRun& run, std::span<const float> weights, int64_t to);
  int64_t WritableIndex(const Lane& lane, int64_t position) const;
  void RotateInto(const std::byte* stored, size_t first_rank, int entries, std::byte* scratch) const;

  struct Layout;
  const KvCodec* codec() const;
  PageSource& SourceOf(const Lane& lane, size_t page) const;
  size_t PageBytesOf(const Lane& lane, size_t page) const;
  AlignedBuffer NewTile() const;
  Status RemoveFromCodes(int layer, int kv_head, int64_t entry);
  Status KeepAmongCodes(int layer, int kv_head, std::span<const int32_t> entries);
  Status Rearrange(int layer, int kv_head, const Layout& layout);
  Result<std::vector<std::byte*>> Encoded(int layer, int kv_head, std::span<const int32_t> entries);
  void ForgetGone(Lane& lane);

  const KvShape* shape_;
  PageSource* source_;
  PositionMode mode_;
  RopeTables rope_;
  const TileProvider* prefix_ = nullptr;
  std::shared_ptr<const KvCodec> own_codec_;  // null: the shape's
  int64_t coded_pages_ = 0;                   // of all lanes
  int64_t room_ = 0;
  int64_t reserved_ = 0;
  int64_t first_reserved_ = 0;  // the row position of the first reserved entry
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace larder
