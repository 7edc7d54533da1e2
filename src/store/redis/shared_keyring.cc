#include "store/redis/shared_keyring.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <future>
#include <limits>
#include <mutex>
#include <optional>
#include <set>
#include <shared_mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/log.h"
#include "store/key_table.h"
#include "store/keyring_file.h"
#include "store/redis/core.h"
#include "store/redis/layout.h"

namespace larder {
namespace {

namespace asio = boost::asio;

constexpr size_t kMaxEntryBytes = 512;              // of a value; it has about 200
constexpr size_t kTogether = 64;                    // entries that are read at once
constexpr int kTries = 3;                           // of reading what somebody else was faster to write
constexpr int64_t kRecheckPauseNs = 1'000'000'000;  // between two rounds because of records that do not open

// The table's sealer, which tells when a record does not open: its tenant may have been forgotten elsewhere.
class WatchfulSealer final : public Sealer {
 public:
  WatchfulSealer(const KeyTable& table, std::function<void()> failed)
      : table_(table), failed_(std::move(failed)) {}

  Status Seal(const SpaceId& space, std::span<const std::byte> bound, std::span<const std::byte> from,
              std::span<std::byte> to, CipherNonce& nonce, CipherTag& tag) const override {
    return Watched(table_.Seal(space, bound, from, to, nonce, tag));
  }
  Status Open(const SpaceId& space, std::span<const std::byte> bound, const CipherNonce& nonce,
              const CipherTag& tag, std::span<std::byte> bytes) const override {
    return Watched(table_.Open(space, bound, nonce, tag, bytes));
  }

 private:
  Status Watched(Status status) const {
    if (!status &&
        (status.error().kind == ErrorKind::kNotFound || status.error().kind == ErrorKind::kCorrupt))
      failed_();
    return status;
  }

  const KeyTable& table_;
  const std::function<void()> failed_;
};

class SharedKeyring final : public Keyring {
 public:
  // `file` null: none; `keys`: what it holds.
  SharedKeyring(KeyringOptions options, RedisUrl url, const StoreKey& store_key,
                std::unique_ptr<asio::ssl::context> tls, std::unique_ptr<const KeyringFile> file,
                SpaceKeys keys);
  ~SharedKeyring() override;
  SharedKeyring(const SharedKeyring&) = delete;
  SharedKeyring& operator=(const SharedKeyring&) = delete;

  Result<SpaceId> SpaceOf(const std::string& tenant) override;
  Result<SpaceId> Forget(const std::string& tenant) override;
  std::vector<std::pair<std::string, SpaceId>> Spaces() const override { return table_.Spaces(); }
  const Sealer* sealer() const override { return store_key_.get() ? &sealer_ : nullptr; }
  KeyringStats stats() const override;

 private:
  using Done = std::function<void(Status)>;
  enum class IfAbsent : uint8_t { kMake, kLeave };

  // From any thread.
  bool Asked(const std::string& tenant) const;
  Status SyncAndWait(const std::string& tenant, IfAbsent if_absent, int64_t timeout_ms);
  Result<SpaceId> MakeHere(const std::string& tenant);
  Result<SpaceId> ReplaceHere(const std::string& tenant, const Status& learned);
  Status Adopt(const std::string& tenant, const SpaceKey& entry);
  void Keep(const std::string& tenant, const SpaceKey& entry);
  Result<SpaceKey> Save(const std::string& tenant, const SpaceKey& entry, bool over_same_generation = true);
  void RefreshSoon();

  // On the ring's thread.
  void Sync(const std::string& tenant, IfAbsent if_absent, int tries, const Done& done);
  void EntryRead(const std::string& tenant, const std::string& value, IfAbsent if_absent, int tries,
                 const Done& done);
  void Publish(const std::string& tenant, const SpaceKey& entry, bool replace, int tries, const Done& done);
  Result<SpaceKey> Parse(const std::string& tenant, const std::string& value) const;
  void Raise(const std::string& tenant, uint32_t above);
  void Refuse(const std::string& tenant, const Error& error, const Done& done);
  void Refresh();
  void RefreshNext();

  const KeyringOptions options_;
  const RedisUrl url_;
  const StoreKey store_key_;
  const std::unique_ptr<const KeyringFile> file_;
  const Cipher cipher_;
  KeyTable table_;
  const WatchfulSealer sealer_;

  mutable std::shared_mutex asked_mutex_;
  std::set<std::string, std::less<>> asked_;  // tenants for which Redis was asked once

  std::mutex change_mutex_;        // file and table change together
  std::set<std::string> unsaved_;  // the file could not be written
  std::set<std::string> untold_;   // forgotten, and Redis may not know it yet; the file has marks of them

  // On the ring's thread.
  std::set<std::string> refused_;
  std::vector<std::string> round_;  // tenants still to be read anew
  size_t reading_ = 0;
  bool closing_ = false;

  std::atomic<uint64_t> refused_entries_ = 0, local_entries_ = 0;
  SystemClock clock_;
  std::atomic<int64_t> next_recheck_ns_ = std::numeric_limits<int64_t>::min();

  asio::io_context io_{1};
  const std::unique_ptr<asio::ssl::context> tls_;
  RedisRouter router_;
  asio::steady_timer refresh_timer_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;  // last: it uses everything above
};

SharedKeyring::SharedKeyring(KeyringOptions options, RedisUrl url, const StoreKey& store_key,
                             std::unique_ptr<asio::ssl::context> tls, std::unique_ptr<const KeyringFile> file,
                             SpaceKeys keys)
    : options_(std::move(options)),
      url_(std::move(url)),
      store_key_(store_key),
      file_(std::move(file)),
      sealer_(table_, [this] { RefreshSoon(); }),
      tls_(std::move(tls)),
      router_(io_, options_.redis, url_, tls_.get(), clock_),
      refresh_timer_(io_),
      work_(io_.get_executor()) {
  for (const auto& [tenant, entry] : keys) {
    if (entry.untold) untold_.insert(tenant);
  }
  table_.Replace(std::move(keys));
  thread_ = std::thread([this] { io_.run(); });
  asio::post(io_, [this] {
    router_.Start();
    Refresh();
  });
}

SharedKeyring::~SharedKeyring() {
  asio::post(io_, [this] {
    closing_ = true;
    refresh_timer_.cancel();
    router_.Close();
    work_.reset();
  });
  thread_.join();
}

KeyringStats SharedKeyring::stats() const {
  return {.tenants = table_.size(), .refused_entries = refused_entries_, .local_entries = local_entries_};
}

bool SharedKeyring::Asked(const std::string& tenant) const {
  const std::shared_lock guard(asked_mutex_);
  return asked_.contains(tenant);
}

Result<SpaceId> SharedKeyring::SpaceOf(const std::string& tenant) {
  LARDER_TRY(CheckTenant(tenant));
  if (Asked(tenant)) {
    if (const auto id = table_.IdOf(tenant)) return *id;
  }
  // Whatever comes of it, there is no second wait: the rest is the background's.
  const Status synced = SyncAndWait(tenant, IfAbsent::kMake, options_.lookup_timeout_ms);
  {
    const std::unique_lock guard(asked_mutex_);
    asked_.insert(tenant);
  }
  if (const auto id = table_.IdOf(tenant)) return *id;
  LARDER_ASSIGN(const SpaceId id, MakeHere(tenant));
  LogWarn("tenant {} has an id of this server alone for now: {}", tenant,
          synced ? "its entry in Redis came too late" : synced.error().message);
  return id;
}

Status SharedKeyring::SyncAndWait(const std::string& tenant, IfAbsent if_absent, int64_t timeout_ms) {
  const auto promise = std::make_shared<std::promise<Status>>();
  std::future<Status> answer = promise->get_future();
  asio::post(io_, [this, tenant, if_absent, promise] {
    Sync(tenant, if_absent, kTries, [promise](Status status) { promise->set_value(std::move(status)); });
  });
  if (answer.wait_for(std::chrono::milliseconds(timeout_ms)) != std::future_status::ready)
    return Fail(ErrorKind::kSlow, "Redis did not answer within {} ms", timeout_ms);
  return answer.get();
}

Result<SpaceId> SharedKeyring::MakeHere(const std::string& tenant) {
  const std::lock_guard guard(change_mutex_);
  if (const auto id = table_.IdOf(tenant)) return *id;  // Redis' answer came just now
  if (table_.size() >= kMaxTenants) return KeyringFull();
  LARDER_ASSIGN(const SpaceKey made, MakeSpaceKey(store_key_, 0));
  LARDER_ASSIGN(const SpaceKey entry, Save(tenant, made, false));
  table_.Set(tenant, entry);
  ++local_entries_;
  return entry.id;
}

Result<SpaceId> SharedKeyring::Forget(const std::string& tenant) {
  LARDER_TRY(CheckTenant(tenant));
  Status learned;
  if (!table_.IdOf(tenant)) learned = SyncAndWait(tenant, IfAbsent::kLeave, options_.redis.admin_timeout_ms);
  LARDER_ASSIGN(const SpaceId old, ReplaceHere(tenant, learned));
  const Status told = SyncAndWait(tenant, IfAbsent::kLeave, options_.redis.admin_timeout_ms);
  if (told || told.error().kind == ErrorKind::kUnsupported)
    return old;  // what we refuse holds no key of ours
  if (!file_)
    return Fail(
        ErrorKind::kUnavailable,
        "tenant {} is forgotten here, but Redis could not be told ({}); forget it again when it answers",
        tenant, told.error().message);
  LogWarn("tenant {} is forgotten here; other servers learn of it when Redis answers: {}", tenant,
          told.error().message);
  return old;
}

// The destroying half of Forget: another id and key, durable in the file. Returns the old id.
Result<SpaceId> SharedKeyring::ReplaceHere(const std::string& tenant, const Status& learned) {
  const std::lock_guard guard(change_mutex_);
  const auto prior = table_.Find(tenant);
  if (!prior && !learned) return Fail(ErrorKind::kUnavailable, "{}", learned.error().message);
  if (!prior) return Fail(ErrorKind::kNotFound, "tenant {} has no key", tenant);
  LARDER_ASSIGN(const SpaceKey next, NextSpaceKey(store_key_, tenant, *prior));
  LARDER_ASSIGN(const SpaceKey saved, Save(tenant, next));
  table_.Set(tenant, saved);
  untold_.insert(tenant);
  return prior->id;
}

// With change_mutex_ held. Writes an entry to the file and returns the one that counts: of a later generation
// if another process that shares the file has one.
Result<SpaceKey> SharedKeyring::Save(const std::string& tenant, const SpaceKey& entry,
                                     bool over_same_generation) {
  if (!file_) return entry;
  LARDER_ASSIGN(const SpaceKeys keys, file_->Edit([&](SpaceKeys& current) -> Result<bool> {
    const auto it = current.find(tenant);
    if (it == current.end() && current.size() >= kMaxTenants) return KeyringFull();
    if (it != current.end()) {
      const uint32_t there = it->second.generation;
      if (there > entry.generation || (there == entry.generation && !over_same_generation)) return false;
      if (it->second == entry) return false;
    }
    current.insert_or_assign(tenant, entry);
    return true;
  }));
  return keys.at(tenant);
}

// What stands in Redis counts here from now on, unless the tenant was forgotten here meanwhile.
Status SharedKeyring::Adopt(const std::string& tenant, const SpaceKey& entry) {
  std::optional<SpaceKey> prior;
  {
    const std::lock_guard guard(change_mutex_);
    prior = table_.Find(tenant);
    if (prior && (prior->generation > entry.generation || untold_.contains(tenant))) return {};
    if (!prior && table_.size() >= kMaxTenants) return KeyringFull();
    if (prior != entry || unsaved_.contains(tenant)) Keep(tenant, entry);
  }
  if (prior && prior->id != entry.id) {
    LogInfo("tenant {} has another id now, that of its entry in Redis", tenant);
    if (options_.replaced) options_.replaced(tenant, prior->id);
  }
  return {};
}

// With change_mutex_ held. Without its copy on disk an entry is as good for as long as this process lives.
void SharedKeyring::Keep(const std::string& tenant, const SpaceKey& entry) {
  const auto saved = Save(tenant, entry);
  if (saved) {
    unsaved_.erase(tenant);
  } else if (unsaved_.insert(tenant).second) {
    LogWarn("the key of tenant {} could not be saved: {}", tenant, saved.error().message);
  }
  table_.Set(tenant, saved.value_or(entry));
}

void SharedKeyring::RefreshSoon() {
  const int64_t now = clock_.NowNs();
  int64_t next = next_recheck_ns_;
  if (now < next || !next_recheck_ns_.compare_exchange_strong(next, now + kRecheckPauseNs)) return;
  asio::post(io_, [this] { Refresh(); });
}

// Reads a tenant's entry in Redis and makes it and ours one.
void SharedKeyring::Sync(const std::string& tenant, IfAbsent if_absent, int tries, const Done& done) {
  const std::string key = RedisTenantKey(tenant);
  // Cut by the server, so that a value of any size is refused and not a reason to hang up.
  router_.Submit(key, {.text = RedisText("GETRANGE", key, "0", std::to_string(kMaxEntryBytes - 1)),
                       .max_reply_bytes = kMaxEntryBytes,
                       .done = [this, tenant, if_absent, tries, done](Result<RespValue> answer) {
                         if (!answer) return done(std::unexpected(std::move(answer).error()));
                         if (!answer->IsString())
                           return done(Fail(ErrorKind::kIo, "the Redis server answers with nonsense"));
                         EntryRead(tenant, answer->text, if_absent, tries, done);
                       }});
}

void SharedKeyring::EntryRead(const std::string& tenant, const std::string& value, IfAbsent if_absent,
                              int tries, const Done& done) {
  if (value.empty()) {
    refused_.erase(tenant);
    const auto local = table_.Find(tenant);
    if (!local && if_absent == IfAbsent::kLeave) return done({});
    if (local) return Publish(tenant, *local, false, tries, done);
    const auto made = MakeSpaceKey(store_key_, 0);
    if (!made) return done(std::unexpected(made.error()));
    return Publish(tenant, *made, false, tries, done);
  }
  const auto there = Parse(tenant, value);
  if (!there) return Refuse(tenant, there.error(), done);
  refused_.erase(tenant);
  Raise(tenant, there->generation);
  const auto local = table_.Find(tenant);
  if (local && local->generation > there->generation) return Publish(tenant, *local, true, tries, done);
  done(Adopt(tenant, *there));
}

// Of a tenant that was forgotten here when Redis did not answer, or while another server forgot it too: our
// entry goes above the one in Redis, whose key has to go as well.
void SharedKeyring::Raise(const std::string& tenant, uint32_t above) {
  const std::lock_guard guard(change_mutex_);
  auto local = table_.Find(tenant);
  if (!untold_.contains(tenant) || !local || local->generation > above) return;
  if (above == std::numeric_limits<uint32_t>::max()) return;
  local->generation = above + 1;
  Keep(tenant, *local);
}

void SharedKeyring::Publish(const std::string& tenant, const SpaceKey& entry, bool replace, int tries,
                            const Done& done) {
  const std::string key = RedisTenantKey(tenant);
  SpaceKey told = entry;
  told.untold = false;
  const auto value = FormatKeyring({{key, told}}, store_key_.get(), cipher_);
  if (!value) return done(std::unexpected(value.error()));
  const auto written = [this, tenant, told, tries, done](Result<RespValue> answer) {
    if (!answer) return done(std::unexpected(std::move(answer).error()));
    if (answer->IsNil() && tries > 1) return Sync(tenant, IfAbsent::kMake, tries - 1, done);
    if (!answer->IsStatus("OK")) return done(Fail(ErrorKind::kIo, "the Redis server answers with nonsense"));
    {
      const std::lock_guard guard(change_mutex_);
      const auto ours = table_.Find(tenant);
      if (!ours || ours->generation <= told.generation) untold_.erase(tenant);
    }
    done(Adopt(tenant, told));
  };
  router_.Submit(key, {.text = replace ? RedisText("SET", key, *value) : RedisText("SET", key, *value, "NX"),
                       .done = written});
}

Result<SpaceKey> SharedKeyring::Parse(const std::string& tenant, const std::string& value) const {
  LARDER_ASSIGN(const SpaceKeys keys, ParseKeyring(value, store_key_.get(), cipher_));
  const auto it = keys.find(RedisTenantKey(tenant));
  if (keys.size() != 1 || it == keys.end()) return Fail(ErrorKind::kCorrupt, "another tenant's entry");
  return it->second;
}

void SharedKeyring::Refuse(const std::string& tenant, const Error& error, const Done& done) {
  ++refused_entries_;
  if (refused_.insert(tenant).second) {
    const std::string_view why =
        error.kind == ErrorKind::kUnsupported ? "of another version"
        : error.kind == ErrorKind::kInvalid
            ? (store_key_.get() ? "made without a store key" : "made with a store key")
            : "damaged, forged, or made with another store key";
    LogError(
        "the entry of tenant {} in Redis is refused, it is {}; the tenant's blocks are not shared until its "
        "key {} is deleted",
        tenant, why, RedisTenantKey(tenant));
  }
  done(Fail(ErrorKind::kUnsupported, "its entry in Redis is refused"));
}

void SharedKeyring::Refresh() {
  if (closing_) return;
  refresh_timer_.expires_after(std::chrono::milliseconds(options_.refresh_ms));
  refresh_timer_.async_wait([this](const boost::system::error_code& error) {
    if (!error) Refresh();
  });
  if (reading_ > 0) return;  // a round is under way
  round_ = table_.Tenants();
  const size_t together = std::min(kTogether, round_.size());
  for (size_t i = 0; i < together; ++i) RefreshNext();
}

void SharedKeyring::RefreshNext() {
  if (round_.empty()) return;
  const std::string tenant = std::move(round_.back());
  round_.pop_back();
  ++reading_;
  Sync(tenant, IfAbsent::kLeave, kTries, [this](const Status& status) {
    --reading_;
    if (!status && status.error().kind == ErrorKind::kUnavailable) round_.clear();  // the next round, then
    RefreshNext();
  });
}

}  // namespace

Result<std::unique_ptr<Keyring>> OpenKeyring(const KeyringOptions& options) {
  if (options.redis.url.empty()) {
    if (options.ring_file.empty())
      return Fail(ErrorKind::kInvalid, "a keyring needs a file or a Redis server to be kept in");
    return Keyring::Open(options.ring_file, options.store_key_file);
  }
  LARDER_ASSIGN(RedisUrl url, ParseRedisUrl(options.redis.url));
  LARDER_ASSIGN(StoreKey store_key, StoreKey::Read(options.store_key_file));
  LARDER_ASSIGN(auto tls, MakeRedisTls(url, options.redis.ca_file));
  std::unique_ptr<const KeyringFile> file;
  SpaceKeys keys;
  if (!options.ring_file.empty()) {
    file = std::make_unique<const KeyringFile>(options.ring_file, store_key);
    LARDER_ASSIGN(keys, file->Open());
  }
  return std::make_unique<SharedKeyring>(options, std::move(url), std::move(store_key), std::move(tls),
                                         std::move(file), std::move(keys));
}

}  // namespace larder
