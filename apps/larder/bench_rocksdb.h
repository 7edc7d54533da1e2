// RocksDB's blob files, as one more way to keep blocks on a disk. An optional dependency of the program:
// where it was not found, bench_no_rocksdb.cc stands in for bench_rocksdb.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/result.h"

namespace larder {

// Every value lies in a blob file, nothing is compressed, all I/O goes past the page cache, blobs have their
// checksums verified, and there is no log: what was put is durable when Flush returns, and not before.
class BlobFiles {
 public:
  virtual ~BlobFiles() = default;
  virtual Status Put(const Digest& name, std::span<const std::byte> value) = 0;
  virtual Status Flush() = 0;
  // All at once, each into the destination at its place, whose size it has to have.
  virtual Status Get(std::span<const Digest> names, std::span<const std::span<std::byte>> destinations) = 0;
};

// Null: this program was built without RocksDB. kIo.
Result<std::unique_ptr<BlobFiles>> OpenBlobFiles(const std::string& directory);

}  // namespace larder
