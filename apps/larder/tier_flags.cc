#include "larder/tier_flags.h"

#include <algorithm>
#include <filesystem>

#include "base/log.h"
#include "store/evict/policy.h"
#include "store/redis/redis_tier.h"
#include "store/redis/shared_keyring.h"
#include "store/trust.h"

namespace larder {
namespace {

constexpr uint64_t kMostPendingBytes = uint64_t{256} << 20;
constexpr uint64_t kLeastPendingBytes = uint64_t{16} << 20;

Result<uint64_t> DiskLimit(const TierFlags& flags) {
  if (flags.disk_limit_bytes > 0) return flags.disk_limit_bytes;
  std::error_code error;
  std::filesystem::create_directories(flags.disk, error);
  const auto space = std::filesystem::space(flags.disk, error);
  if (error) return Fail(ErrorKind::kIo, "{}: {}; give --disk-limit", flags.disk, error.message());
  return space.available / 2;
}

// Before it answers, wipes the disk of what tenants had under ids that another server replaced.
class WipingKeyring final : public Keyring {
 public:
  WipingKeyring(Keyring* ring, ReplacedSpaces* replaced, Tier* disk)
      : ring_(ring), replaced_(replaced), disk_(disk) {}
  Result<SpaceId> SpaceOf(const std::string& tenant) override {
    replaced_->WipeFrom(disk_);
    return ring_->SpaceOf(tenant);
  }
  Result<SpaceId> Forget(const std::string& tenant) override { return ring_->Forget(tenant); }
  std::vector<std::pair<std::string, SpaceId>> Spaces() const override { return ring_->Spaces(); }
  const Sealer* sealer() const override { return ring_->sealer(); }
  KeyringStats stats() const override { return ring_->stats(); }

 private:
  Keyring* const ring_;
  ReplacedSpaces* const replaced_;
  Tier* const disk_;
};

RedisOptions RedisOptionsOf(const TierFlags& flags, uint64_t pending_bytes) {
  RedisOptions options;
  options.url = flags.redis;
  options.ca_file = flags.redis_ca;
  options.ttl_ms = flags.redis_ttl_s * 1000;
  options.max_pending_bytes = pending_bytes;
  return options;
}

}  // namespace

void TierFlags::Declare(Params& params) {
  params.String("disk", &disk, "directory that keeps the cache across restarts; empty: none");
  params.Size("disk-limit", &disk_limit_bytes, 0, uint64_t{1} << 50,
              "bytes the directory may take; 0: half of what is free there at the start");
  params.String("disk-evict-policy", &disk_evict_policy,
                "which stored blocks go first: " + EvictPolicyNames());
  params.String("disk-admit", &disk_admit, "which blocks are worth writing: " + AdmitPolicyNames());
  params.String(
      "redis", &redis,
      "Redis or Valkey that servers share: redis://[user:password@]host:port[,host:port...], rediss:// "
      "with TLS; several nodes are a cluster");
  params.String("redis-ca", &redis_ca, "certificates that rediss:// trusts, PEM; empty: the system's");
  params.Int("redis-ttl", &redis_ttl_s, 0, int64_t{10} * 365 * 24 * 3600,
             "seconds that a block stays in Redis after its last use; 0: until Redis evicts it");
  params.String(
      "store-key", &store_key,
      "file of 32 bytes or 64 hexadecimal digits, outside the directory: encrypts and authenticates what "
      "leaves memory");
  params.String(
      "keyring", &keyring,
      "file of the tenants' ids and wrapped keys; empty: 'keyring' in the directory, if there is one");
}

Status TierFlags::Check() const {
  if (disk.empty() && redis.empty() && !store_key.empty()) {
    return Fail(ErrorKind::kInvalid, "--store-key protects what leaves memory; give --disk or --redis, too");
  }
  LARDER_TRY(CheckKeyIsOutside(store_key, disk));
  LARDER_TRY(CreateEvictPolicy(disk_evict_policy));
  LARDER_TRY(CreateAdmitPolicy(disk_admit));
  return {};
}

void Tiers::AddTo(EngineOptions& options) const {
  for (const auto* tier : {&disk, &redis}) {
    if (*tier != nullptr) options.tiers.push_back(tier->get());
  }
  options.admit = {admit.get()};
  options.keyring = wiping.get();
  options.lease_file = lease_file;
}

Result<Tiers> OpenTiers(const TierFlags& flags, uint64_t kv_limit_bytes, Clock* clock) {
  Tiers tiers;
  if (flags.disk.empty() && flags.redis.empty()) return tiers;
  // What waits to be written stays in the cache meanwhile and cannot make room for others.
  const uint64_t pending = std::clamp(kv_limit_bytes / 4, kLeastPendingBytes, kMostPendingBytes);
  KeyringOptions ring;
  ring.ring_file = !flags.keyring.empty() ? flags.keyring : flags.disk.empty() ? "" : flags.disk + "/keyring";
  ring.store_key_file = flags.store_key;
  if (!flags.redis.empty()) ring.redis = RedisOptionsOf(flags, pending);
  tiers.replaced = std::make_unique<ReplacedSpaces>();
  ring.replaced = [replaced = tiers.replaced.get()](const std::string&, const SpaceId& old) {
    replaced->Add(old);
  };
  if (!flags.disk.empty()) LARDER_TRY(RealFileSystem()->MakeDirectory(flags.disk));
  LARDER_ASSIGN(tiers.keyring, OpenKeyring(ring));
  const Sealer* sealer = tiers.keyring->sealer();
  if (!flags.disk.empty()) {
    DiskOptions options;
    options.directory = flags.disk;
    LARDER_ASSIGN(options.limit_bytes, DiskLimit(flags));
    options.pending_bytes = pending;
    options.evict_policy = flags.disk_evict_policy;
    LARDER_ASSIGN(tiers.admit, CreateAdmitPolicy(flags.disk_admit));
    tiers.lease_file = flags.disk + "/leases.json";
    LARDER_ASSIGN(tiers.disk, OpenDiskTier(options, RealFileSystem(), sealer, clock));
    const TierStats stats = tiers.disk->stats();
    LogInfo("disk: {} has {} records in {} of at most {}", flags.disk, stats.records,
            FormatSize(stats.used_bytes), FormatSize(stats.limit_bytes));
  }
  if (!flags.redis.empty()) {
    LARDER_ASSIGN(tiers.redis, OpenRedisTier(RedisOptionsOf(flags, pending), sealer, clock));
  }
  tiers.wiping = std::make_unique<WipingKeyring>(tiers.keyring.get(), tiers.replaced.get(), tiers.disk.get());
  const TrustedPlaces places{
      .disk = flags.disk, .redis_url = flags.redis, .store_key = !flags.store_key.empty()};
  for (const std::string& sentence : TrustSentences(places)) LogInfo("{}", sentence);
  return tiers;
}

}  // namespace larder
