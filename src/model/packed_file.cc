#include "model/packed_file.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/file_writer.h"
#include "base/memory.h"
#include "compute/packed.h"
#include "store/bytes.h"

namespace larder {
namespace {

constexpr std::string_view kMagic = "larderPw";
constexpr uint32_t kVersion = 1;
constexpr uint64_t kFixedBytes = 104;  // of the head before its tables
constexpr uint64_t kEntryBytes = 48 + kPackedNameBytes;
constexpr uint64_t kChecksumBytes = 8;
constexpr uint32_t kMostMatrices = 1 << 16;
constexpr uint32_t kHalfScales = 1;  // flag
// Data begins at a multiple of this, and is written and checked in pieces of it. It is the size of a large
// memory page: a file system that has such pages keeps the pieces in them, and they are mapped as they are.
constexpr uint64_t kPieceBytes = uint64_t{2} << 20;

uint64_t DivideUp(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
uint64_t RoundUp(uint64_t a, uint64_t to) { return DivideUp(a, to) * to; }

uint64_t HeadBytes(uint64_t matrices, uint64_t data_bytes) {
  return kFixedBytes + matrices * kEntryBytes + DivideUp(data_bytes, kPieceBytes) * kChecksumBytes +
         kChecksumBytes;
}

// Where each matrix begins in the data area, and the size of it all.
struct DataLayout {
  std::vector<uint64_t> offsets;
  uint64_t bytes = 0;

  explicit DataLayout(std::span<const PackedMatrix> matrices) {
    for (const PackedMatrix& matrix : matrices) {
      offsets.push_back(RoundUp(bytes, kVectorAlign));
      bytes = offsets.back() + matrix.bytes.size();
    }
  }
};

// Calls body(piece) for the data area's bytes in order, in pieces of kPieceBytes, the last one shorter.
template <class Body>
Status ForEachPiece(std::span<const PackedMatrix> matrices, const DataLayout& layout, Body body) {
  std::vector<std::byte> piece;
  size_t m = 0;
  for (uint64_t begin = 0; begin < layout.bytes; begin += kPieceBytes) {
    const uint64_t end = std::min(begin + kPieceBytes, layout.bytes);
    piece.assign(end - begin, std::byte{0});
    for (; m < matrices.size() && layout.offsets[m] < end; ++m) {
      const uint64_t first = std::max(begin, layout.offsets[m]);
      const uint64_t matrix_end = layout.offsets[m] + matrices[m].bytes.size();
      const uint64_t last = std::min(end, matrix_end);
      if (first < last)
        std::memcpy(&piece[first - begin], matrices[m].bytes.data() + (first - layout.offsets[m]),
                    last - first);
      if (matrix_end > end) break;  // goes on in the next piece
    }
    LARDER_TRY(body(std::span<const std::byte>(piece)));
  }
  return {};
}

void WriteEntry(ByteWriter& to, const PackedMatrix& matrix, uint64_t offset) {
  to.Number(offset);
  to.Number(static_cast<uint64_t>(matrix.bytes.size()));
  to.Number(static_cast<uint64_t>(matrix.outputs));
  to.Number(static_cast<uint64_t>(matrix.inputs));
  to.Number(matrix.row_order);
  to.Number(static_cast<uint32_t>(matrix.type));
  to.Number(matrix.half_scales ? kHalfScales : 0);
  std::array<uint8_t, kPackedNameBytes> name{};
  std::memcpy(name.data(), matrix.name.data(), matrix.name.size());
  to.Bytes(name);
}

Result<std::vector<std::byte>> MakeHead(const FileIdentity& source, const Digest& digest,
                                        std::span<const PackedMatrix> matrices, const DataLayout& layout) {
  if (matrices.size() > kMostMatrices)
    return Fail(ErrorKind::kUnsupported, "{} matrices are more than {}", matrices.size(), kMostMatrices);
  std::vector<std::byte> head;
  ByteWriter to(head);
  to.Bytes(std::as_bytes(std::span(kMagic)));
  to.Number(kVersion);
  to.Number(kPackedLayout);
  to.Number(HeadBytes(matrices.size(), layout.bytes));
  to.Number(layout.bytes);
  to.Bytes(digest.bytes);
  to.Number(source.size);
  to.Number(source.inode);
  to.Number(static_cast<uint64_t>(source.modified_ns));
  to.Number(static_cast<uint64_t>(source.changed_ns));
  to.Number(static_cast<uint32_t>(matrices.size()));
  to.Number(uint32_t{0});
  for (size_t i = 0; i < matrices.size(); ++i) {
    if (matrices[i].name.size() > kPackedNameBytes)
      return Fail(ErrorKind::kUnsupported, "the tensor's name {} has more than {} bytes", matrices[i].name,
                  kPackedNameBytes);
    WriteEntry(to, matrices[i], layout.offsets[i]);
  }
  LARDER_TRY(ForEachPiece(matrices, layout, [&](std::span<const std::byte> piece) -> Status {
    to.Number(Checksum64(piece));
    return {};
  }));
  to.Number(Checksum64(head));
  return head;
}

struct Head {
  uint64_t bytes, data_bytes;
  Digest digest;
  FileIdentity source;
  uint32_t matrices;
};

// The fixed part, and the checksum of the whole head.
Result<Head> ReadHead(std::span<const std::byte> file) {
  ByteReader from(file);
  const auto magic = from.Bytes(kMagic.size());
  const auto version = from.Number<uint32_t>(), layout = from.Number<uint32_t>();
  Head head;
  head.bytes = from.Number<uint64_t>();
  head.data_bytes = from.Number<uint64_t>();
  from.Bytes(head.digest.bytes);
  head.source.size = from.Number<uint64_t>();
  head.source.inode = from.Number<uint64_t>();
  head.source.modified_ns = static_cast<int64_t>(from.Number<uint64_t>());
  head.source.changed_ns = static_cast<int64_t>(from.Number<uint64_t>());
  head.matrices = from.Number<uint32_t>();
  const auto reserved = from.Number<uint32_t>();
  if (!from.ok() || !std::ranges::equal(magic, std::as_bytes(std::span(kMagic))))
    return Fail(ErrorKind::kCorrupt, "it is no file of packed weights");
  if (version != kVersion || layout != kPackedLayout || reserved != 0)
    return Fail(ErrorKind::kUnsupported, "it has version {} and layout {}, not {} and {}", version, layout,
                kVersion, kPackedLayout);
  if (head.matrices > kMostMatrices || head.data_bytes > file.size() ||
      head.bytes != HeadBytes(head.matrices, head.data_bytes) ||
      file.size() != RoundUp(head.bytes, kPieceBytes) + head.data_bytes)
    return Fail(ErrorKind::kCorrupt, "its sizes contradict each other");
  const auto checked = file.first(head.bytes - kChecksumBytes);
  ByteReader checksum(file.subspan(checked.size(), kChecksumBytes));
  if (Checksum64(checked) != checksum.Number<uint64_t>())
    return Fail(ErrorKind::kCorrupt, "its head is damaged");
  return head;
}

// The table of a head whose checksum is right; that does not make its numbers sane.
Result<std::unordered_map<std::string, PackedMatrix>> ReadTable(std::span<const std::byte> table,
                                                                std::span<const std::byte> data) {
  std::unordered_map<std::string, PackedMatrix> out;
  ByteReader from(table);
  while (from.left() > 0) {
    PackedMatrix matrix;
    const auto offset = from.Number<uint64_t>(), bytes = from.Number<uint64_t>();
    const auto outputs = from.Number<uint64_t>(), inputs = from.Number<uint64_t>();
    matrix.outputs = static_cast<int64_t>(outputs);
    matrix.inputs = static_cast<int64_t>(inputs);
    matrix.row_order = from.Number<uint64_t>();
    matrix.type = static_cast<TensorType>(from.Number<uint32_t>());
    const auto flags = from.Number<uint32_t>();
    matrix.half_scales = flags == kHalfScales;
    std::array<uint8_t, kPackedNameBytes> name;
    from.Bytes(name);
    matrix.name.assign(name.begin(), std::ranges::find(name, 0));
    if (offset % kVectorAlign != 0 || offset > data.size() || bytes > data.size() - offset ||
        flags > kHalfScales)
      return Fail(ErrorKind::kCorrupt, "the place of a matrix is impossible");
    matrix.bytes = data.subspan(offset, bytes);
    std::string key = matrix.name;
    if (!out.emplace(std::move(key), std::move(matrix)).second)
      return Fail(ErrorKind::kCorrupt, "it has a matrix twice");
  }
  return out;
}

bool PiecesAreWhole(std::span<const std::byte> data, std::span<const std::byte> checksums, ThreadPool& pool) {
  std::atomic<bool> whole{true};
  pool.Run(static_cast<int64_t>(checksums.size() / kChecksumBytes), [&](int64_t i, int) {
    const uint64_t begin = static_cast<uint64_t>(i) * kPieceBytes;
    const auto piece = data.subspan(begin, std::min(kPieceBytes, data.size() - begin));
    ByteReader expected(checksums.subspan(static_cast<size_t>(i) * kChecksumBytes, kChecksumBytes));
    if (Checksum64(piece) != expected.Number<uint64_t>()) whole.store(false, std::memory_order_relaxed);
  });
  return whole.load(std::memory_order_relaxed);
}

// Piece by piece, by all threads.
Result<AlignedBuffer> CopyOf(std::span<const std::byte> data, ThreadPool& pool) {
  LARDER_ASSIGN(AlignedBuffer copy, AlignedBuffer::Allocate(data.size(), LargePages::kYes));
  pool.Run(static_cast<int64_t>((data.size() + kPieceBytes - 1) / kPieceBytes), [&](int64_t i, int) {
    const uint64_t begin = static_cast<uint64_t>(i) * kPieceBytes;
    std::memcpy(copy.data() + begin, data.data() + begin, std::min(kPieceBytes, data.size() - begin));
  });
  return copy;
}

// Somebody else's file beside the model would decide what this process computes. Whoever may write the model
// may do that anyway.
bool MayTrustOwner(uint32_t owner, const MappedFile& source) {
  return owner == geteuid() || owner == 0 || owner == source.owner();
}

}  // namespace

uint64_t ChecksumOfOrder(std::span<const int32_t> permutation) {
  return permutation.empty() ? 0 : Checksum64(std::as_bytes(permutation));
}

Result<std::unique_ptr<PackedFile>> PackedFile::Open(const std::string& path, const MappedFile& source,
                                                     ThreadPool& pool, PackedPages pages) {
  std::unique_ptr<PackedFile> out(new PackedFile);
  out->path_ = path;
  LARDER_ASSIGN(out->file_, MappedFile::Open(path));
  if (!MayTrustOwner(out->file_->owner(), source))
    return Fail(ErrorKind::kUnsupported, "it belongs to another user");
  out->file_->PreferLargePages();
  const std::span<const std::byte> file = out->file_->bytes();
  LARDER_ASSIGN(const Head head, ReadHead(file));
  if (head.source != source.identity())
    return Fail(ErrorKind::kUnsupported, "the model's file has changed since");
  auto data = file.last(head.data_bytes);
  if (pages == PackedPages::kLarge) {
    LARDER_ASSIGN(out->copy_, CopyOf(data, pool));
    data = {out->copy_.data(), out->copy_.size()};
  }
  const uint64_t table_bytes = head.matrices * kEntryBytes;
  LARDER_ASSIGN(out->matrices_, ReadTable(file.subspan(kFixedBytes, table_bytes), data));
  const auto checksums =
      file.subspan(kFixedBytes + table_bytes, head.bytes - kFixedBytes - table_bytes - kChecksumBytes);
  if (!PiecesAreWhole(data, checksums, pool)) return Fail(ErrorKind::kCorrupt, "its matrices are damaged");
  out->digest_ = head.digest;
  if (pages == PackedPages::kLarge) out->file_ = nullptr;
  return out;
}

Result<Matrix> PackedFile::Get(std::string_view name, TensorType type, int64_t outputs, int64_t inputs,
                               std::span<const int32_t> permutation) const {
  const auto found = matrices_.find(std::string(name));
  if (found == matrices_.end()) return Fail(ErrorKind::kCorrupt, "it has no matrix {}", name);
  const PackedMatrix& m = found->second;
  if (m.type != type || m.outputs != outputs || m.inputs != inputs ||
      m.row_order != ChecksumOfOrder(permutation))
    return Fail(ErrorKind::kCorrupt, "its matrix {} is of another shape", name);
  return Matrix::View(type, outputs, inputs, MathMode::kFast, m.half_scales, m.bytes);
}

Status WritePackedFile(const std::string& path, const FileIdentity& source, const Digest& digest,
                       std::span<const PackedMatrix> matrices) {
  const DataLayout layout(matrices);
  LARDER_ASSIGN(std::vector<std::byte> head, MakeHead(source, digest, matrices, layout));
  head.resize(RoundUp(head.size(), kPieceBytes));
  LARDER_ASSIGN(const auto file, FileWriter::Create(path));
  LARDER_TRY(file->Write(head));
  LARDER_TRY(ForEachPiece(matrices, layout, [&](auto piece) { return file->Write(piece); }));
  return file->Commit();
}

}  // namespace larder
