// A real process, killed with SIGKILL while it stores, evicts, removes and wipes; then another opens what it
// left. 10 rounds; 200 with LARDER_SLOW=1.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <set>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

constexpr uint64_t kSpaces = 4;
constexpr uint64_t kKeptForSure = 10;  // the newest, far from being evicted

TestRecord RecordOf(uint64_t n) {
  return MakeTestRecord(n, {4096 + n * 811 % 30'000, 5000}, Space(static_cast<uint8_t>(n % kSpaces)),
                        ParentName(n % 9));
}

// What the child tells, in this order: it begins with a removal; it is durable; a record is committed.
struct Message {
  enum Kind : uint64_t { kCommitted, kRemoving, kRemoved, kWiping, kWiped } kind;
  uint64_t number;
};

Result<std::unique_ptr<DiskTier>> OpenIn(const std::string& directory, Clock* clock) {
  DiskOptions options;
  options.directory = directory;
  options.limit_bytes = 3 << 20;
  options.write_delay_ms = 0;
  return OpenDiskTier(options, RealFileSystem(), nullptr, clock);
}

[[noreturn]] void RunChild(const std::string& directory, uint64_t first, int pipe) {
  SystemClock clock;
  auto tier = OpenIn(directory, &clock);
  if (!tier) _exit(1);
  const auto tell = [pipe](Message::Kind kind, uint64_t number) {
    const Message message{kind, number};
    if (write(pipe, &message, sizeof message) != sizeof message) _exit(2);
  };
  for (uint64_t n = first;; ++n) {
    const auto record = std::make_shared<TestRecord>(RecordOf(n));
    RecordPayload payload = record->payload();
    payload.owner = record;
    (*tier)->Put(record->header, std::move(payload), [&tell, n](Status status) {
      if (status) tell(Message::kCommitted, n);
    });
    if (n % 5 == 0) (*tier)->Flush();
    if (n % 11 == 7) {
      tell(Message::kRemoving, n - 6);
      if ((*tier)->Remove(std::vector<Digest>{TestName(n - 6)})) tell(Message::kRemoved, n - 6);
    }
    if (n % 53 == 50) {
      tell(Message::kWiping, n % kSpaces);
      if ((*tier)->Wipe(Space(static_cast<uint8_t>(n % kSpaces)))) tell(Message::kWiped, n % kSpaces);
    }
    if (n % 41 == 40) (void)(*tier)->Compact();
  }
}

class Killed {
 public:
  explicit Killed(std::string directory) : directory_(std::move(directory)) {}

  // Kills the child after it has told `messages` things.
  void Round(uint64_t messages) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      RunChild(directory_, next_, ends[1]);
    }
    close(ends[1]);
    Message message{};
    uint64_t told = 0;
    while (read(ends[0], &message, sizeof message) == sizeof message) {
      Note(message);
      if (++told == messages) kill(child, SIGKILL);
    }
    close(ends[0]);
    int status = 0;
    waitpid(child, &status, 0);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the child ended by itself: " << status;
    Check();
    next_ += 1000;
  }

  uint64_t found = 0;

 private:
  void Note(const Message& message) {
    if (message.kind == Message::kCommitted) {
      committed_.push_back(message.number);
      uncertain_.erase(message.number);
    } else if (message.kind == Message::kRemoving) {
      uncertain_.insert(message.number);
    } else if (message.kind == Message::kRemoved) {
      removed_.insert(message.number);
    } else {
      // Those put while the wipe ran are after it or before it; only what was committed before is certain.
      for (const uint64_t n : committed_) {
        if (n % kSpaces == message.number) (message.kind == Message::kWiped ? wiped_ : uncertain_).insert(n);
      }
    }
  }

  void Check() {
    SystemClock clock;
    auto tier = OpenIn(directory_, &clock);
    ASSERT_TRUE(tier) << tier.error().message;
    const auto report = (*tier)->Verify();
    ASSERT_TRUE(report);
    EXPECT_EQ(report->bad, 0u);
    found += report->records;
    std::set<Digest> here;
    uint64_t cursor = 0;
    do {
      for (const RecordHeader& header : (*tier)->List(cursor, 64, nullptr)) here.insert(header.name);
    } while (cursor != 0);
    EXPECT_EQ(here.size(), report->records);
    for (const uint64_t n : removed_) EXPECT_FALSE(here.contains(TestName(n))) << "removed " << n;
    for (const uint64_t n : wiped_) {
      if (std::find(committed_.rbegin(), committed_.rbegin() + 3, n) == committed_.rbegin() + 3) {
        EXPECT_FALSE(here.contains(TestName(n))) << "wiped " << n;
      }
    }
    const size_t sure = std::min<size_t>(kKeptForSure, committed_.size());
    for (size_t i = committed_.size() - sure; i < committed_.size(); ++i) {
      const uint64_t n = committed_[i];
      if (removed_.contains(n) || wiped_.contains(n) || uncertain_.contains(n)) continue;
      EXPECT_TRUE(here.contains(TestName(n))) << "lost " << n;
    }
    uint64_t bytes = 0;
    for (const auto& entry : std::filesystem::directory_iterator(directory_)) {
      const std::string name = entry.path().filename();
      if (name != "LARDER" && name != "LOCK") bytes += entry.file_size();
    }
    EXPECT_EQ((*tier)->stats().used_bytes, bytes);
    EXPECT_LE(bytes, (*tier)->stats().limit_bytes);
  }

  const std::string directory_;
  uint64_t next_ = 0;
  std::vector<uint64_t> committed_;
  std::set<uint64_t> removed_, wiped_, uncertain_;
};

TEST(DiskKill, AnyMomentIsAGoodOneToDie) {
  TemporaryFolder folder("disk-kill");
  const int rounds = std::getenv("LARDER_SLOW") != nullptr ? 200 : 10;
  Killed killed(folder / "store");
  uint64_t state = 42;
  for (int round = 0; round < rounds && !testing::Test::HasFailure(); ++round) {
    SCOPED_TRACE(testing::Message() << "round " << round);
    state = state * 6364136223846793005u + 1442695040888963407u;
    killed.Round(1 + (state >> 33) % 150);
  }
  EXPECT_GT(killed.found, 100u);
}

}  // namespace
}  // namespace larder
