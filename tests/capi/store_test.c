// The C interface as a C program uses it: does every call do what include/larder/store.h says, also on a bad
// day?
#include <dirent.h>
#include <pthread.h>

#include "store_fixture.h"

static void version_and_texts(void) {
  CHECK(larder_store_version() == LARDER_STORE_VERSION);
  for (int status = LARDER_STORE_OK; status <= LARDER_STORE_INTERNAL; ++status) {
    const char* text = larder_store_status_text((larder_store_status)status);
    CHECK(strlen(text) > 1 && strcmp(text, "unknown status") != 0);
  }
  CHECK(strcmp(larder_store_status_text((larder_store_status)999), "unknown status") == 0);
}

static void what_was_put_comes_back(void) {
  larder_store* store = open_store("plain");
  const unsigned chain[] = {0, 1, 2, 3, 4};
  uint8_t tiers[5];
  for (unsigned i = 0; i < 3; ++i) put(store, i, NULL);
  put(store, 4, NULL);
  OK(larder_store_flush(store, &last_error));
  CHECK(match(store, chain, 5, tiers) == 3);
  CHECK(tiers[0] == LARDER_STORE_DISK && tiers[2] == LARDER_STORE_DISK && tiers[4] == LARDER_STORE_DISK);
  CHECK(tiers[3] == LARDER_STORE_NOWHERE);
  CHECK(match(store, chain, 0, NULL) == 0);
  for (unsigned i = 0; i < 5; ++i)
    CHECK(get(store, i, NULL) == (i == 3 ? LARDER_STORE_NOT_FOUND : LARDER_STORE_OK));

  const larder_store_tier_stats stats = stats_of(store);
  CHECK(stats.records == 4 && stats.write_records == 4 && stats.read_records == 4);
  CHECK(stats.read_bytes == 4 * kPayload && stats.hits == 4 && stats.misses == 1);
  CHECK(stats.limit_bytes == 32u << 20 && stats.used_bytes >= 4 * kPayload && stats.pending_bytes == 0);
  CHECK(stats.healthy == 1 && stats.bad_records == 0);
  larder_store_close(store);

  store = open_store("plain");  // another day
  CHECK(match(store, chain, 5, NULL) == 3);
  for (unsigned i = 0; i < 3; ++i) CHECK(get(store, i, "") == LARDER_STORE_OK);
  larder_store_close(store);
}

typedef struct seen {
  size_t count, indexes[8];
  larder_store_name names[8];
} seen;

static void see(void* user, size_t index, const larder_store_record* record) {
  seen* s = user;
  CHECK(record->size == sizeof *record && record->kind == 7 && record->group_count == kGroups);
  CHECK(record->metadata_bytes == 6 && memcmp(record->metadata, "tokens", 6) == 0);
  for (size_t g = 0; g < kGroups; ++g)
    CHECK(record->groups[g].data == NULL && record->groups[g].bytes == kGroupBytes);
  s->indexes[s->count] = index;
  s->names[s->count++] = record->name;
}

static void describe_and_children(void) {
  larder_store* store = open_store("plain");
  const larder_store_name names[] = {name_of(4), name_of(3), name_of(0)}, parent = name_of(1);
  seen found = {0};
  OK(larder_store_describe(store, NULL, names, 3, 0, see, &found, &last_error));
  CHECK(found.count == 2 && found.indexes[0] == 0 && found.indexes[1] == 2);
  CHECK(memcmp(&found.names[1], &names[2], sizeof names[2]) == 0);
  memset(&found, 0, sizeof found);
  OK(larder_store_children(store, NULL, &parent, 10, 0, see, &found, &last_error));
  const larder_store_name child = name_of(2);
  CHECK(found.count == 1 && memcmp(&found.names[0], &child, sizeof child) == 0);
  memset(&found, 0, sizeof found);
  OK(larder_store_children(store, NULL, &parent, 0, 0, see, &found, &last_error));
  OK(larder_store_children(store, "another", &parent, 10, 0, see, &found, &last_error));
  OK(larder_store_describe(store, "another", names, 3, 0, see, &found, &last_error));
  CHECK(found.count == 0);
  larder_store_close(store);
}

typedef struct waited {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int done, accepted, take;
  larder_store_status status;
  uint32_t groups[8];
  size_t group_count;
  larder_store_status items[8][2];
} waited;

static void wait_init(waited* w) {
  memset(w, 0, sizeof *w);
  pthread_mutex_init(&w->mutex, NULL);
  pthread_cond_init(&w->changed, NULL);
  w->take = 1;
}

static void wait_for(waited* w) {
  pthread_mutex_lock(&w->mutex);
  while (!w->done) pthread_cond_wait(&w->changed, &w->mutex);
  pthread_mutex_unlock(&w->mutex);
}

static void get_done(void* user) {
  waited* w = user;
  pthread_mutex_lock(&w->mutex);
  ++w->done;
  pthread_cond_broadcast(&w->changed);
  pthread_mutex_unlock(&w->mutex);
}

static void put_done(void* user, larder_store_status status, const char* message) {
  CHECK(message != NULL && (status == LARDER_STORE_OK) == (strlen(message) == 0));
  ((waited*)user)->status = status;
  get_done(user);
}

static int accept_item(void* user, size_t item, const larder_store_record* record) {
  waited* w = user;
  ++w->accepted;
  return w->take && record->kind == 7 && item < 2;
}

static void group_done(void* user, uint32_t group, const larder_store_status* statuses, size_t count) {
  waited* w = user;
  CHECK(count == 2);
  memcpy(w->items[w->group_count], statuses, 2 * sizeof *statuses);
  w->groups[w->group_count++] = group;
}

static void kept_payloads(void) {
  larder_store* store = open_store("kept");
  static uint8_t payload[kPayload];
  larder_store_group groups[kGroups];
  larder_store_record record = record_of(1, payload, groups);
  waited w;
  wait_init(&w);
  const larder_store_put_options options = {.size = sizeof options, .keep = 1, .done = put_done, .user = &w};
  OK(larder_store_put(store, &record, &options, &last_error));
  wait_for(&w);
  CHECK(w.status == LARDER_STORE_OK && get(store, 1, NULL) == LARDER_STORE_OK);

  // The same name again is nothing new; with other bytes it is an alarm, and the first ones stay.
  wait_init(&w);
  OK(larder_store_put(store, &record, &options, &last_error));
  wait_for(&w);
  CHECK(w.status == LARDER_STORE_OK);
  wait_init(&w);
  payload[0] ^= 1;
  OK(larder_store_put(store, &record, &options, &last_error));
  wait_for(&w);
  CHECK(w.status == LARDER_STORE_CONFLICT && get(store, 1, NULL) == LARDER_STORE_OK);

  // Closing writes what is pending and tells.
  wait_init(&w);
  record = record_of(2, payload, groups);
  OK(larder_store_put(store, &record, &options, &last_error));
  larder_store_close(store);
  CHECK(w.done == 1 && w.status == LARDER_STORE_OK);
}

static void groups_one_by_one(void) {
  larder_store* store = open_store("kept");
  static uint8_t payloads[2][kPayload], wanted[kPayload];
  const larder_store_read reads[2] = {
      {.name = name_of(1), .destination = payloads[0], .bytes = kPayload, .first_group = 1},
      {.name = name_of(77), .destination = payloads[1], .bytes = kPayload, .first_group = 1, .end_group = 2}};
  waited w;
  wait_init(&w);
  const larder_store_get_options options = {.size = sizeof options,
                                            .timeout_ms = 60000,
                                            .priority = LARDER_STORE_PREFETCH,
                                            .accept = accept_item,
                                            .group_done = group_done,
                                            .done = get_done,
                                            .user = &w};
  uint64_t ticket = 0;
  OK(larder_store_get_start(store, reads, 2, &options, &ticket, &last_error));
  wait_for(&w);
  CHECK(w.accepted == 1 && w.group_count == 2 && w.groups[0] == 1 && w.groups[1] == 2);
  CHECK(w.items[0][0] == LARDER_STORE_OK && w.items[1][0] == LARDER_STORE_OK);
  CHECK(w.items[0][1] == LARDER_STORE_NOT_FOUND && w.items[1][1] == LARDER_STORE_OK);
  fill(1, wanted);
  CHECK(memcmp(payloads[0] + kGroupBytes, wanted + kGroupBytes, 2 * kGroupBytes) == 0);
  for (size_t i = 0; i < kGroupBytes; ++i) CHECK(payloads[0][i] == 0);  // not wanted
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_cancel(store, ticket, &last_error));

  // Refused by the caller; the blocking form makes the same callbacks.
  wait_init(&w);
  w.take = 0;
  larder_store_status statuses[2];
  OK(larder_store_get(store, reads, 2, &options, statuses, &last_error));
  CHECK(w.done == 1 && statuses[0] == LARDER_STORE_INVALID && statuses[1] == LARDER_STORE_NOT_FOUND);
  OK(larder_store_get(store, reads, 2, NULL, NULL, &last_error));
  OK(larder_store_get(store, NULL, 0, NULL, NULL, &last_error));

  // Cancelled, or done before; in both cases it ends.
  wait_init(&w);
  OK(larder_store_get_start(store, reads, 2, &options, &ticket, &last_error));
  (void)larder_store_cancel(store, ticket, &last_error);
  wait_for(&w);
  larder_store_close(store);
  CHECK(w.done == 1);
}

static void pins_touches_removals(void) {
  larder_store* store = open_store("kept");
  const larder_store_name here = name_of(1), gone = name_of(50);
  const larder_store_name both[] = {here, gone};
  OK(larder_store_touch(store, both, 2, &last_error));
  OK(larder_store_pin(store, &here, 60000, &last_error));
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_pin(store, &gone, 60000, &last_error));

  // A pinned record stays when the others have gone; 64 MiB pass through a store of 32.
  for (unsigned i = 0; i < 2730; ++i) {
    put(store, 100 + i, NULL);
    if (i % 64 == 0) OK(larder_store_flush(store, &last_error));
  }
  OK(larder_store_flush(store, &last_error));
  const larder_store_tier_stats stats = stats_of(store);
  CHECK(stats.evicted_records > 0 && stats.used_bytes <= stats.limit_bytes);
  CHECK(get(store, 100, NULL) == LARDER_STORE_NOT_FOUND && get(store, 1, NULL) == LARDER_STORE_OK);
  OK(larder_store_pin(store, &here, 0, &last_error));

  OK(larder_store_remove(store, both, 2, &last_error));
  CHECK(get(store, 1, NULL) == LARDER_STORE_NOT_FOUND);
  larder_store_close(store);
  store = open_store("kept");
  CHECK(get(store, 1, NULL) == LARDER_STORE_NOT_FOUND);
  larder_store_close(store);
}

static void tenants_do_not_meet(void) {
  larder_store* store = open_store("tenants");
  uint8_t a[16], b[16], again[16];
  OK(larder_store_space(store, "a", a, &last_error));
  OK(larder_store_space(store, "b", b, &last_error));
  CHECK(memcmp(a, b, 16) != 0);
  put(store, 1, "a");
  put(store, 2, "b");
  OK(larder_store_flush(store, &last_error));
  CHECK(get(store, 1, "a") == LARDER_STORE_OK && get(store, 1, "b") == LARDER_STORE_NOT_FOUND);
  CHECK(get(store, 1, NULL) == LARDER_STORE_NOT_FOUND);
  OK(larder_store_wipe(store, "a", &last_error));
  OK(larder_store_wipe(store, "nobody", &last_error));
  CHECK(get(store, 1, "a") == LARDER_STORE_NOT_FOUND && get(store, 2, "b") == LARDER_STORE_OK);
  OK(larder_store_space(store, "a", again, &last_error));
  CHECK(memcmp(a, again, 16) != 0);
  put(store, 1, "a");
  OK(larder_store_flush(store, &last_error));
  CHECK(get(store, 1, "a") == LARDER_STORE_OK);
  larder_store_close(store);
}

static void one_at_a_time(void) {
  larder_store *store = open_store("plain"), *second = NULL;
  const larder_store_options options = options_for("plain");
  FAILS(LARDER_STORE_CONFLICT, larder_store_open(&options, &second, &last_error));
  CHECK(second == NULL);
  CHECK(get(store, 0, NULL) == LARDER_STORE_OK);
  larder_store_close(store);
}

// Flips one byte in the middle of each 4 KiB of the segments.
static void damage(const char* directory) {
  DIR* list = opendir(path_of(directory));
  CHECK(list != NULL);
  int files = 0;
  for (struct dirent* entry; (entry = readdir(list)) != NULL;) {
    if (strncmp(entry->d_name, "seg-", 4) != 0) continue;
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", path_of(directory), entry->d_name);
    FILE* file = fopen(path, "r+b");
    CHECK(file != NULL);
    CHECK(fseek(file, 0, SEEK_END) == 0);
    const long size = ftell(file);
    for (long at = 2048; at < size; at += 4096) {
      CHECK(fseek(file, at, SEEK_SET) == 0);
      const int byte = fgetc(file);
      CHECK(fseek(file, at, SEEK_SET) == 0 && fputc(byte ^ 0x10, file) != EOF);
    }
    CHECK(fclose(file) == 0);
    ++files;
  }
  closedir(list);
  CHECK(files > 0);
}

static void damage_is_a_miss(void) {
  larder_store* store = open_store("damaged");
  for (unsigned i = 0; i < 3; ++i) put(store, i, NULL);
  larder_store_close(store);
  damage("damaged");
  store = open_store("damaged");
  for (unsigned i = 0; i < 3; ++i) CHECK(get(store, i, NULL) == LARDER_STORE_CORRUPT);
  for (unsigned i = 0; i < 3; ++i) CHECK(get(store, i, NULL) == LARDER_STORE_NOT_FOUND);  // given up
  CHECK(stats_of(store).bad_records == 3);
  put(store, 0, NULL);
  OK(larder_store_flush(store, &last_error));
  CHECK(get(store, 0, NULL) == LARDER_STORE_OK);
  larder_store_close(store);
}

static void the_wrong_key_is_refused(void) {
  larder_store* store = NULL;
  larder_store_options options = options_for("sealed");
  char first[400], second[400];
  snprintf(first, sizeof first, "%s", path_of("key"));
  snprintf(second, sizeof second, "%s", path_of("other-key"));
  write_file(first, "0123456789abcdef0123456789ABCDEF", 32);
  write_file(second, "0123456789abcdef0123456789ABCDEf", 32);
  options.store_key_file = first;
  OK(larder_store_open(&options, &store, &last_error));
  put(store, 1, "a");
  larder_store_close(store);
  options.store_key_file = second;
  FAILS(LARDER_STORE_CORRUPT, larder_store_open(&options, &store, &last_error));
  options.store_key_file = NULL;
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, &store, &last_error));
  options.store_key_file = path_of("sealed/key");
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, &store, &last_error));
  options.store_key_file = path_of("no such file");
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_open(&options, &store, &last_error));
  options.store_key_file = first;
  OK(larder_store_open(&options, &store, &last_error));
  CHECK(get(store, 1, "a") == LARDER_STORE_OK);
  OK(larder_store_wipe(store, "a", &last_error));
  CHECK(get(store, 1, "a") == LARDER_STORE_NOT_FOUND);
  larder_store_close(store);
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  make_folder(argv[1]);
  version_and_texts();
  what_was_put_comes_back();
  describe_and_children();
  kept_payloads();
  groups_one_by_one();
  pins_touches_removals();
  tenants_do_not_meet();
  one_at_a_time();
  damage_is_a_miss();
  the_wrong_key_is_refused();
  remove_folder();
  return 0;
}
