// What the operations of a Redis tier share. All of it lives on the tier's thread, except where it says else.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "base/clock.h"
#include "store/record.h"
#include "store/redis/layout.h"
#include "store/redis/redis_tier.h"
#include "store/redis/router.h"

namespace larder {

// A verified head.
struct RedisHead {
  RedisPlace place;
  RecordHead head;
};

class RedisCore {
 public:
  RedisCore(RedisOptions options, RedisUrl url, const Sealer* sealer, Clock& clock,
            std::unique_ptr<boost::asio::ssl::context> tls);

  const RedisOptions options;
  const RedisUrl url;
  const Sealer* const sealer;
  Clock& clock;
  boost::asio::io_context io{1};
  const std::unique_ptr<boost::asio::ssl::context> tls;  // null: plain TCP
  RedisRouter router;

  // From any thread.
  void Count(const std::function<void(TierStats&)>& change);
  TierStats counted() const;

  // The bytes of a head and perhaps of what follows. kNotFound; kCorrupt: no head; kUnsupported: version.
  void ReadRawHead(const Digest& name, RedisLane lane, std::shared_ptr<const bool> abandoned,
                   std::function<void(Result<std::string>)> done);
  // kUnsupported: of another version, keyring or without a seal where one is demanded; left alone. kCorrupt:
  // was counted and the record deleted.
  void ReadHead(const Digest& name, RedisLane lane, std::shared_ptr<const bool> abandoned,
                std::function<void(Result<RedisHead>)> done);

  // Deletes key after key; `done` (may be null) with the first error.
  void Unlink(const std::vector<std::string>& keys, std::function<void(Status)> done);
  std::vector<std::string> KeysOf(const RedisPlace& place) const;
  // All parts, and the name in its parent's list.
  void Delete(const RedisPlace& place, std::function<void(Status)> done);
  // What does not verify goes, so that it can be written anew.
  void DeleteBad(const RedisPlace& place);
  void DeleteBadHead(const Digest& name, std::string_view raw, const Error& error);
  // Lives for another ttl_ms.
  void Prolong(const RedisPlace& place);
  void ForgetChild(const Digest& parent, const Digest& name, std::function<void(Status)> done);

 private:
  void Expect(const Digest& name, Result<std::string> raw,
              const std::function<void(Result<RedisHead>)>& done);

  mutable std::mutex mutex_;
  TierStats counted_;
};

// Several answers awaited: `done` once, with the first error, when the last handle is gone.
class RedisJoin {
 public:
  explicit RedisJoin(std::function<void(Status)> done) : done_(std::move(done)) {}
  ~RedisJoin() {
    if (done_) done_(std::move(status_));
  }
  RedisJoin(const RedisJoin&) = delete;
  RedisJoin& operator=(const RedisJoin&) = delete;
  void Note(const Status& status) {
    if (status_ && !status) status_ = status;
  }

 private:
  Status status_;
  std::function<void(Status)> done_;
};

// Calls `late` once unless it is cancelled before; `deadline_ns` of the clock.
class RedisDeadline {
 public:
  RedisDeadline(RedisCore& core, int64_t deadline_ns, std::function<void()> late);
  void Cancel() { timer_->cancel(); }

 private:
  std::shared_ptr<boost::asio::steady_timer> timer_;
};

template <class... Arguments>
std::shared_ptr<const RespCommand> RedisText(const Arguments&... arguments) {
  return std::make_shared<RespCommand>(RespCommand{std::string_view(arguments)...});
}

inline std::string_view RedisBytes(const Digest& digest) {
  return {reinterpret_cast<const char*>(digest.bytes.data()), digest.bytes.size()};
}

}  // namespace larder
