// larder store verify|stat|list|export|import|compact|wipe: looks after a disk store while no server has it.
#include "larder/offline_store.h"

#include <fmt/core.h>

#include <charconv>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "larder/command.h"
#include "store/archive.h"
#include "store/transfer.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kListed = 256;

std::string SpaceHex(const SpaceId& space) {
  std::string hex;
  for (const uint8_t byte : space) hex += fmt::format("{:02x}", byte);
  return hex;
}

Result<SpaceId> ParseSpace(const std::string& hex) {
  SpaceId space{};
  bool good = hex.size() == 2 * space.size();
  for (size_t i = 0; good && i < space.size(); ++i) {
    const char* digits = hex.data() + 2 * i;
    const auto byte = std::from_chars(digits, digits + 2, space[i], 16);
    good = byte.ec == std::errc() && byte.ptr == digits + 2;
  }
  if (!good) return Fail(ErrorKind::kInvalid, "'{}' is no space; 32 hexadecimal digits are wanted", hex);
  return space;
}

void PrintLine(const Json& line) {
  fmt::print("{}\n", line.dump(-1, ' ', false, Json::error_handler_t::replace));
}

class Store final : public Command {
 public:
  void Declare(Params& params) override {
    params.String("disk", &flags_.directory, "directory of the store");
    params.Size("disk-limit", &flags_.limit_bytes, 0, uint64_t{1} << 50,
                "bytes it may take, as the server is told; import needs it; 0: nothing is evicted");
    params.String("store-key", &flags_.store_key,
                  "file with the key that seals the store: 32 bytes or 64 hexadecimal digits");
    params.String("keyring", &flags_.keyring,
                  "file of the tenants' ids and keys; empty: 'keyring' in the directory, if there is one");
    params.String("file", &file_, "export, import: the archive; may stand behind them without --file");
    params.String("tenant", &tenant_, "wipe: whose records go, and whose key is destroyed");
    params.String("space", &space_,
                  "wipe: whose records go, by the id that list shows; for what a tenant without a key left");
    params.Bool("json", &json_, "one object a line instead of text");
  }

  Status Run(const std::string& what) override {
    static constexpr std::pair<std::string_view, Status (Store::*)()> kActions[] = {
        {"verify", &Store::Verify}, {"stat", &Store::Stat},     {"list", &Store::List},
        {"export", &Store::Export}, {"import", &Store::Import}, {"compact", &Store::Compact},
        {"wipe", &Store::Wipe},
    };
    SetLogLevel(LogLevel::kWarn);
    for (const auto& [name, act] : kActions) {
      if (name != what) continue;
      LARDER_TRY(CheckOptions(what));
      return (this->*act)();
    }
    return Fail(ErrorKind::kInvalid,
                "'{}' is not known; write verify, stat, list, export, import, compact or wipe", what);
  }

 private:
  Status CheckOptions(const std::string& what) const {
    const bool archive = what == "export" || what == "import";
    if (archive == file_.empty())
      return archive ? Fail(ErrorKind::kInvalid, "no archive is named; write larder store {} FILE", what)
                     : Fail(ErrorKind::kInvalid, "larder store {} takes no file", what);
    const bool wipe = what == "wipe";
    if (wipe && tenant_.empty() == space_.empty())
      return Fail(ErrorKind::kInvalid, "say whose records go: --tenant NAME, or --space ID");
    if (!wipe && !(tenant_.empty() && space_.empty()))
      return Fail(ErrorKind::kInvalid, "--tenant and --space are for larder store wipe");
    if (what == "import" && flags_.limit_bytes == 0)
      return Fail(ErrorKind::kInvalid,
                  "say how much the store may take: --disk-limit, as the server is told");
    return {};
  }

  Status Verify() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, false));
    LARDER_ASSIGN(const DiskReport report, store->tier->Verify());
    if (json_) {
      PrintLine({{"records", report.records}, {"bytes", report.bytes}, {"damaged", report.bad}});
    } else {
      fmt::print("{} records, {} read and verified\n", report.records, FormatSize(report.bytes));
    }
    if (report.bad == 0) return {};
    return Fail(ErrorKind::kCorrupt,
                "{} of {} records are damaged; they are given up and will be computed anew", report.bad,
                report.records);
  }

  Status Stat() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, false));
    const TierStats stats = store->tier->stats();
    const DiskCounters counters = store->tier->counters();
    const bool sealed = store->keyring != nullptr && store->keyring->sealer() != nullptr;
    if (json_) {
      PrintLine({{"records", stats.records},
                 {"used_bytes", stats.used_bytes},
                 {"live_bytes", counters.live_bytes},
                 {"segments", counters.segments},
                 {"index_bytes", counters.index_bytes},
                 {"catalog_entries", counters.catalog_entries},
                 {"rebuilt_records", counters.rebuilt_records},
                 {"sealed", sealed},
                 {"healthy", stats.healthy}});
      return {};
    }
    fmt::print("records   {}{}\n", stats.records, sealed ? ", sealed" : "");
    fmt::print("used      {} in {} segments, {} of it by records\n", FormatSize(stats.used_bytes),
               counters.segments, FormatSize(counters.live_bytes));
    fmt::print("memory    {} for the index when it is open\n", FormatSize(counters.index_bytes));
    if (counters.rebuilt_records > 0)
      fmt::print("the catalog was damaged: {} records were found again\n", counters.rebuilt_records);
    if (!stats.healthy) fmt::print("the directory cannot be written\n");
    return {};
  }

  Status List() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, false));
    if (!json_)
      fmt::print("{:<64} {:>12} {:>6} {:>10} {:>8}  {:<16} {}\n", "name", "bytes", "groups", "kind",
                 "metadata", "parent", "space");
    uint64_t cursor = 0;
    do {
      for (const RecordHeader& header : store->tier->List(cursor, kListed, nullptr)) ListOne(header);
    } while (cursor != 0);
    return {};
  }

  void ListOne(const RecordHeader& header) const {
    const bool root = header.parent == Digest();
    if (json_) {
      PrintLine({{"name", header.name.Hex()},
                 {"parent", root ? Json() : Json(header.parent.Hex())},
                 {"space", SpaceHex(header.space)},
                 {"kind", header.kind},
                 {"metadata_bytes", header.metadata.size()},
                 {"group_bytes", header.group_bytes},
                 {"bytes", header.payload_bytes()}});
      return;
    }
    fmt::print("{} {:>12} {:>6} {:>10} {:>8}  {:<16} {}\n", header.name.Hex(), header.payload_bytes(),
               header.group_bytes.size(), header.kind, header.metadata.size(),
               root ? "-" : header.parent.ShortHex(), SpaceHex(header.space));
  }

  Status Export() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, true));
    const Sealer* sealer = store->keyring == nullptr ? nullptr : store->keyring->sealer();
    LARDER_ASSIGN(const auto archive, ArchiveWriter::Create(RealFileSystem(), file_, sealer));
    const TransferReport report = ExportRecords(*store->tier, *archive);
    LARDER_TRY(report.status);
    LARDER_TRY(archive->Finish());
    if (json_) {
      PrintLine({{"archive", file_},
                 {"records", report.records},
                 {"bytes", report.bytes},
                 {"damaged", report.damaged},
                 {"sealed", sealer != nullptr},
                 {"archive_bytes", archive->bytes()}});
    } else {
      fmt::print("{}: {} records, {}{}\n", file_, report.records, FormatSize(archive->bytes()),
                 sealer != nullptr ? ", sealed" : "");
    }
    if (report.damaged == 0) return {};
    return Fail(ErrorKind::kCorrupt, "{} records are damaged and were left out", report.damaged);
  }

  Status Import() {
    // The archive first: what is none must not make a store.
    LARDER_ASSIGN(auto file, RealFileSystem()->Open(file_, {}));
    LARDER_ASSIGN(const auto store, OpenStore(flags_, true, true));
    const Sealer* sealer = store->keyring == nullptr ? nullptr : store->keyring->sealer();
    LARDER_ASSIGN(const auto archive, ArchiveReader::Open(std::move(file), sealer));
    if (sealer == nullptr)
      fmt::print(stderr, "larder store: without a store key whoever made the archive is trusted\n");
    const uint64_t before = store->tier->stats().write_records;
    const TransferReport report =
        ImportRecords(*archive, *store->tier, [this](const ArchiveItem& item) { PrintUnsound(item); });
    const uint64_t written = store->tier->stats().write_records - before;
    if (json_) {
      PrintLine({{"records", report.records},
                 {"written", written},
                 {"bytes", report.bytes},
                 {"damaged", report.damaged},
                 {"no_key", report.no_key},
                 {"conflicts", report.conflicts},
                 {"refused", report.refused}});
    } else {
      fmt::print("{} records, {}; {} were there already\n", report.records, FormatSize(report.bytes),
                 report.records - written);
    }
    LARDER_TRY(report.status);
    if (report.damaged + report.no_key + report.conflicts == 0) return {};
    return Fail(
        ErrorKind::kCorrupt,
        "not everything was taken: {} records damaged, {} of tenants without a key here, {} here with "
        "another payload",
        report.damaged, report.no_key, report.conflicts);
  }

  void PrintUnsound(const ArchiveItem& item) const {
    const std::string& why = item.status.error().message;
    if (json_) {
      PrintLine(
          {{"unsound", {{"first", item.first}, {"end", item.end}, {"offset", item.offset}, {"why", why}}}});
    } else if (item.end - item.first == 1) {
      fmt::print("record {} at byte {}: {}\n", item.first, item.offset, why);
    } else {
      fmt::print("records {} to {} at byte {}: {}\n", item.first, item.end, item.offset, why);
    }
  }

  Status Compact() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, false));
    const uint64_t before = store->tier->stats().used_bytes;
    LARDER_TRY(store->tier->Compact());
    PrintFreed(before, store->tier->stats());
    return {};
  }

  // The store is locked first, so that no server puts anything meanwhile.
  Status Wipe() {
    LARDER_ASSIGN(const auto store, OpenStore(flags_, false, false));
    SpaceId space{};
    if (space_.empty()) {
      if (store->keyring == nullptr)
        return Fail(ErrorKind::kNotFound, "there is no {}, so no tenant is known", flags_.KeyringPath());
      LARDER_ASSIGN(space, store->keyring->Forget(tenant_));
    } else {
      LARDER_ASSIGN(space, ParseSpace(space_));
    }
    const TierStats before = store->tier->stats();
    if (const Status wiped = store->tier->Wipe(space); !wiped)
      return Fail(wiped.error().kind, "{}; repeat it with --space {}", wiped.error().message,
                  SpaceHex(space));
    // Moves what others have in the same segments, and removes those.
    while (store->tier->Step()) {
    }
    const TierStats after = store->tier->stats();
    if (!json_) fmt::print("{} records wiped, ", before.records - after.records);
    PrintFreed(before.used_bytes, after, before.records - after.records);
    return {};
  }

  void PrintFreed(uint64_t before, const TierStats& after, std::optional<uint64_t> wiped = {}) const {
    const uint64_t freed = before - std::min(before, after.used_bytes);
    if (json_) {
      Json line = {{"freed_bytes", freed}, {"used_bytes", after.used_bytes}, {"records", after.records}};
      if (wiped) line["wiped_records"] = *wiped;
      PrintLine(line);
    } else {
      fmt::print("{} freed, {} used by {} records\n", FormatSize(freed), FormatSize(after.used_bytes),
                 after.records);
    }
  }

  StoreFlags flags_;
  std::string file_, tenant_, space_;
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateStore() { return std::make_unique<Store>(); }

}  // namespace larder
