#include "store/bytes.h"

namespace larder {

// Not inline: GCC 12 then sees overflows that are not there in inserts into a vector it knows to be empty.
void ByteWriter::Bytes(std::span<const std::byte> bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
}

}  // namespace larder
