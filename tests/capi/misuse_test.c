// Wrong calls from C: does each get an error in words, and does none do harm?
#include "store_fixture.h"

static void ignore(void* user, size_t index, const larder_store_record* record) {
  (void)user, (void)index, (void)record;
}

static void wrong_opens(void) {
  larder_store* store = NULL;
  larder_store_options options = {.size = sizeof options};
  FAILS(LARDER_STORE_INVALID, larder_store_open(NULL, &store, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, &store, &last_error));  // no tier
  options = options_for("wrong");
  options.disk_limit_bytes = 0;
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, &store, &last_error));
  options = options_for("wrong");
  options.redis_url = "http://127.0.0.1";
  FAILS(LARDER_STORE_INVALID, larder_store_open(&options, &store, &last_error));
  const size_t sizes[] = {0, 1, sizeof options - 1, sizeof options + 1, (size_t)-1};
  for (size_t i = 0; i < 5; ++i) {
    options = options_for("wrong");
    options.size = sizes[i];
    FAILS(sizes[i] < sizeof options ? LARDER_STORE_INVALID : LARDER_STORE_UNSUPPORTED,
          larder_store_open(&options, &store, &last_error));
  }
  CHECK(store == NULL);
  larder_store_close(NULL);
  // A long message is cut, between characters.
  char name[900] = "";
  for (int i = 0; i < 290; ++i) strcat(name, "\xe2\x82\xac");
  options = options_for("wrong");
  options.disk_directory = name;
  CHECK(larder_store_open(&options, &store, &last_error) != LARDER_STORE_OK);
  const size_t length = strlen(last_error.message);
  CHECK(length < sizeof last_error.message && length > sizeof last_error.message - 5);
  CHECK(((uint8_t)last_error.message[length - 1] & 0xc0) == 0x80 &&
        (uint8_t)last_error.message[length - 3] == 0xe2);
}

static void wrong_records(larder_store* store) {
  static uint8_t payload[kPayload];
  larder_store_group groups[65];
  const larder_store_record good = record_of(9, payload, groups);
  for (size_t g = 0; g < 65; ++g) groups[g].data = payload, groups[g].bytes = 1;
  larder_store_record record = good;
  larder_store_put_options options = {.size = sizeof options};
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, NULL, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_put(NULL, &record, NULL, &last_error));
  record.size = sizeof record + 8;
  FAILS(LARDER_STORE_UNSUPPORTED, larder_store_put(store, &record, NULL, &last_error));
  record = good, record.group_count = 0;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &record, NULL, &last_error));
  record.group_count = 65;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &record, NULL, &last_error));
  record = good, record.groups = NULL;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &record, NULL, &last_error));
  record = good, record.metadata = NULL;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &record, NULL, &last_error));
  record = good, record.metadata_bytes = LARDER_STORE_MOST_METADATA + 1;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &record, NULL, &last_error));
  groups[1].data = NULL;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &good, NULL, &last_error));
  groups[1].data = payload, groups[1].bytes = (size_t)-1;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &good, NULL, &last_error));
  groups[1].bytes = 1;
  options.keep = 1;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &good, &options, &last_error));
  options.size = 8;
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &good, &options, &last_error));
  char tenant[2000];
  memset(tenant, 'x', sizeof tenant);
  tenant[sizeof tenant - 1] = '\0';
  const larder_store_put_options long_name = {.size = sizeof long_name, .tenant = tenant};
  FAILS(LARDER_STORE_INVALID, larder_store_put(store, &good, &long_name, &last_error));
  CHECK(larder_store_put(store, NULL, NULL, NULL) == LARDER_STORE_INVALID);  // nobody wants to know why
  CHECK(get(store, 9, NULL) == LARDER_STORE_NOT_FOUND);
}

static void wrong_reads(larder_store* store) {
  static uint8_t payload[kPayload];
  larder_store_status status = LARDER_STORE_INTERNAL;
  const larder_store_read good = {.name = name_of(0), .destination = payload, .bytes = kPayload};
  larder_store_read read = good;
  larder_store_get_options options = {.size = sizeof options};
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, NULL, 1, NULL, &status, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &read, (size_t)-1, NULL, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_get(NULL, &read, 1, NULL, &status, &last_error));
  read = good, read.destination = NULL;
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &read, 1, NULL, &status, &last_error));
  read = good, read.first_group = 3, read.end_group = 3;
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &read, 1, NULL, &status, &last_error));
  read = good, read.end_group = 65;
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &read, 1, NULL, &status, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_get_start(store, &good, 1, NULL, NULL, &last_error));  // no `done`
  options.timeout_ms = -1;
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &good, 1, &options, &status, &last_error));
  options.timeout_ms = 0, options.priority = 5;
  FAILS(LARDER_STORE_INVALID, larder_store_get(store, &good, 1, &options, &status, &last_error));
  CHECK(status == LARDER_STORE_INTERNAL);  // untouched so far
  // A record of another size: nothing is written past the destination.
  read = good, read.bytes = kPayload - 1, payload[kPayload - 1] = 0xaa;
  OK(larder_store_get(store, &read, 1, NULL, &status, &last_error));
  CHECK(status == LARDER_STORE_INVALID && payload[kPayload - 1] == 0xaa);
  read = good, read.bytes = 0, read.destination = NULL;
  OK(larder_store_get(store, &read, 1, NULL, &status, &last_error));
  CHECK(status == LARDER_STORE_INVALID);
  // No such group: nothing to wait for.
  read = good, read.first_group = kGroups;
  OK(larder_store_get(store, &read, 1, NULL, &status, &last_error));
  CHECK(status == LARDER_STORE_OK);
  options.priority = LARDER_STORE_REQUEST, options.timeout_ms = INT64_MAX;
  OK(larder_store_get(store, &good, 1, &options, &status, &last_error));
  CHECK(status == LARDER_STORE_OK);
}

static void wrong_rest(larder_store* store) {
  const larder_store_name name = name_of(0);
  uint8_t id[16];
  size_t leading = 0;
  larder_store_tier_stats stats = {.size = sizeof stats};
  FAILS(LARDER_STORE_INVALID, larder_store_match(store, NULL, 2, 0, &leading, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_match(store, &name, 1, 0, NULL, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_match(store, &name, 1, -5, &leading, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID,
        larder_store_match(store, &name, LARDER_STORE_MOST_NAMES + 1, 0, &leading, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_match(NULL, &name, 1, 0, &leading, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_describe(store, NULL, &name, 1, 0, NULL, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_describe(NULL, NULL, &name, 1, 0, ignore, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_children(store, NULL, NULL, 1, 0, ignore, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_children(NULL, NULL, &name, 1, 0, ignore, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_space(store, "a", NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_space(NULL, "a", id, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_wipe(NULL, "a", &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_flush(NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_cancel(NULL, 1, &last_error));
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_cancel(store, 12345, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_touch(store, NULL, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_touch(NULL, &name, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_pin(store, NULL, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_pin(store, &name, -1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_pin(NULL, &name, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_remove(store, NULL, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_remove(NULL, &name, 1, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_stats(store, LARDER_STORE_DISK, NULL, &last_error));
  FAILS(LARDER_STORE_INVALID, larder_store_stats(NULL, LARDER_STORE_DISK, &stats, &last_error));
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_stats(store, LARDER_STORE_REDIS, &stats, &last_error));
  FAILS(LARDER_STORE_NOT_FOUND, larder_store_stats(store, 77, &stats, &last_error));
  stats.size = 3;
  FAILS(LARDER_STORE_INVALID, larder_store_stats(store, LARDER_STORE_DISK, &stats, &last_error));
}

static void wrong_calls_do_no_harm(void) {
  larder_store* store = open_store("plain");
  put(store, 0, NULL);
  OK(larder_store_flush(store, &last_error));
  wrong_records(store);
  wrong_reads(store);
  wrong_rest(store);
  larder_store_close(store);
}

int main(int argc, char** argv) {
  CHECK(argc == 2);
  make_folder(argv[1]);
  wrong_opens();
  wrong_calls_do_no_harm();
  remove_folder();
  return 0;
}
