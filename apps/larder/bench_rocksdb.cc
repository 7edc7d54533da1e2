#include "larder/bench_rocksdb.h"

#include <rocksdb/db.h>

#include <cstring>

namespace larder {
namespace {

Status From(const rocksdb::Status& status) {
  if (status.ok()) return {};
  return Fail(status.IsNotFound() ? ErrorKind::kNotFound : ErrorKind::kIo, "RocksDB: {}", status.ToString());
}

rocksdb::Slice SliceOf(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

rocksdb::Slice SliceOf(const Digest& name) {
  return {reinterpret_cast<const char*>(name.bytes.data()), name.bytes.size()};
}

class RocksBlobFiles final : public BlobFiles {
 public:
  explicit RocksBlobFiles(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}

  Status Put(const Digest& name, std::span<const std::byte> value) override {
    rocksdb::WriteOptions options;
    options.disableWAL = true;
    return From(db_->Put(options, SliceOf(name), SliceOf(value)));
  }

  Status Flush() override { return From(db_->Flush({})); }

  Status Get(std::span<const Digest> names, std::span<const std::span<std::byte>> destinations) override {
    std::vector<rocksdb::Slice> keys;
    for (const Digest& name : names) keys.push_back(SliceOf(name));
    std::vector<rocksdb::PinnableSlice> values(keys.size());
    std::vector<rocksdb::Status> statuses(keys.size());
    db_->MultiGet({}, db_->DefaultColumnFamily(), keys.size(), keys.data(), values.data(), statuses.data());
    for (size_t i = 0; i < keys.size(); ++i) {
      LARDER_TRY(From(statuses[i]));
      if (values[i].size() != destinations[i].size())
        return Fail(ErrorKind::kCorrupt, "RocksDB: {} has another size", names[i].ShortHex());
      std::memcpy(destinations[i].data(), values[i].data(), values[i].size());
      values[i].Reset();
    }
    return {};
  }

 private:
  const std::unique_ptr<rocksdb::DB> db_;
};

}  // namespace

Result<std::unique_ptr<BlobFiles>> OpenBlobFiles(const std::string& directory) {
  rocksdb::Options options;
  options.create_if_missing = true;
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.use_direct_reads = options.use_direct_io_for_flush_and_compaction = true;
  rocksdb::DB* db = nullptr;
  LARDER_TRY(From(rocksdb::DB::Open(options, directory, &db)));
  return std::make_unique<RocksBlobFiles>(std::unique_ptr<rocksdb::DB>(db));
}

}  // namespace larder
