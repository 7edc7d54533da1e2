// Where a model's packed weights are kept: which files, who may be believed, and when one is written.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "compute/thread_pool.h"
#include "model/packed_file.h"

namespace larder {

struct PackedOptions {
  // Tried in order, for reading and for writing; "" is the model's own folder. None: nothing is kept.
  std::vector<std::string> folders;
  // Weights smaller than this are packed in a moment, and no file is made of them.
  uint64_t least_bytes = uint64_t{16} << 20;
  PackedPages pages = PackedPages::kMapped;
  // A model that was changed more recently may change again without getting another time (FileIdentity).
  int64_t settled_ms = 2000;
};

class PackedPlaces {
 public:
  // At the beginning of loading; the source outlives it.
  PackedPlaces(const MappedFile& source, const PackedOptions& options);

  // The first file that is whole and was made from the source; nullptr where there is none. Says in the log
  // which files were not good.
  std::unique_ptr<PackedFile> Find(ThreadPool& pool) const;

  // Writes a file in the first folder where that works and maps it; nullptr, with a line in the log, where it
  // works nowhere. `digest`: SHA-256 of the source.
  std::unique_ptr<PackedFile> Keep(const Digest& digest, std::span<const PackedMatrix> matrices,
                                   ThreadPool& pool) const;

 private:
  const MappedFile& source_;
  const PackedPages pages_;
  const uint64_t least_bytes_;
  const bool settled_;
  std::vector<std::string> paths_;
};

}  // namespace larder
