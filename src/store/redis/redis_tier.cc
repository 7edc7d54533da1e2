#include "store/redis/redis_tier.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <future>
#include <map>
#include <thread>
#include <unordered_map>
#include <utility>

#include "store/redis/admin.h"
#include "store/redis/core.h"
#include "store/redis/get.h"
#include "store/redis/look_up.h"
#include "store/redis/memory.h"
#include "store/redis/put.h"

namespace larder {
namespace {

namespace asio = boost::asio;

constexpr size_t kMaxTouchesRemembered = 1 << 16;

class RedisTier final : public Tier {
 public:
  RedisTier(RedisOptions options, RedisUrl url, const Sealer* sealer, Clock& clock,
            std::unique_ptr<asio::ssl::context> tls)
      : core_(std::move(options), std::move(url), sealer, clock, std::move(tls)),
        writer_(core_),
        memory_(std::make_unique<RedisMemory>(core_)),
        work_(core_.io.get_executor()),
        thread_([this] { core_.io.run(); }) {
    asio::post(core_.io, [this] { core_.router.Start(); });
  }
  ~RedisTier() override {
    Flush();
    asio::post(core_.io, [this] {
      for (const auto& [ticket, weak] : std::map(gets_)) {
        if (const auto get = weak.lock()) get->End({ErrorKind::kCancelled, "the Redis tier ends"});
      }
      core_.router.Close();
      work_.reset();
    });
    thread_.join();
  }
  RedisTier(const RedisTier&) = delete;
  RedisTier& operator=(const RedisTier&) = delete;

  std::string_view name() const override { return "redis"; }

  void Find(std::vector<Digest> names, int64_t deadline_ns, FindDone done) override {
    asio::post(core_.io, [this, names = std::move(names), deadline_ns, done = std::move(done)]() mutable {
      std::make_shared<RedisFind>(core_, std::move(names), std::move(done))->Start(deadline_ns);
    });
  }
  void Children(const Digest& parent, size_t limit, int64_t deadline_ns, ChildrenDone done) override {
    asio::post(core_.io, [this, parent, limit, deadline_ns, done = std::move(done)]() mutable {
      std::make_shared<RedisChildren>(core_, parent, limit, std::move(done))->Start(deadline_ns);
    });
  }

  uint64_t Get(std::vector<RecordRead> items, int64_t deadline_ns, ReadPriority priority,
               GetCallbacks callbacks) override {
    const uint64_t ticket = ++tickets_;
    const RedisLane lane = priority == ReadPriority::kRequest ? RedisLane::kRequest : RedisLane::kPrefetch;
    asio::post(core_.io, [this, ticket, lane, deadline_ns, items = std::move(items),
                          callbacks = std::move(callbacks)]() mutable {
      const auto get = std::make_shared<RedisGet>(core_, items, lane, std::move(callbacks),
                                                  [this, ticket] { gets_.erase(ticket); });
      gets_.emplace(ticket, get);
      get->Start(deadline_ns);
    });
    return ticket;
  }
  void Cancel(uint64_t ticket) override {
    asio::post(core_.io, [this, ticket] {
      const auto it = gets_.find(ticket);
      const auto get = it == gets_.end() ? nullptr : it->second.lock();
      if (get) get->End({ErrorKind::kCancelled, "the read was cancelled"});
    });
  }

  void Put(RecordHeader header, RecordPayload payload, std::function<void(Status)> done) override {
    const uint64_t bytes = header.payload_bytes();
    bool room = false;
    core_.Count([&](TierStats& stats) {
      room = bytes <= core_.options.max_pending_bytes &&
             stats.pending_bytes <= core_.options.max_pending_bytes - bytes;
      if (room) {
        stats.pending_bytes += bytes;
      } else {
        ++stats.dropped_writes;
      }
    });
    asio::post(core_.io, [this, room, header = std::move(header), payload = std::move(payload),
                          done = std::move(done)]() mutable {
      if (room) return writer_.Submit(std::move(header), std::move(payload), std::move(done));
      if (done) done(Fail(ErrorKind::kExhausted, "too many bytes wait to be written to Redis"));
    });
  }

  void DropPending() override {
    asio::post(core_.io, [this] { writer_.GiveUpAll(); });
  }
  void Touch(std::span<const Digest> names) override {
    asio::post(core_.io, [this, names = std::vector(names.begin(), names.end())] {
      for (const Digest& name : names) TouchOne(name);
    });
  }
  Status Pin(const Digest& name, int64_t ttl_ms) override {
    return Fail(ErrorKind::kUnsupported, "Redis evicts by its own policy; pin in another tier");
  }

  Status Remove(std::span<const Digest> names) override {
    return Wait([this,
                 list = std::vector(names.begin(), names.end())](const std::function<void(Status)>& done) {
      const auto deadline = std::make_shared<RedisDeadline>(
          core_, core_.clock.NowNs() + core_.options.admin_timeout_ms * 1'000'000,
          [done] { done(Fail(ErrorKind::kSlow, "Redis did not remove the records in time; try again")); });
      const auto matches = [list](const RecordHeader& header) {
        return std::ranges::find(list, header.name) != list.end();
      };
      writer_.Drop(matches, [this, list, done, deadline] {
        RedisRemove(core_, list, [done, deadline](Status status) {
          deadline->Cancel();
          done(std::move(status));
        });
      });
    });
  }
  Status Wipe(const SpaceId& space) override {
    return Wait([this, space](const std::function<void(Status)>& done) {
      const auto wipe = std::make_shared<RedisWipe>(core_, space, done);
      writer_.Drop([space](const RecordHeader& header) { return header.space == space; },
                   [wipe] { wipe->Start(); });
    });
  }
  std::vector<RecordHeader> List(uint64_t& cursor, size_t limit, const SpaceId* space) override {
    std::promise<RedisList::Page> promise;
    asio::post(core_.io, [&, from = cursor] {
      std::make_shared<RedisList>(core_, from, limit, [&](RedisList::Page page) {
        promise.set_value(std::move(page));
      })->Start();
    });
    RedisList::Page page = promise.get_future().get();
    cursor = page.cursor;
    if (space != nullptr)
      std::erase_if(page.records, [&](const RecordHeader& header) { return header.space != *space; });
    return std::move(page.records);
  }
  void Flush() override {
    std::promise<void> promise;
    asio::post(core_.io, [&] { writer_.WhenDone([&] { promise.set_value(); }); });
    promise.get_future().wait();
  }

  TierStats stats() const override {
    memory_->Refresh();
    TierStats out = core_.counted();
    out.failures = core_.router.failures();
    out.healthy = core_.router.healthy();
    return out;
  }

 private:
  // Starts something on the tier's thread and waits for its first answer; later ones find nobody.
  Status Wait(std::function<void(const std::function<void(Status)>&)> start) {
    struct Waiting {
      std::promise<Status> promise;
      bool answered = false;
    };
    const auto waiting = std::make_shared<Waiting>();
    asio::post(core_.io, [waiting, start = std::move(start)] {
      start([waiting](Status status) {
        if (!std::exchange(waiting->answered, true)) waiting->promise.set_value(std::move(status));
      });
    });
    return waiting->promise.get_future().get();
  }

  void TouchOne(const Digest& name) {
    // A sixteenth of the life is early enough; an hour when lives do not end.
    const int64_t pause_ms = core_.options.ttl_ms > 0 ? core_.options.ttl_ms / 16 : 3'600'000;
    const int64_t now = core_.clock.NowNs();
    if (touched_.size() >= kMaxTouchesRemembered) touched_.clear();
    const auto [it, fresh] = touched_.try_emplace(name, now);
    if (!fresh && now - it->second < pause_ms * 1'000'000) return;
    it->second = now;
    core_.ReadHead(name, RedisLane::kWrite, nullptr, [this](const Result<RedisHead>& head) {
      if (head) core_.Prolong(head->place);
    });
  }

  RedisCore core_;
  RedisWriter writer_;
  const std::unique_ptr<RedisMemory> memory_;
  std::map<uint64_t, std::weak_ptr<RedisGet>> gets_;  // on the tier's thread
  std::unordered_map<Digest, int64_t, DigestHash> touched_;
  std::atomic<uint64_t> tickets_ = 0;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;  // last: it uses everything above
};

}  // namespace

Result<std::unique_ptr<Tier>> OpenRedisTier(const RedisOptions& options, const Sealer* sealer, Clock* clock) {
  LARDER_ASSIGN(RedisUrl url, ParseRedisUrl(options.url));
  LARDER_ASSIGN(auto tls, MakeRedisTls(url, options.ca_file));
  return std::make_unique<RedisTier>(options, std::move(url), sealer, *clock, std::move(tls));
}

}  // namespace larder
