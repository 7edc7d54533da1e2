#include "compute/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace larder {
namespace {

TEST(ThreadPool, EveryItemRunsExactlyOnceForAnyNumberOfThreads) {
  for (int threads = 1; threads <= 6; ++threads) {
    ThreadPool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (int64_t items : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<size_t>(items));
      std::atomic<int> bad_workers{0};
      pool.Run(items, [&](int64_t item, int worker) {
        runs[static_cast<size_t>(item)].fetch_add(1);
        if (worker < 0 || worker >= threads) bad_workers.fetch_add(1);
      });
      for (auto& run : runs) ASSERT_EQ(run.load(), 1);
      EXPECT_EQ(bad_workers.load(), 0);
    }
  }
}

// Plain (not atomic) writes of all workers are visible after Run, over many short jobs with sleeps between
// some of them.
TEST(ThreadPool, ResultsAreVisibleAfterRunOverManyShortJobs) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(37);
  for (int job = 1; job <= 5000; ++job) {
    pool.Run(static_cast<int64_t>(sums.size()),
             [&](int64_t item, int) { sums[static_cast<size_t>(item)] += job; });
    if (job % 1000 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  for (int64_t sum : sums) ASSERT_EQ(sum, 5000LL * 5001 / 2);
}

TEST(ThreadPool, NoTwoItemsShareAWorkerAtTheSameTime) {
  ThreadPool pool(3);
  std::vector<std::atomic<int>> busy(3);
  std::atomic<int> clashes{0};
  for (int job = 0; job < 200; ++job) {
    pool.Run(50, [&](int64_t, int worker) {
      if (busy[static_cast<size_t>(worker)].fetch_add(1) != 0) clashes.fetch_add(1);
      busy[static_cast<size_t>(worker)].fetch_sub(1);
    });
  }
  EXPECT_EQ(clashes.load(), 0);
}

TEST(ThreadPool, SeveralPoolsWorkSideBySide) {
  std::vector<std::thread> owners;
  std::atomic<int64_t> total{0};
  for (int i = 0; i < 3; ++i) {
    owners.emplace_back([&] {
      for (int round = 0; round < 20; ++round) {
        ThreadPool pool(3);
        pool.Run(100, [&](int64_t item, int) { total.fetch_add(item); });
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
  EXPECT_EQ(total.load(), 3 * 20 * 4950);
}

TEST(ThreadPool, AvailableCoresIsAtLeastOneAndNoMoreThanTheMachineHas) {
  EXPECT_GE(AvailableCores(), 1);
  EXPECT_LE(AvailableCores(), static_cast<int>(std::thread::hardware_concurrency()));
}

}  // namespace
}  // namespace larder
