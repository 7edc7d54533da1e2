// The forward pass: one path for decode, chunked prefill, prefix hits, verification and partial
// recomputation.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "compute/attention.h"
#include "compute/matmul.h"
#include "compute/thread_pool.h"
#include "model/key_transform.h"
#include "model/model.h"
#include "model/rope.h"
#include "model/weights.h"

namespace larder {

class ForwardPass {
 public:
  // `keys`: outlives the pass.
  ForwardPass(const ModelSpec& spec, const ModelWeights& weights, KvType kv_type, const KeyTransform& keys,
              ThreadPool& pool);

  void Run(std::span<const Row> rows, float* hidden, ForwardHooks* hooks);
  void Logits(const float* hidden, int rows, float* logits);
  const AttentionScratch& attention() const { return attention_scratch_; }

 private:
  void Embed(std::span<const Row> rows);
  // x_ [n, width] of the rows that take part in this layer, in and out. Answers whether rows leave the pass
  // here, which are marked in leaves_ then.
  bool Layer(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks);
  template <class Body>
  void ForRows(int64_t rows, Body&& body);
  // What follows when keys and values are stored: attention, projection, feed forward.
  void AfterStore(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks);
  // Only for the rows that `goes_on` names.
  template <class GoesOn>
  void AfterStoreOf(int layer, std::span<const Row> rows, float* x, ForwardHooks* hooks, GoesOn&& goes_on);
  void ProjectQkv(int layer, std::span<const Row> rows, const float* x);
  void RotateQk(int layer, std::span<const Row> rows);
  void TransformKeys(int layer, int64_t rows);
  void StoreKv(int layer, std::span<const Row> rows);
  void Attend(int layer, std::span<const Row> rows, ForwardHooks* hooks);
  // attended: what attention adds to x; it is added first.
  void FeedForward(int layer, int rows, float* attended, float* x);
  void Finish(std::span<const Row> rows, float* hidden);

  const ModelSpec& spec_;
  const ModelWeights& weights_;
  const KvType kv_type_;
  const KeyTransform& keys_;
  ThreadPool& pool_;
  MatMulScratch matmul_scratch_, gated_scratch_;
  AttentionScratch attention_scratch_;
  std::vector<RopeTable> ropes_;
  // Activations, [rows, ...]; grow to the largest batch seen.
  std::vector<float> x_, packed_, q_, k_, v_, attended_, projected_, fed_, lse_, staying_x_;
  std::vector<AttentionRow> attention_rows_;
  std::vector<Row> active_, staying_;
  std::vector<const Row*> completing_;  // rows that fill a page
  std::vector<int> active_index_;
  std::vector<size_t> staying_index_;
  std::vector<uint8_t> left_;    // [rows of the batch] dismissed in an earlier layer
  std::vector<uint8_t> leaves_;  // [rows of the layer] dismissed in this one
};

}  // namespace larder
