#include "engine/engine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "base/log.h"
#include "engine/core.h"
#include "engine/lease_file.h"

namespace larder {
namespace {

constexpr size_t kSavedLeases = 4096;
constexpr int64_t kSaveIntervalNs = 1'000'000'000;

}  // namespace

struct Engine::Impl {
  std::unique_ptr<Model> model;
  EngineOptions options;
  std::unique_ptr<EngineCore> core;  // touched by the thread only, once it runs

  mutable std::mutex mutex;
  std::condition_variable wake, idle;
  std::vector<std::function<void()>> inbox;  // guarded by mutex; run between two steps
  bool stopping = false, draining = false;   // guarded by mutex
  bool poked = false;                        // guarded by mutex: a tier has answered
  int64_t unfinished = 0;                    // guarded by mutex: submitted and not yet ended
  EngineStats stats;                         // guarded by mutex: as of the last step or end of a request
  RequestId next_id = 1;                     // guarded by mutex
  // Of the thread.
  Clock* clock;
  EngineStats now;                        // keeps its memory, so that a step takes none
  std::unique_ptr<LeaseFile> lease_file;  // null: leases end with the process
  uint64_t saved_leases = 0;              // KvLeases::version
  int64_t saved_ns = 0;
  uint64_t told_events = 0;

  std::mutex listener_mutex;
  std::function<void()> listener;  // guarded by listener_mutex

  std::jthread thread;

  std::optional<SpaceId> SpaceOf(const std::string& tenant);
  void Loop();
  void WaitForWork(std::unique_lock<std::mutex>& lock);
  void PublishStats();
  void SaveLeases(bool busy);
  void TellOfEvents(uint64_t written);
  void Post(std::function<void()> work);
  template <class T>
  T Ask(std::function<T()> question, T otherwise);
  template <class T>
  T AskOf(const std::string& tenant, std::function<T(EngineCore&)> question, T otherwise);
};

// A tenant whose space cannot be had is served from memory.
std::optional<SpaceId> Engine::Impl::SpaceOf(const std::string& tenant) {
  if (options.keyring == nullptr || options.tiers.empty()) return std::nullopt;
  const auto space = options.keyring->SpaceOf(tenant);
  if (space) return *space;
  LogWarn("tenant '{}' is kept in memory only: {}", tenant, space.error().message);
  return std::nullopt;
}

void Engine::Impl::WaitForWork(std::unique_lock<std::mutex>& lock) {
  const auto any = [this] { return stopping || poked || !inbox.empty(); };
  const int64_t wake_ns = core->wake_ns();
  if (wake_ns == INT64_MAX) return wake.wait(lock, any);
  const int64_t left_ns = std::max<int64_t>(wake_ns - clock->NowNs(), 0);
  wake.wait_for(lock, std::chrono::nanoseconds(left_ns), any);
}

void Engine::Impl::Loop() {
  bool busy = false;
  std::vector<std::function<void()>> work;  // keeps its memory, as `now`
  for (;;) {
    bool ending;
    {
      std::unique_lock lock(mutex);
      if (!busy) WaitForWork(lock);
      poked = false;
      ending = stopping;
      work.swap(inbox);
    }
    for (auto& item : work) item();
    work.clear();
    // What was submitted is known to the core now; its destructor tells the sinks.
    if (ending) return SaveLeases(false);
    busy = core->Step();
    SaveLeases(busy);
    PublishStats();
    std::lock_guard lock(mutex);
    unfinished = core->unfinished() + static_cast<int64_t>(inbox.size());
    if (unfinished == 0) idle.notify_all();
  }
}

// Also before a request is told that it has ended: who then asks finds it counted.
void Engine::Impl::PublishStats() {
  core->ReadStats(now);
  TellOfEvents(now.events);
  std::lock_guard lock(mutex);
  std::swap(stats, now);
}

void Engine::Impl::TellOfEvents(uint64_t written) {
  if (written == told_events) return;
  told_events = written;
  std::lock_guard lock(listener_mutex);
  if (listener) listener();
}

// While there is work, once a second; before there is none, whatever has changed.
void Engine::Impl::SaveLeases(bool busy) {
  const KvLeases& leases = core->cache().leases();
  if (lease_file == nullptr || leases.version() == saved_leases) return;
  const int64_t now_ns = clock->NowNs();
  if (busy && now_ns - saved_ns < kSaveIntervalNs) return;
  lease_file->Save(leases.Save(kSavedLeases));
  saved_leases = leases.version();
  saved_ns = now_ns;
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

// What belongs to a tenant is asked of its space as it is now: another server may have wiped it.
template <class T>
T Engine::Impl::AskOf(const std::string& tenant, std::function<T(EngineCore&)> question, T otherwise) {
  return Ask<T>(
      [raw = core.get(), tenant, space = SpaceOf(tenant), question = std::move(question)] {
        if (space) raw->SetSpace(tenant, *space);
        return question(*raw);
      },
      std::move(otherwise));
}

namespace {

// Rows of the leading blocks of these that a tier has; 0 if it does not say in time.
int64_t FullRows(Tier& tier, const std::vector<Digest>& names, Clock* clock) {
  constexpr int64_t kLongestNs = 500'000'000;
  const auto answer = std::make_shared<std::promise<Result<std::vector<bool>>>>();
  auto here = answer->get_future();
  tier.Find(names, clock->NowNs() + kLongestNs,
            [answer](Result<std::vector<bool>> found) { answer->set_value(std::move(found)); });
  if (here.wait_for(std::chrono::nanoseconds(2 * kLongestNs)) != std::future_status::ready) return 0;
  const auto found = here.get();
  if (!found) return 0;
  return (std::find(found->begin(), found->end(), false) - found->begin()) * kPageTokens;
}

}  // namespace

Engine::Engine(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Result<std::unique_ptr<Engine>> Engine::Create(std::unique_ptr<Model> model, const EngineOptions& options,
                                               Clock* clock) {
  auto impl = std::make_unique<Impl>();
  impl->model = std::move(model);
  impl->options = options;
  const auto on_tiers = [raw = impl.get()] {
    {
      std::lock_guard lock(raw->mutex);
      raw->poked = true;
    }
    raw->wake.notify_one();
  };
  LARDER_ASSIGN(impl->core, EngineCore::Create(impl->model.get(), options, clock, on_tiers));
  impl->clock = clock;
  if (!options.lease_file.empty()) {
    impl->lease_file = std::make_unique<LeaseFile>(options.lease_file, clock);
    impl->core->cache().leases().Remember(impl->lease_file->Load());
  }
  if (options.keyring != nullptr && !options.tiers.empty()) {
    for (const auto& [tenant, space] : options.keyring->Spaces()) impl->core->SetSpace(tenant, space);
  }
  impl->stats = impl->core->Stats();
  Impl* raw = impl.get();
  impl->core->BeforeEnd([raw] { raw->PublishStats(); });
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
  impl_->core.reset();  // its tiers may still call on_tiers
}

const Model& Engine::model() const { return *impl_->model; }
int64_t Engine::context() const { return impl_->core->context(); }

Result<Engine::RequestId> Engine::Submit(Request request, std::shared_ptr<RequestSink> sink) {
  LARDER_TRY(impl_->core->Validate(request));
  request.space = impl_->SpaceOf(request.tenant);
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
  EngineStats stats;
  {
    std::lock_guard lock(impl_->mutex);
    stats = impl_->stats;
  }
  for (const Tier* tier : impl_->options.tiers) stats.tiers.emplace_back(tier->name(), tier->stats());
  if (impl_->options.keyring != nullptr && !stats.tiers.empty())
    stats.keyring = impl_->options.keyring->stats();
  return stats;
}

Status Engine::Wipe(const std::string& tenant) {
  Keyring* keyring = impl_->options.keyring;
  Result<SpaceId> space = Fail(ErrorKind::kNotFound, "no tiers");
  if (keyring != nullptr && !impl_->options.tiers.empty()) {
    space = keyring->Forget(tenant);
    if (!space && space.error().kind != ErrorKind::kNotFound) return std::unexpected(space.error());
  }
  impl_->Ask<bool>(
      [core = impl_->core.get(), tenant] {
        core->Forget(tenant);
        return true;
      },
      false);
  if (!space) return {};
  for (Tier* tier : impl_->options.tiers) LARDER_TRY(tier->Wipe(*space));
  return {};
}

std::vector<KvBlockInfo> Engine::Blocks(const std::string& tenant, size_t limit) {
  return impl_->Ask<std::vector<KvBlockInfo>>(
      [core = impl_->core.get(), tenant, limit] { return core->cache().List(tenant, limit); }, {});
}

uint64_t Engine::ClearCache(const std::string& tenant) {
  return impl_->Ask<uint64_t>(
      [core = impl_->core.get(), tenant] {
        core->derived().Clear(tenant);
        return core->cache().Clear(tenant);
      },
      0);
}

std::optional<ChunkInfo> Engine::FindChunk(Request request) {
  const std::string tenant = request.tenant;
  return impl_->AskOf<std::optional<ChunkInfo>>(
      tenant, [request = std::move(request)](EngineCore& core) { return core.FindChunk(request); },
      std::nullopt);
}

ChunkPage Engine::Chunks(const std::string& tenant, const std::optional<Digest>& after, size_t limit) {
  return impl_->AskOf<ChunkPage>(
      tenant, [tenant, after, limit](EngineCore& core) { return core.ListChunks(tenant, after, limit); }, {});
}

// Memory last: where a tier fails, who tries again still finds it.
Status Engine::RemoveChunk(const std::string& tenant, const Digest& name) {
  using Record = Result<std::optional<Digest>>;
  const Record record = impl_->AskOf<Record>(
      tenant, [tenant, name](EngineCore& core) { return core.ChunkRecord(tenant, name); },
      Fail(ErrorKind::kUnavailable, "the server is shutting down"));
  if (!record) return std::unexpected(record.error());
  if (*record) {
    for (Tier* tier : impl_->options.tiers) LARDER_TRY(tier->Remove({&**record, 1}));
  }
  impl_->Ask<bool>([core = impl_->core.get(), tenant, name] { return core->chunks().Remove(tenant, name); },
                   false);
  return {};
}

std::vector<EvictStateListing> Engine::States(const std::string& tenant, const std::optional<Digest>& after,
                                              size_t limit) {
  return impl_->AskOf<std::vector<EvictStateListing>>(
      tenant, [tenant, after, limit](EngineCore& core) { return core.states().List(tenant, after, limit); },
      {});
}

HintAnswer Engine::Apply(Hint hint) {
  if (hint.action == HintAction::kPrefetch) hint.space = impl_->SpaceOf(hint.tenant);
  return impl_->Ask<HintAnswer>(
      [core = impl_->core.get(), hint = std::move(hint)] { return core->Apply(hint); },
      {HintStatus::kRejected, 0, "the server is shutting down"});
}

bool Engine::Fetching(uint64_t ticket) {
  return impl_->Ask<bool>([core = impl_->core.get(), ticket] { return core->Fetching(ticket); }, false);
}

std::vector<std::pair<std::string, int64_t>> Engine::Lookup(const std::string& tenant,
                                                            std::vector<int32_t> tokens) {
  struct Known {
    int64_t rows = 0;
    std::vector<Digest> names;
  };
  const std::optional<SpaceId> space = impl_->SpaceOf(tenant);
  const Known known = impl_->Ask<Known>(
      [core = impl_->core.get(), tenant, space, tokens = std::move(tokens)] {
        if (space) core->SetSpace(tenant, *space);
        return Known{core->cache().Probe(tenant, tokens), core->cache().Names(tenant, tokens)};
      },
      {});
  std::vector<std::pair<std::string, int64_t>> found = {{"memory", known.rows}};
  for (Tier* tier : impl_->options.tiers) {
    found.emplace_back(tier->name(), space ? FullRows(*tier, known.names, impl_->clock) : 0);
  }
  return found;
}

std::vector<KvLeaseInfo> Engine::Leases(const std::string& tenant, size_t limit) {
  return impl_->Ask<std::vector<KvLeaseInfo>>(
      [core = impl_->core.get(), tenant, limit] { return core->cache().leases().List(tenant, limit); }, {});
}

int64_t Engine::CachedRows(const std::string& tenant) {
  return impl_->Ask<int64_t>([core = impl_->core.get(), tenant] { return core->cache().CachedRows(tenant); },
                             0);
}

EventPage Engine::Events(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit) {
  EventPage page;
  KvCache& cache = impl_->core->cache();
  const std::vector<Tier*>& tiers = impl_->options.tiers;
  if (ReadEvents(cache.events(), tenant, all, cursor, limit, page)) return page;
  if (InListing(cache.events(), tiers, cursor)) {
    auto owners = impl_->Ask<std::map<SpaceId, std::string>>([&cache] { return cache.Spaces(); }, {});
    if (!all) std::erase_if(owners, [&](const auto& owner) { return owner.second != tenant; });
    return ReadListed(cache, tiers, owners, cursor, limit);
  }
  page.next = cursor;
  return impl_->Ask<EventPage>([&cache, &tiers, tenant, all, cursor,
                                limit] { return ReadSnapshot(cache, tiers, tenant, all, cursor, limit); },
                               page);
}

bool Engine::EventsNow(const std::string& tenant, bool all, const EventCursor& cursor, size_t limit,
                       EventPage& page) {
  return ReadEvents(impl_->core->cache().events(), tenant, all, cursor, limit, page);
}

void Engine::OnEvents(std::function<void()> listener) {
  std::lock_guard lock(impl_->listener_mutex);
  impl_->listener = std::move(listener);
}

Status Engine::CheckCacheInvariants() {
  return impl_->Ask<Status>([core = impl_->core.get()] { return core->cache().CheckInvariants(); }, {});
}

std::vector<SchedulerDecision> Engine::Decisions(size_t limit) {
  return impl_->Ask<std::vector<SchedulerDecision>>(
      [core = impl_->core.get(), limit] { return core->scheduler().Decisions(limit); }, {});
}

}  // namespace larder
