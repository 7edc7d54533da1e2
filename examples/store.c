// Keeps a block of keys and values on disk and reads it back: store DIRECTORY
#include <larder/store.h>
#include <stdio.h>
#include <string.h>

static int failed(const char* what, const larder_store_error* error) {
  fprintf(stderr, "%s: %s\n", what, error->message);
  return 1;
}

int main(int argc, char** argv) {
  larder_store_error error;
  larder_store* store;
  larder_store_options options = {.size = sizeof options, .disk_limit_bytes = 64u << 20};
  options.disk_directory = argc > 1 ? argv[1] : "larder-store";
  if (larder_store_open(&options, &store, &error) != LARDER_STORE_OK) return failed("open", &error);

  // In an engine the name is a hash of everything that decided the bytes: weights, arithmetic, tenant,
  // tokens.
  larder_store_name name = {{0}};
  memcpy(name.bytes, "the first 64 tokens", 19);
  static char keys[4096] = "keys", values[4096] = "values";
  const larder_store_group groups[] = {{keys, sizeof keys}, {values, sizeof values}};
  const larder_store_record record = {.size = sizeof record,
                                      .name = name,
                                      .metadata = "tokens 0..63",
                                      .metadata_bytes = 12,
                                      .groups = groups,
                                      .group_count = 2};
  if (larder_store_put(store, &record, NULL, &error) != LARDER_STORE_OK) return failed("put", &error);
  if (larder_store_flush(store, &error) != LARDER_STORE_OK) return failed("flush", &error);

  size_t leading;
  if (larder_store_match(store, &name, 1, 0, &leading, NULL, &error) != LARDER_STORE_OK)
    return failed("match", &error);

  static char payload[sizeof keys + sizeof values];
  const larder_store_read read = {.name = name, .destination = payload, .bytes = sizeof payload};
  larder_store_status status;
  if (larder_store_get(store, &read, 1, NULL, &status, &error) != LARDER_STORE_OK)
    return failed("get", &error);
  printf("%zu block here; %s: %s and %s\n", leading, larder_store_status_text(status), payload,
         payload + sizeof keys);
  larder_store_close(store);
  return 0;
}
