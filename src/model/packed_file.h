// A file of packed matrices beside a model, so that a later start maps what an earlier one has computed and
// several processes share its memory. Layout: docs/formats/packed-weights.md. Everything in it is checked
// before it is used.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "base/result.h"
#include "compute/matmul.h"
#include "compute/thread_pool.h"

namespace larder {

// A matrix that Matrix::Pack has made in fast mode, and what it was made from.
struct PackedMatrix {
  std::string name;  // of the tensor, at most kPackedNameBytes
  TensorType type;
  int64_t outputs, inputs;
  uint64_t row_order;  // ChecksumOfOrder of the permutation
  bool half_scales;
  std::span<const std::byte> bytes;
};

inline constexpr size_t kPackedNameBytes = 64;
uint64_t ChecksumOfOrder(std::span<const int32_t> permutation);  // 0 for none

// Where the matrices of a packed file are read from.
enum class PackedPages : uint8_t {
  kMapped,  // the file's own pages, which processes share
  kLarge    // a copy in large pages: few rows, which wait for memory alone, come quicker
};

class PackedFile {
 public:
  // Maps and checks all of it. kLargePages: matrices are read from a copy in memory of this process.
  // kNotFound; kCorrupt: damaged; kUnsupported: another version, layout or source; kIo; kExhausted: no memory
  // for a copy.
  static Result<std::unique_ptr<PackedFile>> Open(const std::string& path, const MappedFile& source,
                                                  ThreadPool& pool, PackedPages pages = PackedPages::kMapped);

  // A view of the matrix, valid as long as this object. kCorrupt where there is none that was made from this.
  Result<Matrix> Get(std::string_view name, TensorType type, int64_t outputs, int64_t inputs,
                     std::span<const int32_t> permutation) const;
  const Digest& source_digest() const { return digest_; }  // SHA-256 of the source file
  const std::string& path() const { return path_; }

 private:
  PackedFile() = default;
  std::string path_;
  std::unique_ptr<MappedFile> file_;  // null beside a copy
  AlignedBuffer copy_;
  Digest digest_;
  std::unordered_map<std::string, PackedMatrix> matrices_;
};

// Writes the file, which appears whole or not at all. `source` and `digest`: of the file that the matrices
// were made from. kIo, kExhausted: the disk is full; kNotFound: no such folder; kUnsupported: a name is too
// long.
Status WritePackedFile(const std::string& path, const FileIdentity& source, const Digest& digest,
                       std::span<const PackedMatrix> matrices);

}  // namespace larder
