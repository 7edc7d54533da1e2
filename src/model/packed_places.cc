#include "model/packed_places.h"

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <system_error>

#include "base/log.h"

namespace larder {
namespace {

namespace fs = std::filesystem;

// In a folder of its own choice a model's file is named after the model's whole path as well: folders are
// shared by models of one name.
std::string PathIn(const std::string& folder, const std::string& source) {
  const fs::path model(source);
  if (folder.empty()) return source + ".packed";
  std::error_code ignored;
  const fs::path whole = fs::weakly_canonical(model, ignored);
  const std::string name = whole.empty() ? source : whole.string();
  const Digest digest = Sha256(std::as_bytes(std::span(name)));
  return (fs::path(folder) / fmt::format("{}.{}.packed", model.filename().string(), digest.ShortHex()))
      .string();
}

bool IsSettled(const FileIdentity& source, int64_t settled_ms) {
  using namespace std::chrono;
  const int64_t now_ns = duration_cast<nanoseconds>(system_clock::now().time_since_epoch()).count();
  return std::max(source.modified_ns, source.changed_ns) <= now_ns - settled_ms * 1'000'000;
}

}  // namespace

PackedPlaces::PackedPlaces(const MappedFile& source, const PackedOptions& options)
    : source_(source),
      pages_(options.pages),
      least_bytes_(options.least_bytes),
      settled_(IsSettled(source.identity(), options.settled_ms)) {
  for (const std::string& folder : options.folders) paths_.push_back(PathIn(folder, source.path()));
}

std::unique_ptr<PackedFile> PackedPlaces::Find(ThreadPool& pool) const {
  for (const std::string& path : paths_) {
    auto file = PackedFile::Open(path, source_, pool, pages_);
    if (file) return *std::move(file);
    if (file.error().kind != ErrorKind::kNotFound)
      LogInfo("packed weights {} are not used: {}", path, file.error().message);
  }
  return nullptr;
}

std::unique_ptr<PackedFile> PackedPlaces::Keep(const Digest& digest, std::span<const PackedMatrix> matrices,
                                               ThreadPool& pool) const {
  uint64_t bytes = 0;
  for (const PackedMatrix& matrix : matrices) bytes += matrix.bytes.size();
  if (paths_.empty() || bytes < least_bytes_) return nullptr;
  const auto identity = IdentityOf(source_.path());
  if (!settled_ || !identity || *identity != source_.identity()) {
    LogInfo("packed weights are not kept: {} has just been changed", source_.path());
    return nullptr;
  }
  for (const std::string& path : paths_) {
    std::error_code ignored;  // writing says what is wrong
    fs::create_directories(fs::path(path).parent_path(), ignored);
    if (const Status status = WritePackedFile(path, source_.identity(), digest, matrices); !status) {
      LogInfo("packed weights cannot be kept: {}", status.error().message);
      continue;
    }
    auto file = PackedFile::Open(path, source_, pool, pages_);
    if (file) {
      LogInfo("packed weights are kept in {}", path);
      return *std::move(file);
    }
    LogInfo("packed weights {} are not used: {}", path, file.error().message);
  }
  return nullptr;
}

}  // namespace larder
