#include "engine/engine.h"

#include <atomic>
#include <condition_variable>
#include <future>
#include <mutex>
#include <thread>
#include <utility>

#include "engine/core.h"

namespace larder {

struct Engine::Impl {
  std::unique_ptr<Model> model;
  EngineOptions options;
  std::unique_ptr<EngineCore> core;  // touched by the thread only, once it runs

  mutable std::mutex mutex;
  std::condition_variable wake, idle;
  std::vector<std::function<void()>> inbox;  // guarded by mutex; run between two steps
  bool stopping = false, draining = false;   // guarded by mutex
  int64_t unfinished = 0;                    // guarded by mutex: submitted and not yet ended
  EngineStats stats;                         // guarded by mutex: as of the last step
  RequestId next_id = 1;                     // guarded by mutex
  std::jthread thread;

  void Loop();
  void Post(std::function<void()> work);
  template <class T>
  T Ask(std::function<T()> question, T otherwise);
};

void Engine::Impl::Loop() {
  bool busy = false;
  // Both keep their memory, so that a step takes none.
  std::vector<std::function<void()>> work;
  EngineStats now;
  for (;;) {
    bool ending;
    {
      std::unique_lock lock(mutex);
      if (!busy) wake.wait(lock, [&] { return stopping || !inbox.empty(); });
      ending = stopping;
      work.swap(inbox);
    }
    for (auto& item : work) item();
    work.clear();
    // What was submitted is known to the core now; its destructor tells the sinks.
    if (ending) return;
    busy = core->Step();
    core->ReadStats(now);
    std::lock_guard lock(mutex);
    std::swap(stats, now);
    unfinished = core->unfinished() + static_cast<int64_t>(inbox.size());
    if (unfinished == 0) idle.notify_all();
  }
}

void Engine::Impl::Post(std::function<void()> work) {
  {
    std::lock_guard lock(mutex);
    inbox.push_back(std::move(work));
  }
  wake.notify_one();
}

// Answers `otherwise` when the engine stops before the question's turn.
template <class T>
T Engine::Impl::Ask(std::function<T()> question, T otherwise) {
  auto promise = std::make_shared<std::promise<T>>();
  std::future<T> answer = promise->get_future();
  Post([promise, question = std::move(question)] { promise->set_value(question()); });
  for (;;) {
    if (answer.wait_for(std::chrono::milliseconds(50)) == std::future_status::ready) return answer.get();
    std::lock_guard lock(mutex);
    if (stopping) return otherwise;
  }
}

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Engine>> Engine::Create(std::unique_ptr<Model> model, EngineOptions options,
                                               Clock* clock) {
  auto impl = std::make_unique<Impl>();
  impl->model = std::move(model);
  impl->options = options;
  LARDER_ASSIGN(impl->core, EngineCore::Create(impl->model.get(), options, clock));
  impl->stats = impl->core->Stats();
  Impl* raw = impl.get();
  impl->thread = std::jthread([raw] { raw->Loop(); });
  return std::unique_ptr<Engine>(new Engine(std::move(impl)));
}

Engine::~Engine() {
  {
    std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->wake.notify_one();
  impl_->thread.join();
}

const Model& Engine::model() const { return *impl_->model; }
int64_t Engine::context() const { return impl_->core->context(); }

Result<Engine::RequestId> Engine::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  LARDER_TRY(impl_->core->Validate(request));
  RequestId id;
  {
    std::lock_guard lock(impl_->mutex);
    if (impl_->draining || impl_->stopping) {
      return Fail(ErrorKind::kUnavailable, "the server is shutting down; try another one");
    }
    if (impl_->unfinished >= impl_->options.max_waiting + impl_->options.max_running) {
      return Fail(ErrorKind::kUnavailable, "{} requests are waiting already; try again later",
                  impl_->options.max_waiting);
    }
    id = impl_->next_id++;
    ++impl_->unfinished;
    impl_->inbox.push_back(
        [core = impl_->core.get(), id, request = std::move(request), sink = std::move(sink)]() mutable {
          core->Add(id, std::move(request), std::move(sink));
        });
  }
  impl_->wake.notify_one();
  return id;
}

void Engine::Cancel(RequestId id) {
  impl_->Post([core = impl_->core.get(), id] { core->Cancel(id); });
}

bool Engine::Drain(int64_t timeout_ms) {
  std::unique_lock lock(impl_->mutex);
  impl_->draining = true;
  return impl_->idle.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                              [&] { return impl_->unfinished == 0; });
}

EngineStats Engine::Stats() const {
  std::lock_guard lock(impl_->mutex);
  return impl_->stats;
}

std::vector<KvBlockInfo> Engine::Blocks(const std::string& tenant, size_t limit) {
  return impl_->Ask<std::vector<KvBlockInfo>>(
      [core = impl_->core.get(), tenant, limit] { return core->cache().List(tenant, limit); }, {});
}

uint64_t Engine::ClearCache(const std::string& tenant) {
  return impl_->Ask<uint64_t>([core = impl_->core.get(), tenant] { return core->cache().Clear(tenant); }, 0);
}

Status Engine::CheckCacheInvariants() {
  return impl_->Ask<Status>([core = impl_->core.get()] { return core->cache().CheckInvariants(); }, {});
}

std::vector<SchedulerDecision> Engine::Decisions(size_t limit) {
  return impl_->Ask<std::vector<SchedulerDecision>>(
      [core = impl_->core.get(), limit] { return core->scheduler().Decisions(limit); }, {});
}

}  // namespace larder
