// Larder's store alone: named, checked bytes on disk and in Redis, for engines that have a cache of their
// own.
//
// A record is a name (32 bytes, mostly a hash of all that decided the payload), the name of its parent,
// opaque metadata, and a payload of 1 to 64 groups, for example runs of layers. What comes back was verified:
// by a checksum, or with a store key by an authenticated cipher. A record that is damaged, lost or slow is a
// miss.
//
// Version 0: functions and structs may still change between releases. docs/store-api.md has examples.
//
// Ownership: what is passed in stays the caller's and is read during the call only, but for destinations of a
// get (until its `done`), payloads that are kept (until their `done`), and what `user` points to. What a
// callback is passed is valid during the callback.
//
// Threads: all functions may be called from any thread, at once; only larder_store_close must be the last
// call on its store. Callbacks come from threads of the store where nothing else is said; those of one get
// come one at a time. They must be quick and must not call into the store.
//
// Errors: every call that can fail returns a status and, if `error` is not NULL, says in a sentence what was
// wrong and what would be right. Nothing is remembered between calls. Always LARDER_STORE_INVALID: NULL where
// it is not allowed, a count past LARDER_STORE_MOST_NAMES, a negative time, a struct that is too small. A
// struct larger than the library knows is LARDER_STORE_UNSUPPORTED.
//
// Structs that begin with `size`: set it to sizeof the struct, and the rest to 0 where there is nothing to
// say. Texts: UTF-8, NULL and "" are the same. Times: milliseconds; a timeout of 0 leaves those of the tiers,
// so that every call ends.
#ifndef LARDER_STORE_H_
#define LARDER_STORE_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LARDER_STORE_API __attribute__((visibility("default")))

#define LARDER_STORE_VERSION 0
#define LARDER_STORE_MOST_GROUPS 64
#define LARDER_STORE_MOST_METADATA 65536  // bytes, of a record
#define LARDER_STORE_MOST_NAMES 1048576   // in one call

typedef struct larder_store larder_store;

typedef struct larder_store_name {
  uint8_t bytes[32];
} larder_store_name;

typedef enum larder_store_status {
  LARDER_STORE_OK = 0,
  LARDER_STORE_INVALID = 1,      // the call is wrong
  LARDER_STORE_NOT_FOUND = 2,    // not here, or another tenant's
  LARDER_STORE_UNSUPPORTED = 3,  // another version; sealed, and no store key is given, or the reverse
  LARDER_STORE_CORRUPT = 4,      // what is stored contradicts itself
  LARDER_STORE_IO = 5,           // the operating system or the server said no
  LARDER_STORE_EXHAUSTED = 6,    // a limit is reached: disk, pending bytes, memory
  LARDER_STORE_CANCELLED = 7,
  LARDER_STORE_UNAVAILABLE = 8,  // the server is away; try again later
  LARDER_STORE_SLOW = 9,         // the timeout came first
  LARDER_STORE_CONFLICT = 10,    // another process has the directory; another payload has the name
  LARDER_STORE_INTERNAL = 11     // what nobody expected
} larder_store_status;

// Where a record lies.
typedef enum larder_store_tier {
  LARDER_STORE_NOWHERE = 0,
  LARDER_STORE_DISK = 1,
  LARDER_STORE_REDIS = 2
} larder_store_tier;

// The caller's; written when a call fails, and only then.
typedef struct larder_store_error {
  larder_store_status status;
  char message[508];  // one sentence; a longer one is cut after a whole character
} larder_store_error;

// Of the library; the header's is LARDER_STORE_VERSION.
LARDER_STORE_API uint32_t larder_store_version(void);
// A few words, static; also for a number that is no status.
LARDER_STORE_API const char* larder_store_status_text(larder_store_status status);

// --- opening and closing

// One tier at least. Where there are two, the disk is the nearer one.
typedef struct larder_store_options {
  size_t size;
  const char* disk_directory;  // made if it is not there; NULL: no disk tier
  uint64_t disk_limit_bytes;   // of all files in it, at least 1 MiB; old records go to keep it
  const char* redis_url;       // redis://[user:password@]host:port[,host:port...], or rediss:// for TLS
  const char* redis_ca_file;   // certificates (PEM) that TLS trusts; NULL: the system's
  const char* store_key_file;  // 32 bytes or 64 hexadecimal digits: all is sealed; NULL: nothing is
  const char* keyring_file;    // tenants' ids and keys; NULL: `keyring` in the disk directory. Without a disk
                               // in memory. Who shares a Redis shares them through it
  uint64_t most_pending_bytes;  // of payloads that wait to be written, in each tier; 0: 256 MiB
} larder_store_options;

// *store is set on success. A Redis that is away is no error: it is tried again later.
// CONFLICT: somebody has the directory open. UNSUPPORTED: the directory is of another version, and is left as
// it is. CORRUPT: another store key than the first one; a damaged keyring or directory. INVALID, IO,
// EXHAUSTED.
LARDER_STORE_API larder_store_status larder_store_open(const larder_store_options* options,
                                                       larder_store** store, larder_store_error* error);
// Writes what is pending (half a minute at most where Redis is away), cancels gets, and returns after the
// last callback. NULL is allowed.
LARDER_STORE_API void larder_store_close(larder_store* store);

// --- tenants

// A record belongs to a tenant; reading, listing and wiping see those of one tenant only. The rest (match,
// touch, pin, remove) looks at names only, so the tenant's id should be hashed into them. This is the id:
// random, kept in the keyring, and another one after a wipe. The first call of any kind for a tenant may wait
// for the disk, and a quarter of a second for Redis.
LARDER_STORE_API larder_store_status larder_store_space(larder_store* store, const char* tenant,
                                                        uint8_t id[16], larder_store_error* error);
// Removes the tenant's records from all tiers, durably, and drops those that wait to be written. With a store
// key the tenant's key is destroyed first: then nothing can be read again, not even where a tier is away and
// an error tells that its space is not free yet. Without one, after an error: call again. A put of the same
// tenant at the same time may stay.
LARDER_STORE_API larder_store_status larder_store_wipe(larder_store* store, const char* tenant,
                                                       larder_store_error* error);

// --- looking

typedef struct larder_store_group {
  const void* data;  // NULL where only the size is told
  size_t bytes;
} larder_store_group;

typedef struct larder_store_record {
  size_t size;
  larder_store_name name;
  larder_store_name parent;  // what larder_store_children finds it by; all zero: none
  uint32_t kind;             // the caller's
  const void* metadata;      // the caller's
  size_t metadata_bytes;
  const larder_store_group* groups;  // together at most 1 GiB
  size_t group_count;                // 1 to LARDER_STORE_MOST_GROUPS
} larder_store_record;

// `index`: of the names asked for, or how many came before.
typedef void (*larder_store_visit)(void* user, size_t index, const larder_store_record* record);

// How many leading names of the chain are here: *leading, 0 to count. `tiers`, if not NULL, takes for each of
// the `count` names the nearest larder_store_tier that has it, also past the first gap. A tier that fails or
// is late has nothing.
LARDER_STORE_API larder_store_status larder_store_match(larder_store* store, const larder_store_name* chain,
                                                        size_t count, int64_t timeout_ms, size_t* leading,
                                                        uint8_t* tiers, larder_store_error* error);
// Calls `visit`, from the caller's thread, with all but the payload of each of these records that is here, in
// the order of `names`.
LARDER_STORE_API larder_store_status larder_store_describe(larder_store* store, const char* tenant,
                                                           const larder_store_name* names, size_t count,
                                                           int64_t timeout_ms, larder_store_visit visit,
                                                           void* user, larder_store_error* error);
// The same for records whose parent this is: at most `limit`, of each tier the newest first.
LARDER_STORE_API larder_store_status larder_store_children(larder_store* store, const char* tenant,
                                                           const larder_store_name* parent, size_t limit,
                                                           int64_t timeout_ms, larder_store_visit visit,
                                                           void* user, larder_store_error* error);

// --- writing

typedef struct larder_store_put_options {
  size_t size;
  const char* tenant;
  // 0: the payload is copied, once. Else it is kept and must stay as it is until `done`, which is then
  // needed.
  int keep;
  // Once, when nothing holds the payload any more; at the latest in larder_store_close, at the soonest in the
  // put itself. OK: committed in one tier at least. CONFLICT: a tier has another payload under this name, and
  // keeps it: an alarm. Or EXHAUSTED, IO, UNAVAILABLE, UNSUPPORTED, CANCELLED (removed or wiped meanwhile).
  void (*done)(void* user, larder_store_status status, const char* message);
  void* user;
} larder_store_put_options;

// Writes to all tiers a little later, in the order of calls; a name that is here already is not written
// again. `options` may be NULL. Returns at once: OK if `done` is going to be called, else it never is.
LARDER_STORE_API larder_store_status larder_store_put(larder_store* store, const larder_store_record* record,
                                                      const larder_store_put_options* options,
                                                      larder_store_error* error);
// Returns when everything that was put before is committed or dropped.
LARDER_STORE_API larder_store_status larder_store_flush(larder_store* store, larder_store_error* error);

// --- reading

// One record to be read. The destination has the size of the whole payload, also if only some groups are
// wanted; each goes to its place in it. Groups that lie on multiples of 4096, in memory and in the payload,
// are read from the disk straight into it; others are copied once.
typedef struct larder_store_read {
  larder_store_name name;
  void* destination;
  size_t bytes;          // of the payload; a record of another size is INVALID
  uint32_t first_group;  // [first, end)
  uint32_t end_group;    // 0: to the last
} larder_store_read;

typedef enum larder_store_priority {
  LARDER_STORE_REQUEST = 0,  // somebody waits
  LARDER_STORE_PREFETCH = 1  // gives way to requests
} larder_store_priority;

typedef struct larder_store_get_options {
  size_t size;
  const char* tenant;
  int64_t timeout_ms;  // groups that have not come by then are SLOW
  int32_t priority;    // a larder_store_priority
  // Once for an item that is here, before any of its groups: is it what was meant? 0 refuses it (INVALID).
  int (*accept)(void* user, size_t item, const larder_store_record* record);
  // For one group after another, from the smallest first_group on: it is final in all items. OK is also the
  // status of an item without this group. What lies in the place of a group that failed is undefined.
  void (*group_done)(void* user, uint32_t group, const larder_store_status* statuses, size_t count);
  // Once, last: no destination is touched any more. This may be some time after the timeout.
  void (*done)(void* user);
  void* user;
} larder_store_get_options;

// Reads each item from the nearest tier that has it, and waits for all. `statuses`, if not NULL, takes for
// each item OK or what became of its first group that failed; OK also where the record has none of the
// groups. OK is returned also if nothing came. `options` may be NULL.
LARDER_STORE_API larder_store_status larder_store_get(larder_store* store, const larder_store_read* items,
                                                      size_t count, const larder_store_get_options* options,
                                                      larder_store_status* statuses,
                                                      larder_store_error* error);
// Does not wait, and needs `done`. Returns OK if `done` is going to be called (or was already), else it never
// is. `ticket`, if not NULL, is for larder_store_cancel.
LARDER_STORE_API larder_store_status larder_store_get_start(larder_store* store,
                                                            const larder_store_read* items, size_t count,
                                                            const larder_store_get_options* options,
                                                            uint64_t* ticket, larder_store_error* error);
// What has not come is CANCELLED soon; `done` is called as always. NOT_FOUND: it has ended.
LARDER_STORE_API larder_store_status larder_store_cancel(larder_store* store, uint64_t ticket,
                                                         larder_store_error* error);

// --- keeping and removing

// These were used elsewhere and stay longer. Pass the ancestors too. Names that are not here are ignored.
LARDER_STORE_API larder_store_status larder_store_touch(larder_store* store, const larder_store_name* names,
                                                        size_t count, larder_store_error* error);
// Not evicted from the disk for ttl_ms, at most until the store is closed; 0 ends a pin. NOT_FOUND: not on
// the disk. EXHAUSTED: too much is pinned. UNSUPPORTED: no disk tier; Redis evicts as it likes.
LARDER_STORE_API larder_store_status larder_store_pin(larder_store* store, const larder_store_name* name,
                                                      int64_t ttl_ms, larder_store_error* error);
// From all tiers, durably: no crash brings them back. Names that are not here are ignored. After an error:
// call again.
LARDER_STORE_API larder_store_status larder_store_remove(larder_store* store, const larder_store_name* names,
                                                         size_t count, larder_store_error* error);

// --- counting

typedef struct larder_store_tier_stats {
  size_t size;
  uint64_t used_bytes, limit_bytes;       // Redis: the server's; limit 0: not known
  uint64_t pending_bytes;                 // waiting to be written
  uint64_t records;                       // disk only
  uint64_t hits, misses;                  // of names that match was asked
  uint64_t read_records, read_bytes;      // delivered
  uint64_t write_records, write_bytes;    // committed; bytes as they were written
  uint64_t dropped_writes;                // no room, too many pending, a fault
  uint64_t evicted_records, bad_records;  // bad: damaged, and given up
  uint64_t failures, slow_reads;
  uint64_t read_ns, write_ns;  // sums of latencies, of read_records and write_records
  uint64_t healthy;            // 0: failing, or away
} larder_store_tier_stats;

// Of a larder_store_tier, since the store was opened. `stats->size` is set before. NOT_FOUND: the store has
// no such tier.
LARDER_STORE_API larder_store_status larder_store_stats(larder_store* store, int32_t tier,
                                                        larder_store_tier_stats* stats,
                                                        larder_store_error* error);

#ifdef __cplusplus
}
#endif

#endif  // LARDER_STORE_H_
