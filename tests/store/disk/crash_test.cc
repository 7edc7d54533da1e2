// A machine that goes down at every single write, sync and change of a name of a script: nothing wrong or
// partial is ever served, nothing committed is lost, nothing removed or wiped comes back, no space leaks.
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

constexpr uint64_t kRecords = 60;

TestRecord RecordOf(uint64_t number) {
  return MakeTestRecord(number, {9000 + number * 97 % 5000, 4096, 20000 + number * 331 % 9000},
                        Space(static_cast<uint8_t>(number % 3)), ParentName(number % 5));
}

// One step of the script, and what it makes go away for good.
struct Action {
  enum Kind { kPut, kRemove, kWipe, kTouch, kCompact, kReopen } kind;
  uint64_t first = 0, last = 0;  // numbers of records, or a space
};

std::vector<Action> Script() {
  std::vector<Action> script;
  for (uint64_t n = 0; n < 36; n += 3) script.push_back({Action::kPut, n, n + 2});
  script.push_back({Action::kRemove, 30, 32});
  script.push_back({Action::kTouch, 3, 8});
  script.push_back({Action::kPut, 36, 40});
  script.push_back({Action::kWipe, 1, 1});
  script.push_back({Action::kReopen});
  script.push_back({Action::kPut, 41, 47});
  script.push_back({Action::kRemove, 35, 36});
  script.push_back({Action::kCompact});
  script.push_back({Action::kPut, 48, 56});
  script.push_back({Action::kPut, 31, 31});  // removed before, and wanted again
  script.push_back({Action::kPut, 57, kRecords - 1});
  return script;
}

class CrashScript {
 public:
  explicit CrashScript(uint64_t limit) : disk(limit) { EXPECT_TRUE(disk.Open()); }

  // Whether it went through; false once the machine is down.
  bool Run(const Action& action) {
    switch (action.kind) {
      case Action::kPut:
        for (uint64_t n = action.first; n <= action.last; ++n) {
          const auto record = std::make_shared<TestRecord>(RecordOf(n));
          RecordPayload payload = record->payload();
          payload.owner = record;
          put_.insert(n);
          gone_for_good.erase(n);
          disk.tier->Put(record->header, std::move(payload), nullptr);
        }
        disk.tier->Flush();
        break;
      case Action::kRemove: {
        std::vector<Digest> names;
        for (uint64_t n = action.first; n <= action.last; ++n) names.push_back(TestName(n));
        if (disk.tier->Remove(names)) {
          for (uint64_t n = action.first; n <= action.last; ++n) gone_for_good.insert(n);
        }
        break;
      }
      case Action::kWipe:
        if (disk.tier->Wipe(Space(static_cast<uint8_t>(action.first)))) {
          for (const uint64_t n : put_) {
            if (n % 3 == action.first) gone_for_good.insert(n);
          }
        }
        break;
      case Action::kTouch: {
        std::vector<Digest> names;
        for (uint64_t n = action.first; n <= action.last; ++n) names.push_back(TestName(n));
        disk.tier->Touch(names);
        break;
      }
      case Action::kCompact:
        (void)disk.tier->Compact();
        break;
      case Action::kReopen:
        if (!disk.Open()) return false;
        break;
    }
    if (!disk.files.crashed()) disk.StepAll();
    return !disk.files.crashed();
  }

  std::set<uint64_t> Here() {
    std::vector<Digest> names;
    for (uint64_t n = 0; n < kRecords; ++n) names.push_back(TestName(n));
    const std::vector<bool> found = disk.HasAll(names);
    std::set<uint64_t> here;
    for (uint64_t n = 0; n < kRecords; ++n) {
      if (found[n]) here.insert(n);
    }
    return here;
  }

  SimDisk disk;
  std::set<uint64_t> gone_for_good;

 private:
  std::set<uint64_t> put_;
};

struct Expected {
  std::vector<std::set<uint64_t>> here;  // after each step
  std::vector<uint64_t> changes;         // of the disk, after each step
  uint64_t before = 0;                   // the script
};

Expected RunWhole(uint64_t limit) {
  CrashScript run(limit);
  Expected expected;
  expected.before = run.disk.files.changes();
  for (const Action& action : Script()) {
    EXPECT_TRUE(run.Run(action));
    expected.here.push_back(run.Here());
    expected.changes.push_back(run.disk.files.changes());
  }
  EXPECT_GT(run.disk.tier->stats().evicted_records, 0u);
  EXPECT_EQ(run.disk.files.unaligned(), 0u);
  return expected;
}

// What was there both before and after the step in which it happened.
std::set<uint64_t> Kept(const Expected& expected, size_t step) {
  std::set<uint64_t> kept;
  if (step == 0) return kept;
  for (const uint64_t n : expected.here[step - 1]) {
    if (expected.here[step].contains(n)) kept.insert(n);
  }
  return kept;
}

enum class Loss { kNone, kCatalog, kRemovals };

void CheckAfterCrash(CrashScript& run, const std::set<uint64_t>& kept, Loss loss) {
  ASSERT_TRUE(run.disk.Open());
  run.disk.ExpectUsedIsThere();
  const std::set<uint64_t> here = run.Here();
  for (const uint64_t n : run.gone_for_good) EXPECT_FALSE(here.contains(n)) << "record " << n << " came back";
  uint64_t intact = 0;
  for (uint64_t n = 0; n < kRecords; ++n) {
    const bool whole = run.disk.Intact(RecordOf(n));
    intact += whole;
    if (loss == Loss::kNone) {
      EXPECT_EQ(whole, here.contains(n)) << "record " << n << " is not whole";
    }
    if (kept.contains(n)) {
      EXPECT_TRUE(whole) << "record " << n << " is lost";
    }
  }
  const auto report = run.disk.tier->Verify();
  ASSERT_TRUE(report);
  EXPECT_EQ(report->bad, 0u);
  EXPECT_EQ(report->records, intact);
  // It goes on working.
  const TestRecord more = MakeTestRecord(5000, {30000});
  const Status put = run.disk.Put(more);
  EXPECT_TRUE(put) << put.error().message;
  EXPECT_TRUE(run.disk.Intact(more));
  run.disk.ExpectUsedIsThere();
}

constexpr uint64_t kLimit = 1200 << 10;

void CrashAt(const Expected& expected, uint64_t change, uint64_t seed, Loss loss) {
  CrashScript run(kLimit);
  run.disk.files.CrashAfter(change);
  size_t step = 0;
  const std::vector<Action> script = Script();
  while (step < script.size() && run.Run(script[step])) ++step;
  if (step == script.size()) --step;  // in what came after
  run.disk.tier.reset();
  run.disk.files.Restart(seed);
  if (loss == Loss::kCatalog) {
    for (const std::string& path : run.disk.files.Names("catalog-"))
      run.disk.files.Data(path).assign(64, std::byte{});
  } else if (loss == Loss::kRemovals) {
    for (const std::string& path : run.disk.files.Names("removed-")) (void)run.disk.files.Remove(path);
  }
  CheckAfterCrash(run, Kept(expected, step), loss);
}

class Crash : public testing::TestWithParam<Loss> {};

TEST_P(Crash, AtEveryChangeOfTheDisk) {
  const Expected expected = RunWhole(kLimit);
  const uint64_t changes = expected.changes.back() - expected.before;
  ASSERT_GT(changes, 150u);
  // With a second fault every third, from another one each: the first fault alone is tried everywhere.
  const bool second = GetParam() != Loss::kNone;
  for (uint64_t change = second ? static_cast<uint64_t>(GetParam()) : 0; change < changes;
       change += second ? 3 : 1) {
    SCOPED_TRACE(testing::Message() << "down at change " << change);
    CrashAt(expected, change, change * 7 + 3, GetParam());
    if (HasFailure()) return;
  }
}

INSTANTIATE_TEST_SUITE_P(Losing, Crash, testing::Values(Loss::kNone, Loss::kCatalog, Loss::kRemovals),
                         [](const auto& info) {
                           return info.param == Loss::kNone      ? "Nothing"
                                  : info.param == Loss::kCatalog ? "TheCatalog"
                                                                 : "TheRemovals";
                         });

// The machine goes down again while it recovers.
TEST(CrashDuringRecovery, LosesNothing) {
  const Expected expected = RunWhole(kLimit);
  const std::vector<Action> script = Script();
  for (uint64_t change = 0; change < 24; ++change) {
    SCOPED_TRACE(testing::Message() << "down at change " << change << " of the recovery");
    CrashScript run(kLimit);
    for (const Action& action : script) ASSERT_TRUE(run.Run(action));
    run.disk.files.CrashAfter(0);
    run.disk.tier.reset();
    run.disk.files.Restart(change);
    run.disk.files.CrashAfter(change);
    (void)run.disk.Open();
    run.disk.tier.reset();
    run.disk.files.Restart(change + 100);
    CheckAfterCrash(run, expected.here.back(), Loss::kNone);
    if (HasFailure()) return;
  }
}

}  // namespace
}  // namespace larder
