// Eviction methods: which entries of a request's own cache are kept. A method is one .cc file in this folder
// without a header, one line in list.cc and its test. It works on the private lane table of one request, at
// the triggers that it names, and only on layers that see everything: a window bounds the others already.
//
//   score    column sums of attention (compute/column_sums.h), of every prompt row or of the last ones;
//   numbers
//            beside the entries that follow them when they move (LaneTable::Scores); the keys themselves
//   budget   a share of the prompt, entries per lane, or bytes; sinks, window and newcomer included
//   trigger  end of a layer in the pass that scores a prompt, end of the prompt, end of a chunk of it, every
//            token
//   action   LaneTable::Keep, Remove, Merge, SetLogitBias, Demote
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/params.h"
#include "base/result.h"
#include "kv/lanes.h"
#include "kv/method_info.h"
#include "kv/shape.h"

namespace larder {

// How much is kept: "0.25" (share of the prompt's tokens, fixed at the end of the prompt), "256" (entries of
// a lane), "4MiB" (bytes of private pages of the lanes that evict, tables included).
class EvictBudget {
 public:
  static Result<EvictBudget> Parse(std::string_view text);
  // Of each of `lanes` lanes, at least 1. With unequal lanes on average: their bytes leave room for a begun
  // page each.
  int64_t Entries(const KvShape& shape, int lanes, int64_t prompt_rows, bool unequal = false) const;
  bool is_bytes() const { return kind_ == Kind::kBytes; }  // never to be exceeded

 private:
  enum class Kind : uint8_t { kShare, kEntries, kBytes };
  Kind kind_ = Kind::kShare;
  double value_ = 1;
};

// Whose attention a method asks for.
enum class ScoreTap : uint8_t {
  kNone,
  kLastRows,  // of the last EvictNeeds::rows rows of the prompt, which are run again for it when all are here
  kAllRows    // of every row: no row may be read from a cache
};

struct EvictNeeds {
  ScoreTap tap = ScoreTap::kNone;
  int64_t rows = 0;
  PositionMode positions = PositionMode::kKeep;
  bool every_token = false;  // AfterToken is called
  int64_t chunk = 0;         // AfterChunk is called at every multiple of this many prompt rows; 0: never
  // With kLastRows.
  bool each_layer = false;  // AfterLayer is called, and a layer's column scores are gone behind it
  bool entropies = false;   // ColumnScores have them
  bool own_codes = false;   // it says itself what becomes codes
  // Whether what it leaves becomes codes beside a cache with a codec: full pages at the end of the prompt,
  // and at each later multiple of 64 rows. What decides for every token would take pages of codes apart
  // again, and keys that are rotated when they are read are no codes.
  bool BecomesCodes() const {
    return positions == PositionMode::kKeep && !every_token && chunk == 0 && !own_codes;
  }
};

// Column sums of one layer's last prompt rows: [heads][stride], one number for each entry of the head's lane.
struct ColumnScores {
  std::vector<float> sums, squares;
  std::vector<float> entropies;  // sums of -p log p; empty: not asked for
  int64_t stride = 0;
  std::span<const float> Sums(int head) const { return Of(sums, head); }
  std::span<const float> Squares(int head) const { return Of(squares, head); }
  std::span<const float> Entropies(int head) const { return Of(entropies, head); }

 private:
  std::span<const float> Of(const std::vector<float>& all, int head) const {
    return {all.data() + head * stride, static_cast<size_t>(stride)};
  }
};

// What a method sees of its request.
struct EvictView {
  const KvShape& shape;
  int heads;                    // query heads; those of a group share a lane
  std::span<const int> layers;  // that may be evicted from
  int64_t prompt_rows;          // all of the prompt's
  int64_t rows;                 // so far, whether their entries are still here or not
  LaneTable& lanes;
  std::span<const ColumnScores> column_scores;  // [model layer], with kLastRows when the prompt has ended

  int lane_count() const { return static_cast<int>(layers.size()) * shape.kv_heads(); }
};

class EvictMethod {
 public:
  virtual ~EvictMethod() = default;
  virtual EvictNeeds needs() const = 0;
  // Another one that would decide as this one would from here on.
  virtual std::unique_ptr<EvictMethod> Copy() const = 0;
  // All rows of the prompt are here. Once, before the first AfterToken.
  virtual Status AfterPrompt(EvictView& view) = 0;
  // Before AfterPrompt, with each_layer: the pass over the prompt's last rows has this layer's column scores.
  // For each of view.layers in their order. This one and those before it may be evicted from: the pass has
  // read them.
  virtual Status AfterLayer(EvictView& view, int layer) { return {}; }
  // A chunk of the prompt is here, and it is not the last.
  virtual Status AfterChunk(EvictView& view) { return {}; }
  // A token after the prompt has been processed; with kAllRows, Scores have grown by its attention.
  virtual Status AfterToken(EvictView& view) { return {}; }
  // Its name and all its parameters, defaults included: "snapkv:window=32,...".
  const std::string& spec() const { return spec_; }
  void SetSpec(std::string spec) { spec_ = std::move(spec); }  // by CreateEvictMethod

 private:
  std::string spec_;
};

struct EvictModel {
  int layers = 0;                 // of the model
  bool windows = false;           // some of them see a window only
  bool transformed_keys = false;  // a codec turns keys after they are rotated
  int head_dim = 0;
  KvType kv_type = KvType::kI16;
};

struct EvictMethodEntry {
  MethodInfo info;
  // Declares its parameters, reads "key=value,...", and makes a method for one request.
  Result<std::unique_ptr<EvictMethod>> (*create)(Params& params, std::string_view parameters,
                                                 const EvictModel& model);
};
std::vector<EvictMethodEntry> EvictMethods();
std::string EvictMethodNames();  // "h2o, snapkv, ..."
// "name" or "name:key=value,..."; unknown names list the known ones. kUnsupported: what the model cannot
// give.
Result<std::unique_ptr<EvictMethod>> CreateEvictMethod(std::string_view spec, const EvictModel& model);

// Parameters that every method has.
struct EvictCommon {
  std::string budget = "0.25";
  int64_t sinks = 0, last = 0;  // first and newest tokens that are kept whatever their score
  EvictBudget parsed;
};
// Declares the three, reads the list and understands the budget.
Status ReadEvictParams(Params& params, std::string_view parameters, EvictCommon& common);

}  // namespace larder
