#include <algorithm>

#include "base/file_system.h"
#include "larder/offline_store.h"
#include "store/disk/format.h"
#include "store/trust.h"

namespace larder {
namespace {

constexpr uint64_t kUnlimited = uint64_t{1} << 60;

Result<bool> Exists(const std::string& path) {
  const auto file = RealFileSystem()->Open(path, {});
  if (file) return true;
  if (file.error().kind == ErrorKind::kNotFound) return false;
  return std::unexpected(file.error());
}

// A store keeps the size of its segments when nobody says its limit, or it could no longer be cleaned within
// it.
Result<uint64_t> LargestSegment(const std::string& directory) {
  uint64_t largest = 0;
  LARDER_ASSIGN(const auto names, RealFileSystem()->List(directory));
  for (const std::string& name : names) {
    if (!NumberIn(name, "seg")) continue;
    LARDER_ASSIGN(const auto file, RealFileSystem()->Open(fmt::format("{}/{}", directory, name), {}));
    LARDER_ASSIGN(const uint64_t bytes, file->Size());
    largest = std::max(largest, bytes);
  }
  return largest;
}

Status OpenKeyring(const StoreFlags& flags, OpenedStore& store) {
  LARDER_TRY(CheckKeyIsOutside(flags.store_key, flags.directory));
  const std::string path = flags.KeyringPath();
  LARDER_ASSIGN(const bool there, Exists(path));
  if (there) {
    LARDER_ASSIGN(store.keyring, Keyring::Open(path, flags.store_key));
  } else if (!flags.store_key.empty() || !flags.keyring.empty()) {
    // A new one would have no tenant, and every record would look like one of a wiped tenant.
    return Fail(ErrorKind::kNotFound, "there is no keyring {}; put back the one of this store", path);
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<OpenedStore>> OpenStore(const StoreFlags& flags, bool create, bool threads) {
  if (flags.directory.empty())
    return Fail(ErrorKind::kInvalid, "no store is named; write --disk and its directory");
  LARDER_ASSIGN(const bool there, Exists(flags.directory + "/LARDER"));
  if (!there && !create) return Fail(ErrorKind::kNotFound, "there is no store in {}", flags.directory);
  auto store = std::make_unique<OpenedStore>();
  LARDER_TRY(OpenKeyring(flags, *store));
  DiskOptions options;
  options.directory = flags.directory;
  options.limit_bytes = flags.limit_bytes;
  options.stepped = !threads;
  if (flags.limit_bytes == 0) {
    options.limit_bytes = kUnlimited;
    LARDER_ASSIGN(const uint64_t largest, LargestSegment(flags.directory));
    if (largest > 0) options.segment_bytes = std::clamp(largest, uint64_t{1} << 20, options.segment_bytes);
  }
  const Sealer* sealer = store->keyring == nullptr ? nullptr : store->keyring->sealer();
  LARDER_ASSIGN(store->tier, OpenDiskTier(options, RealFileSystem(), sealer, &store->clock));
  return store;
}

}  // namespace larder
