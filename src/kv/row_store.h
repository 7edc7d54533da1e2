// Where a row's keys and values come from and go to. KvSequence is one; tests and methods bring others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compute/attention.h"

namespace larder {

class RowStore : public TileProvider {
 public:
  // The page that row `position` of a lane is to be written to, and where in it (0..63).
  virtual std::byte* WritablePage(int layer, int kv_head, int64_t position) = 0;
  virtual int WritableSlot(int layer, int kv_head, int64_t position) const {
    return static_cast<int>(position % kPageTokens);
  }
  // Whether keys are stored rotated to their positions; if not, tiles rotate them when they are read.
  virtual bool keys_rotated() const { return true; }
  // The last row of a lane's page has been written, before any row of a later page reads. From several
  // threads, for different lanes and pages.
  virtual void CompletePage(int layer, int kv_head, int64_t page) {}
  // What a row at this position reads; valid until the next change of the store. It may have been asked for
  // its pages by several threads, but this is for one at a time.
  virtual const TileProvider* ViewFor(int64_t position) { return this; }
};

}  // namespace larder
