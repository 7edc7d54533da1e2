// A disk that is full, read only, damaged, slow, or keeps a file that should go, and a clock that jumps,
// under an engine: the right answer, counted, in the log, and within the limit.
#include <condition_variable>
#include <mutex>

#include "tests/engine/tiers_fixture.h"
#include "tests/store/disk/sim_files.h"
#include "tests/testing/log_capture.h"

namespace larder::testing {
namespace {

constexpr int64_t kLength = 200;

class JumpingClock final : public Clock {
 public:
  int64_t NowNs() override { return system_.NowNs() + offset_ns_; }
  int64_t WallMs() override { return system_.WallMs() + offset_ns_ / 1'000'000; }
  void Jump(int64_t seconds) { offset_ns_ += seconds * 1'000'000'000; }

 private:
  SystemClock system_;
  std::atomic<int64_t> offset_ns_ = 0;
};

// Reads wait before it until it opens; it opens when it ends.
class Gate {
 public:
  ~Gate() { Open(); }
  void Open() {
    {
      const std::lock_guard lock(mutex_);
      open_ = true;
    }
    opened_.notify_all();
  }
  void Wait() {
    std::unique_lock lock(mutex_);
    opened_.wait(lock, [this] { return open_; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;  // guarded by mutex_
};

bool OfRecords(const std::string& path) { return path.find("/seg-") != std::string::npos; }

class DiskFaults : public EngineTiersBase {
 protected:
  void SetUp() override {
    Load("tiny-llama-q8_0.gguf", KvType::kI16);
    options_.directory = "/store";
    options_.limit_bytes = 1 << 20;
    options_.write_delay_ms = 1;
  }
  void OpenSimDisk() {
    disk_ = nullptr;
    auto opened = OpenDiskTier(options_, &files_, nullptr, &jumping_);
    ASSERT_TRUE(opened) << opened.error().message;
    disk_ = *std::move(opened);
  }
  std::unique_ptr<EngineCore> StartOnDisk(bool always_restore = true) {
    return StartWith({disk_.get()}, {.always_restore = always_restore}, &jumping_);
  }
  void Store(const std::vector<int32_t>& prompt) {
    const auto core = StartOnDisk();
    Ask(*core, prompt);
    core->cache().FlushTiers();
  }
  // The right answer, within the limit; rows that came from the disk.
  int64_t AskRight(EngineCore& core, const std::vector<int32_t>& prompt) {
    const auto answer = Ask(core, prompt);
    ExpectSame(*answer, *AskCold(prompt));
    core.cache().FlushTiers();
    EXPECT_LE(disk_->stats().used_bytes, options_.limit_bytes);
    EXPECT_LE(files_.BytesOf("seg-") + files_.BytesOf("catalog-") + files_.BytesOf("removed-"),
              options_.limit_bytes);
    return RowsFrom("disk", *answer);
  }

  const std::vector<int32_t> a_ = Prompt(81, kLength), b_ = Prompt(82, kLength), c_ = Prompt(83, kLength);
  SimFiles files_;
  JumpingClock jumping_;
  DiskOptions options_;
  LogCapture log_;
  std::unique_ptr<DiskTier> disk_;
};

TEST_F(DiskFaults, Full) {
  OpenSimDisk();
  Store(a_);
  files_.SetCapacity(files_.BytesOf("") + 10'000);
  {
    const auto core = StartOnDisk();
    for (uint32_t i = 0; i < 6; ++i) AskRight(*core, Prompt(90 + i, kLength));
    core->cache().Clear("");
    for (const auto& prompt : {a_, Prompt(90, kLength)}) AskRight(*core, prompt);
  }
  EXPECT_GT(disk_->stats().dropped_writes, 0u);
  EXPECT_TRUE(log_.Has("writes are dropped"));
  files_.SetCapacity(UINT64_MAX);
  Store(b_);
  EXPECT_EQ(AskRight(*StartOnDisk(), b_), kLength - 1) << "there is room again";
}

TEST_F(DiskFaults, ReadOnly) {
  OpenSimDisk();
  Store(a_);
  disk_ = nullptr;
  files_.SetHook([](SimOp op, const std::string&) {
    return op == SimOp::kRead ? Status() : Fail(ErrorKind::kIo, "the simulated disk is read only");
  });
  OpenSimDisk();
  EXPECT_TRUE(log_.Has("is read only for now"));
  {
    const auto core = StartOnDisk();
    EXPECT_EQ(AskRight(*core, a_), kLength - 1);
    EXPECT_EQ(AskRight(*core, b_), 0);
  }
  EXPECT_GT(disk_->stats().dropped_writes, 0u);
  EXPECT_FALSE(disk_->stats().healthy);
  EXPECT_TRUE(log_.Has("writes are dropped"));
  files_.SetHook(nullptr);
  Store(b_);
  EXPECT_TRUE(disk_->stats().healthy);
  EXPECT_EQ(AskRight(*StartOnDisk(), b_), kLength - 1);
}

TEST_F(DiskFaults, AFileThatCannotBeRemoved) {
  OpenSimDisk();
  files_.SetHook([](SimOp op, const std::string& path) {
    if (op == SimOp::kRemove && path == "/store/seg-1") return Status(Fail(ErrorKind::kIo, "seg-1 stays"));
    return Status();
  });
  const auto core = StartOnDisk();
  for (uint32_t i = 0; i < 16; ++i) AskRight(*core, Prompt(100 + i, kLength));
  EXPECT_EQ(disk_->counters().stuck_segments, 1u);
  EXPECT_GT(disk_->stats().evicted_records, 0u);
  EXPECT_TRUE(log_.Has("seg-1 stays; it goes on counting and is tried again"));
  core->cache().Clear("");
  EXPECT_EQ(AskRight(*core, Prompt(115, kLength)), kLength - 1) << "the last one is there";
  EXPECT_EQ(AskRight(*core, Prompt(100, kLength)), 0) << "the first one had to go";
}

TEST_F(DiskFaults, DamagedRecords) {
  OpenSimDisk();
  Store(a_);
  disk_ = nullptr;
  for (const std::string& path : files_.Names("seg-")) {
    auto& data = files_.Data(path);
    for (size_t at = 5000; at < data.size(); at += 9000) data[at] ^= std::byte{1};
  }
  OpenSimDisk();
  AskRight(*StartOnDisk(), a_);
  EXPECT_GT(disk_->stats().bad_records, 0u);
  EXPECT_TRUE(log_.Has("is given up"));
  EXPECT_EQ(AskRight(*StartOnDisk(), a_), kLength - 1) << "what was computed is written again";
}

TEST_F(DiskFaults, ReadsThatFail) {
  OpenSimDisk();
  Store(a_);
  files_.SetHook([](SimOp op, const std::string& path) {
    return op == SimOp::kRead && OfRecords(path) ? Fail(ErrorKind::kIo, "a bad sector") : Status();
  });
  EXPECT_EQ(AskRight(*StartOnDisk(), a_), 0);
  EXPECT_GT(disk_->stats().failures, 0u);
  EXPECT_TRUE(log_.Has("a bad sector"));
  files_.SetHook(nullptr);
  EXPECT_EQ(AskRight(*StartOnDisk(), a_), kLength - 1);
}

TEST_F(DiskFaults, AClockThatJumps) {
  constexpr int64_t kDay = 86'400;
  for (const int64_t jump : {kDay, -2 * kDay}) {
    OpenSimDisk();
    Store(a_);
    const auto core = StartOnDisk();
    std::atomic<bool> jumped = false;
    files_.SetHook([&](SimOp op, const std::string& path) {
      if (op == SimOp::kRead && OfRecords(path) && !jumped.exchange(true)) jumping_.Jump(jump);
      return Status();
    });
    AskRight(*core, a_);
    EXPECT_TRUE(jumped);
    files_.SetHook(nullptr);
    AskRight(*core, b_);
    core->cache().Clear("");
    for (const auto& prompt : {a_, b_}) EXPECT_EQ(AskRight(*core, prompt), kLength - 1);
  }
  EXPECT_TRUE(log_.Has("not read in time")) << "after the jump into the future";
}

// Reads that hang: the prompt is computed after about the time that this takes, while they go on hanging, and
// so is everything else; their memory comes back when they end.
TEST_F(DiskFaults, Slow) {
  OpenSimDisk();
  Store(a_);
  {
    const auto core = StartOnDisk(false);
    Gate gate;
    files_.SetHook([&gate](SimOp op, const std::string& path) {
      if (op == SimOp::kRead && OfRecords(path)) gate.Wait();
      return Status();
    });
    EXPECT_EQ(AskRight(*core, a_), 0);
    EXPECT_GT(disk_->stats().slow_reads, 0u);
    EXPECT_TRUE(log_.Has("not read in time"));
    EXPECT_EQ(AskRight(*core, c_), 0) << "others are answered, too";
    core->cache().Clear("");
    const uint64_t waiting = core->cache().used_bytes();
    files_.SetHook(nullptr);
    gate.Open();
    for (int i = 0; i < 5000 && core->cache().used_bytes() == waiting; ++i) {
      core->Step();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_LT(core->cache().used_bytes(), waiting) << "the destinations of its reads";
    EXPECT_EQ(core->Stats().kv.held_blocks, 0u);
    ExpectSound(*core);
  }
  EXPECT_EQ(AskRight(*StartOnDisk(), a_), kLength - 1);
}

}  // namespace
}  // namespace larder::testing
