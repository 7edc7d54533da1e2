// Where a row's keys and values come from and go to. KvSequence is one; tests and methods bring others.
#pragma once

#include <cstddef>
#include <cstdint>

#include "compute/attention.h"

namespace larder {

class RowStore : public TileProvider {
 public:
  // The page that row `position` of a lane is to be written to, at slot position % 64.
  virtual std::byte* WritablePage(int layer, int kv_head, int64_t position) = 0;
};

}  // namespace larder
