#include "engine/lease_file.h"

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/file.h"
#include "base/log.h"

namespace larder {
namespace {

using Json = nlohmann::json;

constexpr int kVersion = 1;
constexpr auto kLeastInterval = std::chrono::seconds(1);
constexpr size_t kMostBytes = 16 << 20;

std::optional<LeaseKind> KindFrom(const std::string& name) {
  for (const LeaseKind kind :
       {LeaseKind::kTurn, LeaseKind::kRetained, LeaseKind::kPinned, LeaseKind::kFetched}) {
    if (LeaseKindName(kind) == name) return kind;
  }
  return std::nullopt;
}

std::optional<Digest> DigestFrom(const std::string& hex) {
  Digest digest;
  if (hex.size() != 2 * digest.bytes.size()) return std::nullopt;
  const auto digit = [](char c) {
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  for (size_t i = 0; i < digest.bytes.size(); ++i) {
    const int high = digit(hex[2 * i]), low = digit(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    digest.bytes[i] = static_cast<uint8_t>(high << 4 | low);
  }
  return digest;
}

}  // namespace

LeaseFile::LeaseFile(std::string path, Clock* clock)
    : path_(std::move(path)), clock_(clock), thread_([this] { Write(); }) {}

LeaseFile::~LeaseFile() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
}

void LeaseFile::Save(std::vector<SavedLease> leases) {
  {
    const std::lock_guard lock(mutex_);
    next_ = std::move(leases);
  }
  wake_.notify_one();
}

void LeaseFile::Write() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [this] { return stopping_ || next_.has_value(); });
    if (!next_) return;
    const std::vector<SavedLease> leases = *std::exchange(next_, std::nullopt);
    lock.unlock();
    if (const Status status = WriteFileAtomically(path_, Encode(leases, clock_->WallMs())); !status) {
      LogWarn("leases will not outlive this run: {}", status.error().message);
    }
    lock.lock();
    wake_.wait_for(lock, kLeastInterval, [this] { return stopping_; });
  }
}

std::string LeaseFile::Encode(const std::vector<SavedLease>& leases, int64_t now_wall_ms) {
  Json list = Json::array();
  for (const SavedLease& lease : leases) {
    list.push_back({{"tenant", lease.tenant},
                    {"holder", lease.holder},
                    {"kind", LeaseKindName(lease.kind)},
                    {"priority", lease.priority},
                    {"ttl_ms", lease.ttl_ms},
                    {"block", lease.block.Hex()}});
  }
  const Json file = {{"version", kVersion}, {"written_unix_ms", now_wall_ms}, {"leases", std::move(list)}};
  // A holder is what a client sent: not always UTF-8.
  return file.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<std::vector<SavedLease>> LeaseFile::Decode(std::string_view text, int64_t now_wall_ms) {
  std::vector<SavedLease> leases;
  try {
    const Json file = Json::parse(text);
    if (file.at("version") != kVersion) return Fail(ErrorKind::kCorrupt, "leases of another version");
    const int64_t passed_ms = std::max<int64_t>(0, now_wall_ms - file.at("written_unix_ms").get<int64_t>());
    for (const Json& entry : file.at("leases")) {
      const auto kind = KindFrom(entry.at("kind").get<std::string>());
      const auto block = DigestFrom(entry.at("block").get<std::string>());
      const Json& ttl = entry.at("ttl_ms");
      const Json& wanted = entry.at("priority");
      if (!ttl.is_number_integer() || !wanted.is_number_integer()) {
        return Fail(ErrorKind::kCorrupt, "a lease's time or priority is no whole number");
      }
      const auto ttl_ms = ttl.get<int64_t>();
      const auto priority = wanted.get<int64_t>();
      if (!kind || !block || ttl_ms > kMostLeaseMs || priority < 0 || priority > kMostLeasePriority) {
        return Fail(ErrorKind::kCorrupt, "a lease that nobody wrote");
      }
      if (ttl_ms <= passed_ms) continue;
      leases.push_back({entry.at("tenant").get<std::string>(), entry.at("holder").get<std::string>(), *kind,
                        static_cast<int32_t>(priority), ttl_ms - passed_ms, *block});
    }
  } catch (const Json::exception& error) {
    return Fail(ErrorKind::kCorrupt, "not a list of leases: {}", error.what());
  }
  return leases;
}

std::vector<SavedLease> LeaseFile::Load() const {
  const Result<std::string> text = ReadFile(path_, kMostBytes);
  if (!text) {
    if (text.error().kind != ErrorKind::kNotFound)
      LogWarn("leases of the last run are lost: {}", text.error().message);
    return {};
  }
  auto leases = Decode(*text, clock_->WallMs());
  if (!leases) {
    LogWarn("leases of the last run are lost: {}: {}", path_, leases.error().message);
    return {};
  }
  return *std::move(leases);
}

}  // namespace larder
