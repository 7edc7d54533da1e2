// Reuse methods: what may stand in for rows of a prompt that are not computed. A method is one .cc file in
// this folder without a header, one line in list.cc and its test. `prefix` is exact: rows of the same text at
// the same place. Others take rows of stored chunks (kv/reuse/chunks.h) and compute some of them again: those
// that the method chooses when it has seen how far the chunk's rows are from true ones in one layer.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/params.h"
#include "base/result.h"
#include "kv/method_info.h"

namespace larder {

struct ReuseNeeds {
  bool chunks = false;  // uses stored chunks; if not, nothing of the rest counts
  // All rows are computed up to the keys and values of this layer; there it is chosen who goes on, and among
  // those again in each layer up to the last.
  int check_layer = 1, last_check_layer = 1;
  bool keys = false, values = false;  // what the deviation is measured on
  bool attention = false;             // wants what attention gives to rows in the layer before the check
  bool reposition = true;             // keys are rotated to where they stand now; else to where they stood
};

// Rows of one piece of a prompt that chunks cover and that nobody stands in for yet, ascending.
struct ReuseView {
  int layer = 0;                       // who goes on behind this one is asked
  size_t covered = 0;                  // rows that there were at first
  std::span<const int32_t> positions;  // in the prompt
  std::span<const int64_t> in_span;    // rows since the beginning of the row's match
  std::span<const float> deviations;   // squared distance between true and stored rows in this layer
  std::span<const float> attention;    // from all rows of the piece, a sum over rows and heads
};

class ReuseMethod {
 public:
  virtual ~ReuseMethod() = default;
  virtual ReuseNeeds needs() const = 0;
  // Marks the rows to be computed behind this layer: again [rows of the view], 0 at first.
  virtual void Choose(const ReuseView& view, std::span<uint8_t> again) const {}
};

struct ReuseModel {
  int layers = 0;  // of the model; 0: any
};

struct ReuseMethodEntry {
  MethodInfo info;
  Result<std::unique_ptr<ReuseMethod>> (*create)(Params& params, std::string_view parameters,
                                                 const ReuseModel& model);
};
std::vector<ReuseMethodEntry> ReuseMethods();
// "name" or "name:key=value,..."; unknown names list the known ones.
Result<std::unique_ptr<ReuseMethod>> CreateReuseMethod(std::string_view spec, const ReuseModel& model);

// Whether a reuse method and an eviction method may shape one request, "": none. kUnsupported says why not.
Status CheckCombination(std::string_view reuse, std::string_view evict);

}  // namespace larder
