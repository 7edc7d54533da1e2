// Between C's arguments and the store's values. Everything that comes in is checked here.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "capi/stacked_store.h"
#include "larder/store.h"

namespace larder {

larder_store_status ToC(ErrorKind kind);
larder_store_status ToC(const Status& status);
// Fills `out` (may be null) and returns its status.
larder_store_status Tell(const Error& error, larder_store_error* out);

// kInvalid: null, or a smaller size; kUnsupported: a larger one. `type` is the struct's name.
template <class T>
Status CheckStruct(const T* given, const char* type) {
  if (given == nullptr) return Fail(ErrorKind::kInvalid, "{} may not be NULL", type);
  if (given->size == sizeof(T)) return {};
  if (given->size < sizeof(T))
    return Fail(ErrorKind::kInvalid, "{}.size is {} and should be sizeof({}) = {}", type, given->size, type,
                sizeof(T));
  return Fail(ErrorKind::kUnsupported, "{}.size is {}: made for a newer library; this one knows {} bytes",
              type, given->size, sizeof(T));
}
// kInvalid: null with a count, too many.
Status CheckArray(const void* array, size_t count, const char* what);
Status CheckPointer(const void* pointer, const char* what);

inline std::string TextOf(const char* text) { return text == nullptr ? "" : text; }
Digest DigestOf(const larder_store_name& name);
std::vector<Digest> DigestsOf(const larder_store_name* names, size_t count);  // checked before
// kInvalid: negative. 0 is no deadline.
Result<int64_t> DeadlineOf(int64_t timeout_ms, int64_t now_ns);

StackedOptions OptionsOf(const larder_store_options& options);
Result<RecordHeader> HeaderOf(const larder_store_record& record);
// Groups as they lie there. REQUIRES: HeaderOf took the record.
std::vector<std::span<const std::byte>> GroupsOf(const larder_store_record& record);
Result<std::vector<RecordRead>> ReadsOf(const larder_store_read* items, size_t count);
larder_store_tier_stats StatsOf(const TierStats& stats);

// A header as C sees it; valid as long as the header and this are.
class RecordView {
 public:
  explicit RecordView(const RecordHeader& header);
  RecordView(const RecordView&) = delete;
  RecordView& operator=(const RecordView&) = delete;
  const larder_store_record* get() const { return &record_; }

 private:
  std::vector<larder_store_group> groups_;
  larder_store_record record_{};
};

}  // namespace larder
