// One pool for all of the engine's parallel loops. Workers spin shortly at a barrier, then sleep, so that a
// neighbour who needs the core gets it. Each takes the items of its own share one by one and then helps the
// others: a thread that loses its core delays one item, not a share.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>
#include <utility>

namespace larder {

class ThreadPool {
 public:
  // `threads` >= 1 counts the caller of Run, who always takes part.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const;

  // Calls body(item, worker) once for every item in [0, items), worker in [0, threads()); returns when all
  // are done. Not reentrant, one caller at a time. Results must not depend on which worker takes which item.
  template <class Body>
  void Run(int64_t items, Body&& body) {
    using Fn = std::remove_reference_t<Body>;
    RunErased(
        items, [](void* context, int64_t item, int worker) { (*static_cast<Fn*>(context))(item, worker); },
        const_cast<void*>(static_cast<const void*>(&body)));
  }

 private:
  using ErasedBody = void (*)(void* context, int64_t item, int worker);
  void RunErased(int64_t items, ErasedBody body, void* context);

  struct State;
  std::unique_ptr<State> state_;
};

// Cores this process may really use: affinity and cgroup quota, at least 1.
int AvailableCores();

}  // namespace larder
