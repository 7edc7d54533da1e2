// The C functions: arguments are checked and turned, exceptions end here.
#include <algorithm>
#include <future>
#include <memory>
#include <new>

#include "base/log.h"
#include "base/memory.h"
#include "capi/convert.h"
#include "capi/stacked_store.h"
#include "larder/store.h"

struct larder_store {
  std::unique_ptr<larder::StackedStore> tiers;
};

namespace larder {
namespace {

// Runs the body of a call: its error is told, nothing is thrown past it.
template <class Body>
larder_store_status Guard(larder_store_error* error, Body body) noexcept {
  try {
    const Status status = body();
    return status ? LARDER_STORE_OK : Tell(status.error(), error);
  } catch (const std::bad_alloc&) {
    return Tell({ErrorKind::kExhausted, "out of memory"}, error);
  } catch (const std::exception& exception) {
    (void)Tell({ErrorKind::kIo, std::string("unexpected: ") + exception.what()}, error);
  } catch (...) {
    (void)Tell({ErrorKind::kIo, "unexpected"}, error);
  }
  if (error != nullptr) error->status = LARDER_STORE_INTERNAL;
  return LARDER_STORE_INTERNAL;
}

// The same for calls on a store.
template <class Body>
larder_store_status On(larder_store* store, larder_store_error* error, Body body) noexcept {
  return Guard(error, [&]() -> Status {
    LARDER_TRY(CheckPointer(store, "store"));
    return body(*store->tiers);
  });
}

void Visit(const RecordHeader& header, size_t index, larder_store_visit visit, void* user) {
  visit(user, index, RecordView(header).get());
}

// All groups one after another in memory of their own.
Result<RecordPayload> CopyOf(std::span<const std::span<const std::byte>> groups, uint64_t bytes) {
  LARDER_ASSIGN(AlignedBuffer buffer, AlignedBuffer::Allocate(bytes));
  const auto copy = std::make_shared<AlignedBuffer>(std::move(buffer));
  RecordPayload payload{.owner = copy};
  std::byte* to = copy->data();
  for (const auto group : groups) {
    payload.groups.emplace_back(to, group.size());
    to = std::ranges::copy(group, to).out;
  }
  return payload;
}

// A checked get on its way in: what both forms share.
struct Asked {
  std::vector<RecordRead> reads;
  SpaceId space{};
  int64_t deadline_ns = 0;
  ReadPriority priority = ReadPriority::kRequest;
  larder_store_get_options options{};
};

Result<Asked> AskedOf(StackedStore& store, const larder_store_read* items, size_t count,
                      const larder_store_get_options* options) {
  Asked asked;
  if (options != nullptr) {
    LARDER_TRY(CheckStruct(options, "larder_store_get_options"));
    asked.options = *options;
  }
  const int32_t priority = asked.options.priority;
  if (priority != LARDER_STORE_REQUEST && priority != LARDER_STORE_PREFETCH)
    return Fail(ErrorKind::kInvalid, "no such priority: {}", priority);
  if (priority == LARDER_STORE_PREFETCH) asked.priority = ReadPriority::kPrefetch;
  LARDER_ASSIGN(asked.reads, ReadsOf(items, count));
  LARDER_ASSIGN(asked.deadline_ns, DeadlineOf(asked.options.timeout_ms, store.NowNs()));
  LARDER_ASSIGN(asked.space, store.SpaceOf(TextOf(asked.options.tenant)));
  return asked;
}

GetCallbacks CallbacksOf(const larder_store_get_options& options) {
  GetCallbacks callbacks;
  if (options.accept != nullptr) {
    callbacks.accept = [options](size_t item, const RecordHeader& header) -> Status {
      if (options.accept(options.user, item, RecordView(header).get()) != 0) return {};
      return Fail(ErrorKind::kInvalid, "record {} was refused by who asked for it", header.name.ShortHex());
    };
  }
  if (options.group_done != nullptr) {
    callbacks.group_done = [options](uint32_t group, std::span<const Status> items) {
      std::vector<larder_store_status> statuses(items.size());
      std::ranges::transform(items, statuses.begin(), [](const Status& status) { return ToC(status); });
      options.group_done(options.user, group, statuses.data(), statuses.size());
    };
  }
  if (options.done != nullptr) callbacks.done = [options] { options.done(options.user); };
  return callbacks;
}

Status GetAndWait(StackedStore& store, Asked asked, larder_store_status* statuses) {
  if (statuses != nullptr) std::fill_n(statuses, asked.reads.size(), LARDER_STORE_OK);
  GetCallbacks callbacks = CallbacksOf(asked.options);
  const auto ended = std::make_shared<std::promise<void>>();
  callbacks.group_done = [statuses, told = std::move(callbacks.group_done)](uint32_t group,
                                                                            std::span<const Status> items) {
    for (size_t i = 0; statuses != nullptr && i < items.size(); ++i) {
      if (statuses[i] == LARDER_STORE_OK) statuses[i] = ToC(items[i]);
    }
    if (told) told(group, items);
  };
  callbacks.done = [ended, told = std::move(callbacks.done)] {
    if (told) told();
    ended->set_value();
  };
  store.Get(std::move(asked.reads), asked.space, asked.deadline_ns, asked.priority, std::move(callbacks));
  ended->get_future().wait();
  return {};
}

Status PutRecord(StackedStore& store, const larder_store_record* record,
                 const larder_store_put_options* given) {
  larder_store_put_options options{};
  if (given != nullptr) {
    LARDER_TRY(CheckStruct(given, "larder_store_put_options"));
    options = *given;
  }
  LARDER_TRY(CheckStruct(record, "larder_store_record"));
  if (options.keep != 0 && options.done == nullptr)
    return Fail(ErrorKind::kInvalid,
                "a payload that is kept needs `done`, or nobody knows when it is free again");
  LARDER_ASSIGN(RecordHeader header, HeaderOf(*record));
  LARDER_ASSIGN(header.space, store.SpaceOf(TextOf(options.tenant)));
  RecordPayload payload{.groups = GroupsOf(*record)};
  if (options.keep == 0) {
    LARDER_ASSIGN(payload, CopyOf(payload.groups, header.payload_bytes()));
  }
  std::function<void(Status)> done;
  if (options.done != nullptr) {
    done = [options](const Status& status) {
      options.done(options.user, ToC(status), status ? "" : status.error().message.c_str());
    };
  }
  store.Put(header, std::move(payload), std::move(done));
  return {};
}

}  // namespace
}  // namespace larder

using namespace larder;

uint32_t larder_store_version(void) { return LARDER_STORE_VERSION; }

const char* larder_store_status_text(larder_store_status status) {
  switch (status) {
    case LARDER_STORE_OK:
      return "ok";
    case LARDER_STORE_INVALID:
      return "invalid argument";
    case LARDER_STORE_NOT_FOUND:
      return "not found";
    case LARDER_STORE_UNSUPPORTED:
      return "not supported";
    case LARDER_STORE_CORRUPT:
      return "damaged";
    case LARDER_STORE_IO:
      return "input or output failed";
    case LARDER_STORE_EXHAUSTED:
      return "a limit is reached";
    case LARDER_STORE_CANCELLED:
      return "cancelled";
    case LARDER_STORE_UNAVAILABLE:
      return "not available now";
    case LARDER_STORE_SLOW:
      return "too slow";
    case LARDER_STORE_CONFLICT:
      return "conflict";
    case LARDER_STORE_INTERNAL:
      return "internal error";
  }
  return "unknown status";
}

larder_store_status larder_store_open(const larder_store_options* options, larder_store** store,
                                      larder_store_error* error) {
  return Guard(error, [&]() -> Status {
    LARDER_TRY(CheckPointer(static_cast<const void*>(store), "store"));
    LARDER_TRY(CheckStruct(options, "larder_store_options"));
    SetLogLevel(LogLevel::kWarn);  // of this library alone; a guest does not chat
    auto opened = std::make_unique<larder_store>();
    LARDER_ASSIGN(opened->tiers, StackedStore::Open(OptionsOf(*options)));
    *store = opened.release();
    return {};
  });
}

void larder_store_close(larder_store* store) {
  (void)Guard(nullptr, [&]() -> Status {
    delete store;
    return {};
  });
}

larder_store_status larder_store_space(larder_store* store, const char* tenant, uint8_t id[16],
                                       larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckPointer(id, "id"));
    LARDER_ASSIGN(const SpaceId space, tiers.SpaceOf(TextOf(tenant)));
    std::ranges::copy(space, id);
    return {};
  });
}

larder_store_status larder_store_wipe(larder_store* store, const char* tenant, larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) { return tiers.Wipe(TextOf(tenant)); });
}

larder_store_status larder_store_match(larder_store* store, const larder_store_name* chain, size_t count,
                                       int64_t timeout_ms, size_t* leading, uint8_t* tiers,
                                       larder_store_error* error) {
  return On(store, error, [&](StackedStore& stack) -> Status {
    LARDER_TRY(CheckArray(chain, count, "chain"));
    LARDER_TRY(CheckPointer(leading, "leading"));
    LARDER_ASSIGN(const int64_t deadline_ns, DeadlineOf(timeout_ms, stack.NowNs()));
    const auto places = stack.Match(DigestsOf(chain, count), deadline_ns);
    *leading = static_cast<size_t>(std::ranges::find(places, StackedStore::kNowhere) - places.begin());
    if (tiers != nullptr) std::ranges::copy(places, tiers);
    return {};
  });
}

larder_store_status larder_store_describe(larder_store* store, const char* tenant,
                                          const larder_store_name* names, size_t count, int64_t timeout_ms,
                                          larder_store_visit visit, void* user, larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckArray(names, count, "names"));
    LARDER_TRY(CheckPointer(reinterpret_cast<const void*>(visit), "visit"));
    LARDER_ASSIGN(const int64_t deadline_ns, DeadlineOf(timeout_ms, tiers.NowNs()));
    LARDER_ASSIGN(const SpaceId space, tiers.SpaceOf(TextOf(tenant)));
    const auto headers = tiers.Describe(DigestsOf(names, count), space, deadline_ns);
    for (size_t i = 0; i < headers.size(); ++i) {
      if (headers[i]) Visit(*headers[i], i, visit, user);
    }
    return {};
  });
}

larder_store_status larder_store_children(larder_store* store, const char* tenant,
                                          const larder_store_name* parent, size_t limit, int64_t timeout_ms,
                                          larder_store_visit visit, void* user, larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckPointer(parent, "parent"));
    LARDER_TRY(CheckPointer(reinterpret_cast<const void*>(visit), "visit"));
    LARDER_ASSIGN(const int64_t deadline_ns, DeadlineOf(timeout_ms, tiers.NowNs()));
    LARDER_ASSIGN(const SpaceId space, tiers.SpaceOf(TextOf(tenant)));
    const size_t most = std::min<size_t>(limit, LARDER_STORE_MOST_NAMES);
    const auto children = tiers.Children(DigestOf(*parent), most, space, deadline_ns);
    for (size_t i = 0; i < children.size(); ++i) Visit(children[i], i, visit, user);
    return {};
  });
}

larder_store_status larder_store_put(larder_store* store, const larder_store_record* record,
                                     const larder_store_put_options* options, larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) { return PutRecord(tiers, record, options); });
}

larder_store_status larder_store_flush(larder_store* store, larder_store_error* error) {
  return On(store, error, [](StackedStore& tiers) -> Status {
    tiers.Flush();
    return {};
  });
}

larder_store_status larder_store_get(larder_store* store, const larder_store_read* items, size_t count,
                                     const larder_store_get_options* options, larder_store_status* statuses,
                                     larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_ASSIGN(Asked asked, AskedOf(tiers, items, count, options));
    return GetAndWait(tiers, std::move(asked), statuses);
  });
}

larder_store_status larder_store_get_start(larder_store* store, const larder_store_read* items, size_t count,
                                           const larder_store_get_options* options, uint64_t* ticket,
                                           larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_ASSIGN(Asked asked, AskedOf(tiers, items, count, options));
    if (asked.options.done == nullptr)
      return Fail(ErrorKind::kInvalid, "a get that is not waited for needs `done`");
    const uint64_t started = tiers.Get(std::move(asked.reads), asked.space, asked.deadline_ns, asked.priority,
                                       CallbacksOf(asked.options));
    if (ticket != nullptr) *ticket = started;
    return {};
  });
}

larder_store_status larder_store_cancel(larder_store* store, uint64_t ticket, larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    if (!tiers.Cancel(ticket)) return Fail(ErrorKind::kNotFound, "no get {} is on its way", ticket);
    return {};
  });
}

larder_store_status larder_store_touch(larder_store* store, const larder_store_name* names, size_t count,
                                       larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckArray(names, count, "names"));
    tiers.Touch(DigestsOf(names, count));
    return {};
  });
}

larder_store_status larder_store_pin(larder_store* store, const larder_store_name* name, int64_t ttl_ms,
                                     larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckPointer(name, "name"));
    if (ttl_ms < 0) return Fail(ErrorKind::kInvalid, "a pin of {} ms; 0 ends a pin", ttl_ms);
    return tiers.Pin(DigestOf(*name), ttl_ms);
  });
}

larder_store_status larder_store_remove(larder_store* store, const larder_store_name* names, size_t count,
                                        larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckArray(names, count, "names"));
    return tiers.Remove(DigestsOf(names, count));
  });
}

larder_store_status larder_store_stats(larder_store* store, int32_t tier, larder_store_tier_stats* stats,
                                       larder_store_error* error) {
  return On(store, error, [&](StackedStore& tiers) -> Status {
    LARDER_TRY(CheckStruct(stats, "larder_store_tier_stats"));
    const auto place = tier == LARDER_STORE_DISK    ? StackedStore::kDisk
                       : tier == LARDER_STORE_REDIS ? StackedStore::kRedis
                                                    : StackedStore::kNowhere;
    LARDER_ASSIGN(const TierStats counted, tiers.Stats(place));
    *stats = StatsOf(counted);
    return {};
  });
}
