// A loaded model: weights, tokenizer, and the forward pass over a batch of rows.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/hash.h"
#include "base/result.h"
#include "compute/matmul.h"
#include "compute/thread_pool.h"
#include "kv/row_store.h"
#include "kv/shape.h"
#include "model/gguf.h"
#include "model/key_transform.h"
#include "model/packed_places.h"
#include "model/spec.h"
#include "model/tokenizer.h"

namespace larder {

struct Row {
  int32_t token = -1;
  const float* input = nullptr;  // [width] instead of a token
  int32_t position = 0;
  RowStore* kv = nullptr;     // where it reads and writes keys and values
  bool writes_kv = true;      // false: its keys and values are in the cache already, or shall not be
  bool wants_hidden = false;  // its normed final state is wanted (for logits)
  int16_t enter_layer = 0;    // with `input`: the first layer it takes part in
  int16_t leave_layer = -1;   // stops after this layer; -1: goes through
};

// Called around every layer. Default: nothing.
class ForwardHooks {
 public:
  virtual ~ForwardHooks() = default;
  // x [rows, width]: the state of the rows that take part in this layer. The place to wait for the layer's
  // KV.
  virtual void BeforeLayer(int layer, std::span<const Row> rows, float* x) {}
  // k and v [rows, kv_heads * head_dim], keys not yet rotated.
  virtual void BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) {}
  // q [rows, heads * head_dim], k and v [rows, kv_heads * head_dim], rotated; may be changed.
  virtual void AfterQkv(int layer, std::span<const Row> rows, float* q, float* k, float* v) {}
  // Keys and values of this layer are stored. A row marked in `leaves` [rows] goes no further: it takes no
  // part in the rest of this layer nor in those after it. Called where MayDismiss says so.
  virtual bool MayDismiss(int layer) const { return false; }
  virtual void Dismiss(int layer, std::span<const Row> rows, std::span<uint8_t> leaves) {}
  // `rows` are those that are left.
  virtual void AfterAttention(int layer, std::span<const Row> rows, const float* lse) {}
  virtual bool WantsLse(int layer) const { return false; }
};

// The name under which a folder keeps a model's key means.
std::string KeyMeansFile(const Digest& weights);

struct ModelOptions {
  MathMode math = MathMode::kFast;
  KvType kv_type = KvType::kI16;
  std::string kv_codec;  // "t4", "q8_0", "name:key=value,..." (kv/codec); with kI16; empty: none
  // For codecs that centre: the file of key means, or a folder that has it under KeyMeansFile of the weights.
  std::string key_means;
  int threads = 0;                       // 0: AvailableCores()
  std::function<void(double)> progress;  // 0..1 while loading
  PackedOptions packed;                  // in fast mode: where weights are kept as they are computed with
};

class Model {
 public:
  // Every error names the file's field or tensor; kExhausted where the weights do not fit into memory.
  // kInvalid, kUnsupported, kNotFound: the codec, as CreateKvCodec and KeyMeans::Read say.
  static Result<std::unique_ptr<Model>> Load(const std::string& path, ModelOptions options);
  ~Model();

  const ModelSpec& spec() const;
  const Tokenizer& tokenizer() const;
  const GgufFile& file() const;
  const KvShape& kv_shape() const;
  KvIdentity kv_identity() const;
  const KeyTransform& key_transform() const;
  const Digest& weights_digest() const;
  MathMode math() const;
  uint64_t weight_bytes() const;  // packed
  // The file of packed weights that is mapped and shared; "": they are this model's own memory.
  const std::string& packed_path() const;
  ThreadPool& pool();
  const std::string& name() const;  // general.name or the file's stem

  // Runs the rows. hidden: [number of rows with wants_hidden, width], in row order, normed, ready for Logits.
  // Not thread safe: one call at a time.
  void Forward(std::span<const Row> rows, float* hidden, ForwardHooks* hooks = nullptr);
  // hidden [rows, width] -> logits [rows, vocabulary].
  void Logits(const float* hidden, int rows, float* logits);
  // Pages of keys and values read by attention so far (compute/attention.h).
  uint64_t attention_pages_read() const;

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace larder
