// A model and a cache, without the engine: token lists in, hidden states out. What bench and eval measure
// with.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "kv/cache.h"
#include "model/model.h"

namespace larder {

class Session {
 public:
  // Room for `sequences` of `rows` rows each. The model outlives the session; one session of a model runs at
  // a time.
  static Result<std::unique_ptr<Session>> Create(Model& model, int64_t rows, int64_t sequences);

  // An empty sequence that finds and shares nothing: each is a tenant of its own.
  Result<std::unique_ptr<KvSequence>> Open();
  // Closes it and forgets its rows.
  void Close(std::unique_ptr<KvSequence> sequence);
  // A second hold on the same rows.
  Result<std::unique_ptr<KvSequence>> Fork(const KvSequence& sequence) { return cache_->Fork(sequence); }

  // Computes the rows of `tokens` behind those present, at most kChunkRows at a time. `on_rows` gets the
  // hidden states of rows with positions >= hidden_from, [rows, width], in order: first position, number of
  // rows, values.
  using OnRows = std::function<void(int64_t first, int rows, const float* hidden)>;
  Status Append(KvSequence& sequence, std::span<const int32_t> tokens, int64_t hidden_from,
                const OnRows& on_rows, ForwardHooks* hooks = nullptr);
  // One more token for each of the sequences, all in one pass. hidden: [sequences, width].
  Status Step(std::span<KvSequence* const> sequences, std::span<const int32_t> tokens, float* hidden);

  Model& model() { return model_; }
  KvCache& cache() { return *cache_; }
  static constexpr int64_t kChunkRows = 512;  // the engine's largest step

 private:
  explicit Session(Model& model) : model_(model) {}
  Model& model_;
  SystemClock clock_;
  std::unique_ptr<KvCache> cache_;
  int64_t opened_ = 0;
  std::vector<Row> rows_;
  std::vector<float> hidden_;
};

// Multiplications of one token's way through the weights, without and with the head, and through attention
// over `context` entries; windows counted.
struct ModelWork {
  double layer_macs = 0, head_macs = 0;
  static ModelWork Of(const ModelSpec& spec);
};
double AttentionMacs(const ModelSpec& spec, int64_t context);

}  // namespace larder
