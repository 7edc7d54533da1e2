// larder store from outside: what it shows, carries over, removes, and refuses.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "base/clock.h"
#include "base/file.h"
#include "store/disk/disk_tier.h"
#include "tests/apps/program.h"
#include "tests/store/store_fixture.h"

namespace larder {
namespace {

using nlohmann::json;

Outcome Store(const std::string& arguments) { return Program("store " + arguments); }

// The objects it printed, one a line.
std::vector<json> Lines(const Outcome& outcome) {
  std::vector<json> lines;
  std::istringstream text(outcome.out);
  for (std::string line; std::getline(text, line);)
    if (line.starts_with("{")) lines.push_back(json::parse(line));
  return lines;
}

TestRecord Record(uint64_t number, const SpaceId& space = {}) {
  return MakeTestRecord(number, {5000, 70000}, space, TestName(1000));
}

class StoreCommand : public testing::Test {
 protected:
  std::unique_ptr<DiskTier> Open(const std::string& directory, const Sealer* sealer = nullptr) {
    DiskOptions options;
    options.directory = directory;
    options.limit_bytes = 64 << 20;
    return OpenDiskTier(options, RealFileSystem(), sealer, &clock_).value();
  }
  void Fill(const std::string& directory, uint64_t first, uint64_t end, const Sealer* sealer = nullptr,
            const SpaceId& space = {}) {
    const auto tier = Open(directory, sealer);
    for (uint64_t n = first; n < end; ++n) Put(*tier, Record(n, space));
  }
  static void Put(Tier& tier, const TestRecord& record) {
    tier.Put(record.header, record.payload(), [](Status status) { EXPECT_TRUE(status); });
    tier.Flush();
  }
  static std::set<std::string> Names(const std::string& arguments) {
    std::set<std::string> names;
    const Outcome outcome = Store("list --json --disk " + arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.out;
    for (const json& line : Lines(outcome)) names.insert(line["name"].get<std::string>());
    return names;
  }
  static std::set<std::string> NamesOf(uint64_t first, uint64_t end) {
    std::set<std::string> names;
    for (uint64_t n = first; n < end; ++n) names.insert(TestName(n).Hex());
    return names;
  }
  // Whether the first bytes of a record's last group are in any file of the directory.
  static bool Shows(const std::string& directory, const TestRecord& record) {
    const std::string text(reinterpret_cast<const char*>(record.groups.back().data()), 64);
    for (const auto& entry : std::filesystem::directory_iterator(directory)) {
      if (!entry.is_regular_file()) continue;
      if (ReadFile(entry.path().string(), 1u << 30).value().find(text) != std::string::npos) return true;
    }
    return false;
  }
  static void Flip(const std::string& path, int64_t from_end) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-from_end, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(-from_end, std::ios::end);
    file.put(byte);
  }

  TemporaryFolder folder_{"store-command"};
  const std::string a_ = folder_ / "a", b_ = folder_ / "b", archive_ = folder_ / "archive";
  SystemClock clock_;
};

TEST_F(StoreCommand, ShowsWhatIsThere) {
  Fill(a_, 0, 9);
  const Outcome stat = Store("stat --json --disk " + a_);
  ASSERT_EQ(stat.code, 0) << stat.out;
  ASSERT_EQ(Lines(stat).size(), 1u);
  const json figures = Lines(stat)[0];
  EXPECT_EQ(figures["records"], 9);
  EXPECT_EQ(figures["live_bytes"], 9 * 21 * 4096);
  EXPECT_GE(figures["used_bytes"], figures["live_bytes"]);
  EXPECT_EQ(figures["sealed"], false);

  const Outcome list = Store("list --json --disk " + a_);
  ASSERT_EQ(Lines(list).size(), 9u) << list.out;
  EXPECT_EQ(Names(a_), NamesOf(0, 9));
  EXPECT_EQ(Lines(list)[0]["group_bytes"], json({5000, 70000}));
  EXPECT_EQ(Lines(list)[0]["parent"], TestName(1000).Hex());

  const Outcome verify = Store("verify --json --disk " + a_);
  EXPECT_EQ(verify.code, 0) << verify.out;
  EXPECT_EQ(Lines(verify).at(0), json({{"records", 9}, {"bytes", 9 * 75000}, {"damaged", 0}}));
  for (const char* what : {"stat", "list", "verify"}) {
    const Outcome text = Store(std::string(what) + " --disk " + a_);
    EXPECT_EQ(text.code, 0) << text.out;
    EXPECT_NE(text.out.find(what == std::string("list") ? TestName(3).Hex() : "9"), std::string::npos);
  }
  EXPECT_EQ(Names(a_), NamesOf(0, 9)) << "looking changes nothing";
}

TEST_F(StoreCommand, VerifyFindsDamageOnce) {
  Fill(a_, 0, 4);
  Flip(a_ + "/seg-1", 5000);
  const Outcome first = Store("verify --json --disk " + a_);
  EXPECT_EQ(first.code, 1);
  EXPECT_EQ(Lines(first).at(0)["damaged"], 1) << first.out;
  const Outcome second = Store("verify --json --disk " + a_);
  EXPECT_EQ(second.code, 0);
  EXPECT_EQ(Lines(second).at(0), json({{"records", 3}, {"bytes", 3 * 75000}, {"damaged", 0}}));
}

TEST_F(StoreCommand, AStoreInUseIsRefusedInOneSentence) {
  Fill(a_, 0, 2);
  const auto keyring = Keyring::Open(a_ + "/keyring", "").value();
  const SpaceId space = keyring->SpaceOf("t").value();
  ASSERT_EQ(Store("export " + archive_ + " --disk " + a_).code, 0);
  const auto tier = Open(a_);
  for (const std::string& what :
       std::vector<std::string>{"verify", "stat", "list", "export " + folder_ / "x", "import " + archive_,
                                "compact", "wipe --tenant t"}) {
    const Outcome outcome = Store(what + " --disk-limit 64M --disk " + a_);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_NE(outcome.out.find(fmt::format("held by process {}", getpid())), std::string::npos)
        << outcome.out;
    EXPECT_EQ(std::ranges::count(outcome.out, '\n'), 1) << outcome.out;
  }
  EXPECT_EQ(Keyring::Open(a_ + "/keyring", "").value()->SpaceOf("t").value(), space);
}

TEST_F(StoreCommand, RefusesWhatIsNoStore) {
  for (const std::string& arguments : std::vector<std::string>{
           "stat --disk " + a_, "verify --disk " + a_, "list --disk " + a_, "compact --disk " + a_,
           "export " + archive_ + " --disk " + a_, "wipe --tenant t --disk " + a_, "stat",
           "export --disk " + a_, "import " + archive_ + " --disk " + a_, "wipe --disk " + a_,
           "mend --disk " + a_, "stat " + archive_ + " --disk " + a_, "stat --tenant t --disk " + a_}) {
    const Outcome outcome = Store(arguments);
    EXPECT_EQ(outcome.code, 1) << arguments;
    EXPECT_EQ(std::ranges::count(outcome.out, '\n'), 1) << outcome.out;
    EXPECT_FALSE(std::filesystem::exists(a_)) << arguments;
  }
  // Another version stays as it is.
  std::filesystem::create_directory(a_);
  folder_.Write("a/LARDER", "larder disk store\nversion 2\nuuid 00000000000000000000000000000000\n");
  EXPECT_NE(Store("stat --disk " + a_).out.find("version 2"), std::string::npos);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(a_), {}), 1);
}

TEST_F(StoreCommand, CarriesRecordsOver) {
  Fill(a_, 0, 12);
  const Outcome out = Store("export " + archive_ + " --json --disk " + a_);
  ASSERT_EQ(out.code, 0) << out.out;
  EXPECT_EQ(Lines(out).at(0)["records"], 12);
  EXPECT_EQ(Lines(out)[0]["archive_bytes"], std::filesystem::file_size(archive_));
  EXPECT_EQ(Store("export " + archive_ + " --disk " + a_).code, 1) << "never over another file";
  for (const uint64_t written : {12, 0}) {
    const Outcome in = Store("import " + archive_ + " --json --disk-limit 64M --disk " + b_);
    ASSERT_EQ(in.code, 0) << in.out;
    ASSERT_EQ(Lines(in).size(), 1u);
    EXPECT_EQ(Lines(in)[0]["records"], 12);
    EXPECT_EQ(Lines(in)[0]["written"], written);
    EXPECT_NE(in.out.find("trusted"), std::string::npos) << in.out;
  }
  EXPECT_EQ(Names(b_), NamesOf(0, 12));
  EXPECT_EQ(Store("verify --disk " + b_).code, 0);
}

TEST_F(StoreCommand, ImportKeepsWhatIsSoundAndSaysWhatIsNot) {
  Fill(a_, 0, 6);
  ASSERT_EQ(Store("export " + archive_ + " --disk " + a_).code, 0);
  Flip(archive_, 100);  // in the last record
  const std::string import = "import " + archive_ + " --json --disk-limit 64M --disk " + b_;
  const Outcome damaged = Store(import);
  EXPECT_EQ(damaged.code, 1);
  ASSERT_EQ(Lines(damaged).size(), 2u) << damaged.out;
  EXPECT_EQ(Lines(damaged)[0]["unsound"]["first"], 5);
  EXPECT_EQ(Lines(damaged)[1]["records"], 5);
  EXPECT_EQ(Lines(damaged)[1]["damaged"], 1);
  EXPECT_EQ(Names(b_).size(), 5u);
  std::filesystem::resize_file(archive_, 200'000);  // two whole ones
  const Outcome cut = Store("import " + archive_ + " --disk-limit 64M --disk " + (folder_ / "c"));
  EXPECT_EQ(cut.code, 1);
  EXPECT_NE(cut.out.find("cut off"), std::string::npos) << cut.out;
  EXPECT_EQ(Names(folder_ / "c").size(), 2u);
  folder_.Write("archive", "no archive");
  EXPECT_EQ(Store("import " + archive_ + " --disk-limit 64M --disk " + b_).code, 1);
}

TEST_F(StoreCommand, SealedRecordsStaySealed) {
  const std::string key = folder_.Write("key", std::string(32, 'k'));
  std::filesystem::create_directory(a_);
  SpaceId space;
  {
    const auto keyring = Keyring::Open(a_ + "/keyring", key).value();
    space = keyring->SpaceOf("t").value();
    Fill(a_, 0, 5, keyring->sealer(), space);
  }
  const std::string with_key = " --store-key " + key;
  EXPECT_EQ(Store("stat --disk " + a_).code, 1) << "without the key it would look empty";
  std::filesystem::copy_file(key, a_ + "/key");
  const Outcome inside = Store("stat --disk " + a_ + " --store-key " + a_ + "/key");
  EXPECT_EQ(inside.code, 1);
  EXPECT_NE(inside.out.find("move the key out of it"), std::string::npos) << inside.out;
  std::filesystem::remove(a_ + "/key");
  EXPECT_EQ(Lines(Store("stat --json --disk " + a_ + with_key)).at(0)["records"], 5);
  ASSERT_EQ(Store("export " + archive_ + " --disk " + a_ + with_key).code, 0);
  EXPECT_FALSE(Shows(folder_.path(), Record(1)));
  const std::string import = "import " + archive_ + " --json --disk-limit 64M --disk " + b_;
  EXPECT_EQ(Store(import).code, 1) << "no key";
  EXPECT_EQ(Store(import + with_key).code, 1) << "no keyring";
  std::filesystem::create_directories(b_);
  std::filesystem::copy_file(a_ + "/keyring", b_ + "/keyring");
  const Outcome imported = Store(import + with_key);
  ASSERT_EQ(imported.code, 0) << imported.out;
  EXPECT_EQ(Names(b_ + with_key), NamesOf(0, 5));
  EXPECT_FALSE(Shows(b_, Record(1)));
  // Who wipes the tenant wipes the archive.
  ASSERT_EQ(Store("wipe --tenant t --disk " + b_ + with_key).code, 0);
  const Outcome again = Store(import + with_key);
  EXPECT_EQ(again.code, 1);
  EXPECT_EQ(Lines(again).back()["no_key"], 5) << again.out;
  EXPECT_TRUE(Names(b_ + with_key).empty());
}

TEST_F(StoreCommand, CompactClosesGaps) {
  {
    const auto tier = Open(a_);
    for (uint64_t n = 0; n < 40; ++n) Put(*tier, Record(n));
  }
  {
    DiskOptions options;
    options.directory = a_;
    options.limit_bytes = 64 << 20;
    options.stepped = true;
    const auto tier = OpenDiskTier(options, RealFileSystem(), nullptr, &clock_).value();
    std::vector<Digest> gone;
    for (uint64_t n = 0; n < 20; ++n) gone.push_back(TestName(2 * n));
    ASSERT_TRUE(tier->Remove(gone));
  }
  const Outcome outcome = Store("compact --json --disk " + a_);
  ASSERT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_GE(Lines(outcome).at(0)["freed_bytes"], 19 * 21 * 4096);
  const json stat = Lines(Store("stat --json --disk " + a_)).at(0);
  EXPECT_EQ(stat["records"], 20);
  EXPECT_LT(stat["used_bytes"].get<uint64_t>(), stat["live_bytes"].get<uint64_t>() + 65536);
  EXPECT_EQ(Store("verify --disk " + a_).code, 0);
}

TEST_F(StoreCommand, WipeLeavesNothingOfTheTenant) {
  std::filesystem::create_directory(a_);
  {
    const auto keyring = Keyring::Open(a_ + "/keyring", "").value();
    const SpaceId mine = keyring->SpaceOf("mine").value(), theirs = keyring->SpaceOf("theirs").value();
    const auto tier = Open(a_);
    for (uint64_t n = 0; n < 20; ++n) Put(*tier, Record(n, n % 2 == 0 ? mine : theirs));
  }
  ASSERT_TRUE(Shows(a_, Record(2)));
  const Outcome outcome = Store("wipe --json --tenant mine --disk " + a_);
  ASSERT_EQ(outcome.code, 0) << outcome.out;
  EXPECT_EQ(Lines(outcome).at(0)["wiped_records"], 10);
  EXPECT_EQ(Lines(outcome)[0]["records"], 10);
  for (uint64_t n = 0; n < 20; ++n) EXPECT_EQ(Shows(a_, Record(n)), n % 2 == 1) << n;
  EXPECT_EQ(Lines(Store("verify --json --disk " + a_)).at(0)["records"], 10);
  const Outcome twice = Store("wipe --json --tenant mine --disk " + a_);
  ASSERT_EQ(twice.code, 0) << twice.out;
  EXPECT_EQ(Lines(twice).at(0)["wiped_records"], 0);
  const Outcome unknown = Store("wipe --tenant nobody --disk " + a_);
  EXPECT_EQ(unknown.code, 1);
  EXPECT_NE(unknown.out.find("nobody"), std::string::npos) << unknown.out;
  // By id: what is left of a tenant whose key is gone.
  const json left = Lines(Store("list --json --disk " + a_)).at(0);
  EXPECT_EQ(Store("wipe --space " + left["space"].get<std::string>() + " --disk " + a_).code, 0);
  EXPECT_TRUE(Names(a_).empty());
  EXPECT_EQ(Store("wipe --space nonsense --disk " + a_).code, 1);
}

}  // namespace
}  // namespace larder
