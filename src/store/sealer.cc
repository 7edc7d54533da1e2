#include "store/sealer.h"

#include <mutex>
#include <utility>

#include "store/key_table.h"
#include "store/keyring_file.h"

namespace larder {
namespace {

class FileKeyring final : public Keyring {
 public:
  FileKeyring(std::string path, StoreKey store_key) : file_(std::move(path), std::move(store_key)) {}

  Status Load() {
    LARDER_ASSIGN(SpaceKeys keys, file_.Open());
    table_.Replace(std::move(keys));
    return {};
  }

  Result<SpaceId> SpaceOf(const std::string& tenant) override {
    LARDER_TRY(CheckTenant(tenant));
    if (const auto id = table_.IdOf(tenant)) return *id;
    LARDER_ASSIGN(const SpaceId id, Edit([&](SpaceKeys& keys) -> Result<Edited> {
                    if (const auto it = keys.find(tenant); it != keys.end())
                      return Edited{.id = it->second.id, .write = false};
                    if (keys.size() >= kMaxTenants) return KeyringFull();
                    LARDER_ASSIGN(const SpaceKey made, MakeSpaceKey(file_.store_key(), 0));
                    keys.emplace(tenant, made);
                    return Edited{.id = made.id, .write = true};
                  }));
    return id;
  }

  Result<SpaceId> Forget(const std::string& tenant) override {
    return Edit([&](SpaceKeys& keys) -> Result<Edited> {
      const auto it = keys.find(tenant);
      if (it == keys.end()) return Fail(ErrorKind::kNotFound, "tenant {} has no key", tenant);
      const SpaceId id = it->second.id;
      // An entry of the next generation, and not none: when the ring is shared through Redis one day, the old
      // key may still lie there.
      LARDER_ASSIGN(it->second, NextSpaceKey(file_.store_key(), tenant, it->second));
      return Edited{.id = id, .write = true};
    });
  }

  std::vector<std::pair<std::string, SpaceId>> Spaces() const override { return table_.Spaces(); }
  const Sealer* sealer() const override { return file_.store_key().get() ? &table_ : nullptr; }
  KeyringStats stats() const override { return {.tenants = table_.size()}; }

 private:
  struct Edited {
    SpaceId id{};
    bool write = false;
  };

  template <class Change>
  Result<SpaceId> Edit(const Change& change) {
    const std::lock_guard guard(edit_mutex_);  // the table takes the file's states in their order
    SpaceId id{};
    LARDER_ASSIGN(SpaceKeys keys, file_.Edit([&](SpaceKeys& current) -> Result<bool> {
      LARDER_ASSIGN(const Edited edited, change(current));
      id = edited.id;
      return edited.write;
    }));
    table_.Replace(std::move(keys));
    return id;
  }

  const KeyringFile file_;
  std::mutex edit_mutex_;
  KeyTable table_;
};

}  // namespace

Result<std::unique_ptr<Keyring>> Keyring::Open(const std::string& path, const std::string& store_key_file) {
  LARDER_ASSIGN(StoreKey store_key, StoreKey::Read(store_key_file));
  auto ring = std::make_unique<FileKeyring>(path, std::move(store_key));
  LARDER_TRY(ring->Load());
  return ring;
}

}  // namespace larder
