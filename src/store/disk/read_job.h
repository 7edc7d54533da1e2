// One get (or one look at children) on its way: what is known of its records, which pieces are still to come,
// what has been reported. Belongs to the reading thread.
#pragma once

#include <memory>
#include <vector>

#include "store/disk/core.h"

namespace larder {

inline constexpr uint64_t kReadPiece = 1 << 20;       // read at once
inline constexpr uint64_t kReadTogether = 256 << 10;  // small groups that lie side by side

class ReadJob {
 public:
  struct Item {
    RecordRead read;
    FoundRecord found;
    DirectBuffer head_bytes;
    Status status;       // why it has no groups
    bool known = false;  // its header was read
    RecordHead head;
    std::vector<uint64_t> offsets;  // of the groups in the destination
    uint32_t end_group = 0;         // cut to what there is
  };
  // Bytes of one group, or several groups that lie side by side here and there.
  struct Piece {
    size_t item = 0;
    uint32_t first_group = 0, end_group = 0;
    uint64_t offset = 0;  // in the file
    std::span<std::byte> to;
  };

  ReadJob(DiskCore& core, int64_t deadline_ns, ReadPriority priority);
  ~ReadJob();

  // One of these three.
  GetCallbacks get;
  Tier::ChildrenDone children;
  std::function<void(Result<bool>)> answer;  // no reading at all
  Digest parent;                             // of children

  uint64_t ticket = 0;
  const int64_t deadline_ns;
  const ReadPriority priority;
  std::vector<Item> items;
  std::vector<Piece> pieces;
  size_t next_head = 0, next_piece = 0, heads_left = 0, in_flight = 0;

  void Begin();                                       // items are complete
  void HeadArrived(size_t item, const Status& read);  // its bytes are in head_bytes
  void PieceArrived(size_t piece, const Status& read);
  // What has not arrived fails with `why`, and whoever asked hears of it, though reads may still be on their
  // way; nothing more is issued.
  void Close(const Error& why);
  bool closed() const { return closed_; }
  bool heads_known() const { return planned_; }
  // So many of its answers at least have to come before there is anything new to tell or to issue. The last
  // of them are not waited for together, so that those before are verified meanwhile.
  size_t AnswersToWaitFor() const;
  bool has_more() const {  // to issue
    return !closed_ && (next_head < items.size() || (planned_ && next_piece < pieces.size()));
  }
  bool finished() const { return ended_ && in_flight == 0; }
  void Finish();  // the last callbacks

 private:
  struct Group {
    std::vector<uint32_t> left;    // pieces to come, by item
    std::vector<Status> statuses;  // by item
    size_t items_left = 0;
  };

  void Answer();
  Status Accept(size_t index);
  void Plan();
  void PlanItem(size_t index);
  void Report();
  void GroupArrived(Item& item, uint32_t group, Status& status);

  DiskCore& core_;
  std::vector<Group> groups_;  // from first_group_ on
  uint32_t first_group_ = 0, next_report_ = 0, end_group_ = 0;
  bool planned_ = false, closed_ = false, ended_ = false, answered_ = false;
  Status outcome_;
  const int64_t started_ns_;
};

}  // namespace larder
