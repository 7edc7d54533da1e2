// Does a wait last until as many reads are done as are wanted, and no longer than until somebody wakes it?
#include "store/disk/io_queue.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <future>
#include <thread>

#include "store/disk/buffer.h"
#include "store/disk/disk_tier.h"
#include "tests/store/store_fixture.h"

namespace larder {
namespace {

constexpr size_t kDepth = 32;

class WaitingFor : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (GetParam() == std::string_view("threads")) {
      queue_ = MakeThreadQueue(2, kDepth);
    } else if (auto uring = MakeUringQueue(kDepth)) {
      queue_ = *std::move(uring);
    } else {
      GTEST_SKIP() << uring.error().message;
    }
    auto file = RealFileSystem()->Open(folder_.path() + "/file", {.write = true, .create = true});
    ASSERT_TRUE(file) << file.error().message;
    file_ = *std::move(file);
    ASSERT_TRUE(file_->Write(0, bytes_));
  }
  void Start(size_t count) {
    for (size_t i = 0; i < count; ++i) {
      const IoRead read{.file = file_.get(), .offset = i, .to = std::span(to_).subspan(i, 1), .token = i};
      queue_->Start({&read, 1});
    }
  }

  TemporaryFolder folder_{"io-queue"};
  const std::vector<std::byte> bytes_ = std::vector<std::byte>(kDepth, std::byte{7});
  std::vector<std::byte> to_ = std::vector<std::byte>(kDepth);
  std::unique_ptr<File> file_;
  std::unique_ptr<IoQueue> queue_;
};

TEST_P(WaitingFor, AsManyAsAreWanted) {
  for (const size_t count : {size_t{1}, size_t{3}, IoQueue::kMostAtLeast}) {
    Start(count);
    std::vector<IoDone> done;
    const uint64_t calls = queue_->system_calls();
    queue_->Wait(-1, count, done);
    ASSERT_EQ(done.size(), count);
    std::vector<bool> seen(count);
    for (const IoDone& one : done) {
      EXPECT_EQ(one.bytes.value_or(0), 1u);
      seen[one.token] = true;
    }
    EXPECT_EQ(std::ranges::count(seen, true), static_cast<ptrdiff_t>(count));
    if (queue_->name() == "io_uring") {
      EXPECT_EQ(queue_->system_calls(), calls + 1);
    }
  }
}

// Also again and again, and if it was called before anybody waited.
TEST_P(WaitingFor, AWakeUpIsEnough) {
  for (int time = 0; time < 20; ++time) {
    const std::jthread wakes([this, time] {
      if (time % 2 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
      queue_->Wake();
    });
    std::vector<IoDone> done;
    queue_->Wait(-1, IoQueue::kMostAtLeast, done);
    EXPECT_TRUE(done.empty());
  }
}

TEST_P(WaitingFor, ATimeoutGivesWhatThereIs) {
  Start(2);
  std::vector<IoDone> done;
  while (done.size() < 2) queue_->Wait(1'000'000, 3, done);
  EXPECT_EQ(done.size(), 2u);
}

// However many blocks a get has, a system call brings many answers: layer by layer there are few.
TEST(DiskCalls, FewForARestore) {
  constexpr size_t kRecords = 64, kGroups = 3, kBytes = 132 << 10;  // too large to be read two at once
  TemporaryFolder folder("disk-calls");
  SystemClock clock;
  auto opened = OpenDiskTier({.directory = folder.path() + "/store", .limit_bytes = 64 << 20},
                             RealFileSystem(), nullptr, &clock);
  ASSERT_TRUE(opened) << opened.error().message;
  const std::unique_ptr<DiskTier> tier = *std::move(opened);
  std::vector<TestRecord> records;
  std::vector<DirectBuffer> buffers;
  std::vector<RecordRead> reads;
  for (uint64_t n = 0; n < kRecords; ++n) {
    records.push_back(MakeTestRecord(n, std::vector<size_t>(kGroups, kBytes)));
    buffers.emplace_back(kGroups * kBytes);
    reads.push_back({.name = records[n].header.name, .destination = buffers[n].first(kGroups * kBytes)});
  }
  for (const TestRecord& record : records) tier->Put(record.header, record.payload(), nullptr);
  tier->Flush();
  const DiskCounters before = tier->counters();
  std::promise<void> done;
  std::vector<uint32_t> groups;
  GetCallbacks callbacks;
  callbacks.group_done = [&](uint32_t group, std::span<const Status> items) {
    groups.push_back(group);
    for (const Status& item : items) EXPECT_TRUE(item);
  };
  callbacks.done = [&] { done.set_value(); };
  tier->Get(std::move(reads), INT64_MAX, ReadPriority::kRequest, std::move(callbacks));
  done.get_future().wait();
  EXPECT_EQ(groups, (std::vector<uint32_t>{0, 1, 2}));
  const DiskCounters after = tier->counters();
  EXPECT_EQ(after.reads - before.reads, kRecords * (1 + kGroups));
  if (MakeUringQueue(1)) {
    EXPECT_LE(after.read_calls - before.read_calls, kRecords * (1 + kGroups) / 6);
  }
}

INSTANTIATE_TEST_SUITE_P(Queues, WaitingFor, ::testing::Values("io_uring", "threads"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace larder
