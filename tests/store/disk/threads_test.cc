// The tier as it runs: its own threads, the operating system's files, every way of reading.
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>

#include "tests/store/disk/disk_fixture.h"

namespace larder {
namespace {

// Waits for an answer from another thread.
template <class T>
class Answer {
 public:
  void Set(T value) {
    std::lock_guard lock(mutex_);
    value_ = std::move(value);
    ready_ = true;
    changed_.notify_all();
  }
  T Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return ready_; });
    return std::move(value_);
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ready_ = false;
  T value_{};
};

TestRecord RecordOf(uint64_t n) {
  return MakeTestRecord(n, {8192, 3000 + n % 5 * 1000, 40'960, 4096}, Space(static_cast<uint8_t>(n % 4)),
                        ParentName(n % 7));
}

// The outcome of each record; bytes that are wrong although their groups are ok fail the test.
std::vector<bool> GetAll(Tier& tier, const std::vector<uint64_t>& numbers, ReadPriority priority,
                         bool aligned) {
  std::vector<TestRecord> records;
  std::vector<DirectBuffer> buffers;
  std::vector<RecordRead> reads;
  for (const uint64_t n : numbers) {
    records.push_back(RecordOf(n));
    const uint64_t bytes = records.back().header.payload_bytes();
    buffers.emplace_back(bytes + kDirectAlign);
    reads.push_back({records.back().header.name, 0, kMaxRecordGroups,
                     buffers.back().first(bytes + 8).subspan(aligned ? 0 : 8, bytes)});
  }
  std::vector<bool> good(numbers.size(), true);
  size_t groups = 0;
  Answer<bool> done;
  GetCallbacks callbacks;
  callbacks.accept = [&](size_t item, const RecordHeader& header) {
    return header.group_bytes == records[item].header.group_bytes ? Status()
                                                                  : Fail(ErrorKind::kInvalid, "another size");
  };
  callbacks.group_done = [&](uint32_t group, std::span<const Status> items) {
    EXPECT_EQ(group, groups++);
    for (size_t i = 0; i < items.size(); ++i) {
      if (!items[i]) good[i] = false;
    }
  };
  callbacks.done = [&] { done.Set(true); };
  tier.Get(reads, kNoDeadline, priority, std::move(callbacks));
  done.Wait();
  for (size_t i = 0; i < numbers.size(); ++i) {
    if (!good[i] || groups < 4) {
      good[i] = false;
      continue;
    }
    const std::vector<std::byte> bytes(reads[i].destination.begin(), reads[i].destination.end());
    EXPECT_EQ(bytes == SimDisk::Flat(records[i]), true) << "record " << numbers[i];
  }
  return good;
}

void PutOne(Tier& tier, uint64_t n) {
  const auto record = std::make_shared<TestRecord>(RecordOf(n));
  RecordPayload payload = record->payload();
  payload.owner = record;
  tier.Put(record->header, std::move(payload), nullptr);
}

// Eight threads that put, remove, wipe, pin, get and look at the same records; how many were found. `sound`:
// no operation of the disk fails.
uint64_t Churn(DiskTier& tier, uint64_t limit_bytes, bool sound) {
  constexpr uint64_t kNames = 400, kWriters = 3;
  // Something to find also where the writers are slow to begin.
  for (uint64_t n = 0; n < 40; ++n) PutOne(tier, n);
  tier.Flush();
  std::atomic<uint64_t> hits = 0;
  const auto reader = [&](uint64_t seed) {
    uint64_t state = seed;
    for (int round = 0; round < 60; ++round) {
      std::vector<uint64_t> numbers;
      for (int i = 0; i < 6; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        numbers.push_back((state >> 33) % kNames);
      }
      const auto priority = round % 3 == 0 ? ReadPriority::kPrefetch : ReadPriority::kRequest;
      for (const bool hit : GetAll(tier, numbers, priority, round % 2 == 0)) hits += hit;
    }
  };
  const auto writer = [&](uint64_t first) {
    for (uint64_t n = first; n < kNames; n += kWriters) {
      PutOne(tier, n);
      if (n % 50 == 0) tier.Flush();
      if (n % 31 == 0) {
        EXPECT_TRUE(tier.Remove(std::vector<Digest>{TestName(n / 2)}) || !sound);
      }
      if (n % 97 == 0) {
        EXPECT_TRUE(tier.Wipe(Space(3)) || !sound);
      }
      tier.Touch(std::vector<Digest>{TestName(n / 3)});
      (void)tier.Pin(TestName(n / 4), 5);
      EXPECT_LE(tier.stats().used_bytes, limit_bytes);
    }
  };
  const auto looker = [&](uint64_t parent) {
    for (int round = 0; round < 40; ++round) {
      Answer<bool> found;
      tier.Find({TestName(1), TestName(2)}, kNoDeadline,
                [&](Result<std::vector<bool>> here) { found.Set(here.has_value()); });
      EXPECT_TRUE(found.Wait());
      Answer<bool> children;
      tier.Children(ParentName((parent + static_cast<uint64_t>(round)) % 7), 8, kNoDeadline,
                    [&](Result<std::vector<RecordHeader>> all) { children.Set(all.has_value()); });
      EXPECT_TRUE(children.Wait());
      uint64_t cursor = 0;
      (void)tier.List(cursor, 10, nullptr);
    }
  };
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < kWriters; ++i) threads.emplace_back(writer, i);
  for (const uint64_t seed : {11u, 22u, 33u}) threads.emplace_back(reader, seed);
  for (const uint64_t parent : {0u, 3u}) threads.emplace_back(looker, parent);
  for (std::thread& thread : threads) thread.join();
  tier.Flush();
  return hits;
}

// When everything is removed, nobody holds a record, a pin or a segment any more.
void ExpectNothingKept(DiskTier& tier) {
  for (uint8_t space = 0; space < 4; ++space) EXPECT_TRUE(tier.Wipe(Space(space)));
  // A reader lets go shortly after it has answered.
  for (int i = 0; i < 1000; ++i) {
    ASSERT_TRUE(tier.Compact());
    if (tier.counters().segments == 0) break;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  const DiskCounters counters = tier.counters();
  EXPECT_EQ(counters.segments, 0u);
  EXPECT_EQ(counters.live_bytes, 0u);
  EXPECT_EQ(counters.pinned_bytes, 0u);
  EXPECT_EQ(tier.stats().records, 0u);
  EXPECT_EQ(tier.stats().pending_bytes, 0u);
}

class DiskThreads : public testing::TestWithParam<DiskIo> {
 protected:
  DiskThreads() : folder_("disk-threads") {
    options_.directory = folder_ / "store";
    options_.limit_bytes = 8 << 20;
    options_.write_delay_ms = 1;
    options_.io = GetParam();
  }
  bool Open() {
    tier_.reset();
    auto opened = OpenDiskTier(options_, RealFileSystem(), nullptr, &clock_);
    if (!opened && opened.error().kind == ErrorKind::kUnsupported) return false;
    EXPECT_TRUE(opened) << opened.error().message;
    if (opened) tier_ = *std::move(opened);
    return tier_ != nullptr;
  }

  TemporaryFolder folder_;
  SystemClock clock_;
  DiskOptions options_;
  std::unique_ptr<DiskTier> tier_;
};

TEST_P(DiskThreads, RoundTripAndReopen) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  std::vector<uint64_t> numbers;
  for (uint64_t n = 0; n < 40; ++n) {
    PutOne(*tier_, n);
    numbers.push_back(n);
  }
  tier_->Flush();
  for (int time = 0; time < 2; ++time) {
    EXPECT_EQ(GetAll(*tier_, numbers, ReadPriority::kRequest, true), std::vector<bool>(40, true));
    EXPECT_EQ(GetAll(*tier_, numbers, ReadPriority::kPrefetch, false), std::vector<bool>(40, true));
    ASSERT_TRUE(Open());
  }
  auto second = OpenDiskTier(options_, RealFileSystem(), nullptr, &clock_);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::kConflict);
  EXPECT_NE(second.error().message.find(std::to_string(getpid())), std::string::npos);
}

// A lone write does not wait for company longer than it may: its delay is a fraction of the five seconds
// after which the thread looks up by itself.
TEST_P(DiskThreads, ALoneWriteIsNotForgotten) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  std::promise<Status> written;
  const TestRecord record = MakeTestRecord(1, {8192});
  tier_->Put(record.header, record.payload(), [&](Status status) { written.set_value(status); });
  auto outcome = written.get_future();
  ASSERT_EQ(outcome.wait_for(std::chrono::seconds(4)), std::future_status::ready);
  EXPECT_TRUE(outcome.get());
}

// Reads are handed over in batches: all heads, then all groups, however many records and groups there are.
TEST_P(DiskThreads, FewBatches) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  for (uint64_t n = 0; n < 6; ++n) PutOne(*tier_, n);
  tier_->Flush();
  GetAll(*tier_, {0, 1, 2, 3, 4, 5}, ReadPriority::kRequest, true);
  EXPECT_LE(tier_->counters().read_batches, 9u) << "half of what one by one would take, at most";
  // Six heads; of each record two runs of groups, since the second group ends within a page.
  EXPECT_EQ(tier_->counters().reads, 18u);
  // Each call brings an answer, or it was the one that GetAll woke.
  EXPECT_LE(tier_->counters().read_calls, 18u + 1u);
}

// A request that has nothing to read is over at once; a prefetch beside it must not go on waiting for it.
TEST_P(DiskThreads, APrefetchIsNotForgottenBesideARequestForNothing) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  PutOne(*tier_, 1);
  tier_->Flush();
  for (int time = 0; time < 300; ++time) {
    std::promise<std::vector<bool>> fetched;
    auto outcome = fetched.get_future();
    std::thread request([&] { GetAll(*tier_, {500}, ReadPriority::kRequest, true); });
    std::thread prefetch([&] { fetched.set_value(GetAll(*tier_, {1}, ReadPriority::kPrefetch, true)); });
    request.join();
    // Any further call would wake the reading thread.
    if (outcome.wait_for(std::chrono::seconds(5)) != std::future_status::ready) {
      ADD_FAILURE() << "forgotten at time " << time;
      GetAll(*tier_, {501}, ReadPriority::kPrefetch, true);
    }
    prefetch.join();
    ASSERT_EQ(outcome.get(), std::vector<bool>{true});
  }
}

TEST_P(DiskThreads, ReadersWritersEvictionAndRemovalTogether) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  EXPECT_GT(Churn(*tier_, options_.limit_bytes, true), 0u);
  EXPECT_GT(tier_->stats().evicted_records, 0u);
  EXPECT_EQ(tier_->stats().bad_records, 0u);
  ASSERT_TRUE(tier_->Compact());
  const auto report = tier_->Verify();
  ASSERT_TRUE(report);
  EXPECT_EQ(report->bad, 0u);
  EXPECT_GT(report->records, 0u);
  ASSERT_TRUE(Open());
  EXPECT_EQ(tier_->stats().records, report->records);
  ExpectNothingKept(*tier_);
}

// A tier that goes while reads and writes are on their way answers all of them.
TEST_P(DiskThreads, ClosingAnswersEverything) {
  if (!Open()) GTEST_SKIP() << "no io_uring here";
  for (uint64_t n = 0; n < 30; ++n) PutOne(*tier_, n);
  tier_->Flush();
  std::atomic<int> done = 0, written = 0;
  const TestRecord like = RecordOf(0);
  std::vector<std::byte> to(30 * (like.header.payload_bytes() + 8192));
  for (uint64_t n = 0; n < 30; ++n) {
    const uint64_t bytes = RecordOf(n).header.payload_bytes();
    GetCallbacks callbacks;
    callbacks.done = [&] { ++done; };
    tier_->Get({{TestName(n), 0, kMaxRecordGroups,
                 std::span(to).subspan(n * (like.header.payload_bytes() + 8192), bytes)}},
               kNoDeadline, ReadPriority::kRequest, std::move(callbacks));
    const auto record = std::make_shared<TestRecord>(RecordOf(1000 + n));
    tier_->Put(record->header, {record->payload().groups, record},
               [&](Status status) { written += status.has_value(); });
  }
  tier_.reset();
  EXPECT_EQ(done, 30);
  EXPECT_EQ(written, 30);
}

INSTANTIATE_TEST_SUITE_P(Io, DiskThreads, testing::Values(DiskIo::kAuto, DiskIo::kUring, DiskIo::kThreads),
                         [](const auto& info) {
                           return info.param == DiskIo::kAuto    ? "Auto"
                                  : info.param == DiskIo::kUring ? "Uring"
                                                                 : "Threads";
                         });

// One operation in 25 fails, whichever it is. What is not told to have failed is right, and nothing is lost
// to failures for good.
TEST(DiskThreadsFaults, ReadersWritersEvictionAndRemovalOnAFailingDisk) {
  for (const uint64_t seed : {1u, 2u, 3u}) {
    SCOPED_TRACE(seed);
    SimFiles files;
    SystemClock clock;
    DiskOptions options;
    options.directory = "/store";
    options.limit_bytes = 8 << 20;
    options.write_delay_ms = 1;
    auto tier = OpenDiskTier(options, &files, nullptr, &clock).value();
    std::atomic<uint64_t> operations = seed * 1000, failures = 0;
    files.SetHook([&](SimOp, const std::string&) {
      if ((++operations * 0x9e3779b97f4a7c15u >> 40) % 25 != 0) return Status();
      ++failures;
      return Status(Fail(ErrorKind::kIo, "it failed by chance"));
    });
    EXPECT_GT(Churn(*tier, options.limit_bytes, false), 0u);
    files.SetHook(nullptr);
    EXPECT_GT(failures, 0u);
    EXPECT_GT(tier->stats().failures, 0u);
    EXPECT_GT(tier->stats().dropped_writes, 0u);
    // A move that broke off may have left no room to clean; new records make some.
    Status compacted = tier->Compact();
    for (uint64_t n = 1000; !compacted && n < 1200; ++n) {
      PutOne(*tier, n);
      tier->Flush();
      compacted = tier->Compact();
    }
    ASSERT_TRUE(compacted) << compacted.error().message;
    const auto report = tier->Verify();
    ASSERT_TRUE(report);
    EXPECT_EQ(report->bad, 0u);
    tier = nullptr;
    tier = OpenDiskTier(options, &files, nullptr, &clock).value();
    EXPECT_EQ(tier->stats().records, report->records);
    PutOne(*tier, 1);
    tier->Flush();
    EXPECT_TRUE(GetAll(*tier, {1}, ReadPriority::kRequest, true)[0]);
    ExpectNothingKept(*tier);
    EXPECT_TRUE(files.Names("seg-").empty());
  }
}

// A disk with one record, whose reads hang when the test says so.
class DiskThreadsHeld : public ::testing::Test {
 protected:
  void Open(bool writes_yield = true) {
    DiskOptions options;
    options.directory = "/store";
    options.limit_bytes = 8 << 20;
    options.write_delay_ms = 0;
    options.writes_yield = writes_yield;
    tier_ = OpenDiskTier(options, &files_, nullptr, &clock_).value();
    PutOne(*tier_, 1);
    tier_->Flush();
  }
  void HoldReads() {
    files_.SetHook([this](SimOp op, const std::string& path) {
      if (op == SimOp::kRead && path.find("seg-") != std::string::npos) {
        reading_.Set(true);
        (void)release_.Wait();
      }
      return Status();
    });
  }
  void LetReadsGo() {
    files_.SetHook(nullptr);
    release_.Set(true);
  }
  // Asks for the record and comes back when its read hangs.
  std::jthread ReadTheRecord() {
    HoldReads();
    std::jthread get([this] { EXPECT_TRUE(GetAll(*tier_, {1}, ReadPriority::kRequest, true)[0]); });
    reading_.Wait();
    return get;
  }

  SimFiles files_;
  SystemClock clock_;
  Answer<bool> release_, reading_;
  std::unique_ptr<DiskTier> tier_;
};

// Writes wait for the reads of requests, though not for ever.
TEST_F(DiskThreadsHeld, WritesLetReadsPass) {
  Open();
  EXPECT_EQ(tier_->counters().held_writes, 0u);
  {
    const std::jthread get = ReadTheRecord();
    PutOne(*tier_, 2);
    tier_->Flush();
    EXPECT_GT(tier_->counters().held_writes, 0u);
    LetReadsGo();
  }
  EXPECT_TRUE(GetAll(*tier_, {2}, ReadPriority::kRequest, true)[0]);
}

// A write that hangs keeps nobody from hearing that what waits behind it is given up.
TEST_F(DiskThreadsHeld, WhatWaitsBehindAWriteThatHangsIsGivenUp) {
  Open();
  files_.SetHook([this](SimOp op, const std::string& path) {
    if (op == SimOp::kWrite && path.find("seg-") != std::string::npos) {
      reading_.Set(true);
      (void)release_.Wait();
    }
    return Status();
  });
  const TestRecord records[] = {MakeTestRecord(2, {50'000}), MakeTestRecord(3, {50'000})};
  Answer<Status> first, second;
  tier_->Put(records[0].header, records[0].payload(), [&](Status status) { first.Set(std::move(status)); });
  (void)reading_.Wait();  // here it is a write that hangs
  tier_->Put(records[1].header, records[1].payload(), [&](Status status) { second.Set(std::move(status)); });
  tier_->DropPending();
  const Status given_up = second.Wait();
  EXPECT_TRUE(!given_up && given_up.error().kind == ErrorKind::kExhausted);
  LetReadsGo();
  EXPECT_TRUE(first.Wait()) << "what had begun is finished";
}

TEST_F(DiskThreadsHeld, WritesThatDoNotYieldGoOn) {
  Open(false);
  const std::jthread get = ReadTheRecord();
  PutOne(*tier_, 2);
  tier_->Flush();
  EXPECT_EQ(tier_->counters().held_writes, 0u);
  EXPECT_EQ(tier_->stats().records, 2u);
  LetReadsGo();
}

// Who asks a disk whose reads hang hears by the deadline that it is slow.
TEST_F(DiskThreadsHeld, AQuestionIsAnsweredByItsDeadline) {
  Open();
  HoldReads();
  Answer<ErrorKind> slow;
  tier_->Children(ParentName(1), 8, clock_.NowNs() + 20'000'000, [&](Result<std::vector<RecordHeader>> all) {
    slow.Set(all ? ErrorKind::kInvalid : all.error().kind);
  });
  EXPECT_EQ(slow.Wait(), ErrorKind::kSlow);
  LetReadsGo();
}

// What is evicted while it is read stays readable, and its segment goes when the reader does.
TEST_F(DiskThreadsHeld, ASegmentGoesWithItsLastReader) {
  Open();
  {
    const std::jthread get = ReadTheRecord();
    EXPECT_TRUE(tier_->Remove(std::vector<Digest>{TestName(1)}));
    EXPECT_TRUE(tier_->Compact());
    EXPECT_EQ(files_.Names("seg-").size(), 1u);
    EXPECT_GT(tier_->stats().used_bytes, 50'000u);
    LetReadsGo();
  }
  // The reader lets go shortly after it has answered.
  for (int i = 0; i < 1000 && !files_.Names("seg-").empty(); ++i) {
    ASSERT_TRUE(tier_->Compact());
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_TRUE(files_.Names("seg-").empty());
}

}  // namespace
}  // namespace larder
