#include "store_fixture.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

larder_store_error last_error;
static char root[400];

void make_folder(const char* in) {
  snprintf(root, sizeof root, "%s/store_test-XXXXXX", in);
  CHECK(mkdtemp(root) != NULL);
}

static int remove_one(const char* path, const struct stat* about, int type, struct FTW* where) {
  (void)about, (void)type, (void)where;
  return remove(path);
}

void remove_folder(void) { CHECK(nftw(root, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0); }

const char* path_of(const char* name) {
  static char paths[8][512];
  static int next;
  char* path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s/%s", root, name);
  return path;
}

void write_file(const char* path, const void* bytes, size_t count) {
  FILE* file = fopen(path, "wb");
  CHECK(file != NULL);
  CHECK(fwrite(bytes, 1, count, file) == count);
  CHECK(fclose(file) == 0);
}

larder_store_options options_for(const char* directory) {
  larder_store_options options = {.size = sizeof options};
  options.disk_directory = path_of(directory);
  options.disk_limit_bytes = 32u << 20;
  return options;
}

larder_store* open_store(const char* directory) {
  larder_store* store = NULL;
  const larder_store_options options = options_for(directory);
  OK(larder_store_open(&options, &store, &last_error));
  CHECK(store != NULL);
  return store;
}

larder_store_name name_of(unsigned number) {
  larder_store_name name;
  memset(name.bytes, 0x5a, sizeof name.bytes);
  memcpy(name.bytes + 4, &number, sizeof number);
  return name;
}

void fill(unsigned number, uint8_t* payload) {
  uint32_t state = number * 2654435761u + 1;
  for (size_t i = 0; i < kPayload; ++i) {
    state = state * 1664525u + 1013904223u;
    payload[i] = (uint8_t)(state >> 24);
  }
}

larder_store_record record_of(unsigned number, uint8_t* payload, larder_store_group* groups) {
  fill(number, payload);
  for (size_t g = 0; g < kGroups; ++g) {
    groups[g].data = payload + g * kGroupBytes;
    groups[g].bytes = kGroupBytes;
  }
  larder_store_record record = {.size = sizeof record, .name = name_of(number), .kind = 7};
  if (number > 0) record.parent = name_of(number - 1);
  record.metadata = "tokens";
  record.metadata_bytes = 6;
  record.groups = groups;
  record.group_count = kGroups;
  return record;
}

void put(larder_store* store, unsigned number, const char* tenant) {
  uint8_t payload[kPayload];
  larder_store_group groups[kGroups];
  const larder_store_record record = record_of(number, payload, groups);
  const larder_store_put_options options = {.size = sizeof options, .tenant = tenant};
  OK(larder_store_put(store, &record, &options, &last_error));
  memset(payload, 0, sizeof payload);  // it was copied
}

larder_store_status get(larder_store* store, unsigned number, const char* tenant) {
  static uint8_t payload[kPayload], wanted[kPayload];
  const larder_store_read read = {.name = name_of(number), .destination = payload, .bytes = kPayload};
  const larder_store_get_options options = {.size = sizeof options, .tenant = tenant};
  larder_store_status status = LARDER_STORE_INTERNAL;
  OK(larder_store_get(store, &read, 1, &options, &status, &last_error));
  fill(number, wanted);
  if (status == LARDER_STORE_OK) CHECK(memcmp(payload, wanted, kPayload) == 0);
  return status;
}

size_t match(larder_store* store, const unsigned* numbers, size_t count, uint8_t* tiers) {
  larder_store_name chain[16];
  size_t leading = 99;
  for (size_t i = 0; i < count; ++i) chain[i] = name_of(numbers[i]);
  OK(larder_store_match(store, chain, count, 0, &leading, tiers, &last_error));
  return leading;
}

larder_store_tier_stats stats_of(larder_store* store) {
  larder_store_tier_stats stats = {.size = sizeof stats};
  OK(larder_store_stats(store, LARDER_STORE_DISK, &stats, &last_error));
  return stats;
}
