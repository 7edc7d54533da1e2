// What the C tests share: a folder that is used up, records made of numbers, checks that end the program.
#ifndef TESTS_CAPI_STORE_FIXTURE_H_
#define TESTS_CAPI_STORE_FIXTURE_H_

#include <larder/store.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);           \
      fprintf(stderr, "last error: %d %s\n", (int)last_error.status, last_error.message); \
      exit(1);                                                                            \
    }                                                                                     \
  } while (0)
#define OK(call) CHECK((call) == LARDER_STORE_OK)
// The call fails with this status, and says so in words.
#define FAILS(expected, call)                  \
  do {                                         \
    memset(&last_error, 0, sizeof last_error); \
    CHECK((call) == (expected));               \
    CHECK(last_error.status == (expected));    \
    CHECK(strlen(last_error.message) > 10);    \
  } while (0)

enum { kGroups = 3, kGroupBytes = 8192, kPayload = kGroups * kGroupBytes };

extern larder_store_error last_error;

void make_folder(const char* in);
void remove_folder(void);
const char* path_of(const char* name);  // in the folder; good for eight more calls
void write_file(const char* path, const void* bytes, size_t count);

larder_store_options options_for(const char* directory);
larder_store* open_store(const char* directory);

larder_store_name name_of(unsigned number);
void fill(unsigned number, uint8_t* payload);  // the kPayload bytes of a record follow from its number
// Its parent is the one before. Borrows `payload` and the kGroups groups.
larder_store_record record_of(unsigned number, uint8_t* payload, larder_store_group* groups);
void put(larder_store* store, unsigned number, const char* tenant);
// What a get of this record says; on OK the bytes have been compared.
larder_store_status get(larder_store* store, unsigned number, const char* tenant);
size_t match(larder_store* store, const unsigned* numbers, size_t count, uint8_t* tiers);
larder_store_tier_stats stats_of(larder_store* store);

#endif  // TESTS_CAPI_STORE_FIXTURE_H_
