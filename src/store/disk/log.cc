#include "store/disk/log.h"

namespace larder {

Status DiskLog::WriteNew(File* file, BatchHeader header, const std::function<std::vector<std::byte>()>& next,
                         uint64_t& end, uint64_t& batch) {
  end = kLogHeaderBytes;
  header_.snapshot_batches = 0;
  for (;;) {
    const std::vector<std::byte> body = next();
    // An empty snapshot is one empty batch: it carries the sequence.
    if (body.empty() && header_.snapshot_batches > 0) break;
    header.number = ++batch;
    std::vector<std::byte> bytes;
    EncodeBatch(header, header_, body, bytes);
    LARDER_TRY(file->Write(end, bytes));
    end += bytes.size();
    ++header_.snapshot_batches;
    if (body.empty()) break;
  }
  std::vector<std::byte> head;
  EncodeLogHeader(header_, head);
  LARDER_TRY(file->Write(0, head));
  ++syncs_;
  return file->Sync();
}

Status DiskLog::Replace(BatchHeader header, const std::function<std::vector<std::byte>()>& next) {
  const LogHeader old = header_;
  ++header_.number;
  const std::string temporary = Path(".tmp"), path = Path();
  uint64_t end = 0, batch = last_batch_;
  const auto attempt = [&]() -> Result<std::unique_ptr<File>> {
    (void)files_->Remove(temporary);  // of an attempt that failed
    LARDER_ASSIGN(auto file, files_->Open(temporary, {.write = true, .create = true}));
    LARDER_TRY(WriteNew(file.get(), header, next, end, batch));
    LARDER_TRY(files_->Rename(temporary, path));
    return file;
  };
  auto file = attempt();
  if (!file) {
    (void)files_->Remove(temporary);
    header_ = old;
    return std::unexpected(file.error());
  }
  // From here on the new name may be on disk: the old file must not be written again.
  file_.reset();
  last_batch_ = batch;
  if (!path_.empty()) {
    stale_.push_back({path_, bytes_});
    stale_bytes_ += bytes_;
  }
  path_ = path;
  bytes_ = end;
  LARDER_TRY(files_->SyncDirectory(directory_));
  RemoveStale();
  file_ = *std::move(file);
  ++replaced_;
  return {};
}

void DiskLog::RemoveStale() {
  std::erase_if(stale_, [this](const Stale& stale) {
    const Status removed = files_->Remove(stale.path);
    const bool gone = removed || removed.error().kind == ErrorKind::kNotFound;
    if (gone) stale_bytes_ -= stale.bytes;
    return gone;
  });
}

Status DiskLog::Append(BatchHeader header, std::span<const std::byte> body) {
  LARDER_CHECK(usable());
  header.number = last_batch_ + 1;
  std::vector<std::byte> bytes;
  EncodeBatch(header, header_, body, bytes);
  Status status = file_->Write(bytes_, bytes);
  if (status) {
    ++syncs_;
    status = file_->Sync();
  }
  if (!status) {
    file_.reset();
    return status;
  }
  bytes_ += bytes.size();
  ++last_batch_;
  return {};
}

}  // namespace larder
