#include "larder/session.h"

#include <algorithm>
#include <string>
#include <utility>

namespace larder {
namespace {

// Bytes of the rows in whole blocks, and slack for one partly filled block a sequence and for the cache's
// tables.
uint64_t CacheBytes(const KvShape& shape, int64_t rows, int64_t sequences) {
  uint64_t block_set = 0;
  for (size_t kind = 0; kind < shape.kinds().size(); ++kind)
    block_set += shape.BlockBytes(static_cast<int>(kind));
  const auto blocks = static_cast<uint64_t>((rows + kPageTokens - 1) / kPageTokens + 2);
  const uint64_t payload = blocks * static_cast<uint64_t>(sequences) * block_set;
  return payload + payload / 8 + (64u << 20);
}

}  // namespace

Result<std::unique_ptr<Session>> Session::Create(Model& model, int64_t rows, int64_t sequences) {
  if (rows > model.spec().context)
    return Fail(ErrorKind::kInvalid, "{} tokens are asked for, but the model's context has {}", rows,
                model.spec().context);
  std::unique_ptr<Session> session(new Session(model));
  KvCacheOptions options;
  options.limit_bytes = CacheBytes(model.kv_shape(), rows, sequences);
  LARDER_ASSIGN(session->cache_,
                KvCache::Create(model.kv_shape(), model.kv_identity(), options, &session->clock_));
  return session;
}

Result<std::unique_ptr<KvSequence>> Session::Open() {
  LARDER_ASSIGN(KvCache::Opened opened, cache_->Open("session-" + std::to_string(opened_++), {}));
  return std::move(opened.sequence);
}

void Session::Close(std::unique_ptr<KvSequence> sequence) {
  const std::string tenant = sequence->tenant();
  cache_->Close(std::move(sequence));
  cache_->Clear(tenant);
}

Status Session::Append(KvSequence& sequence, std::span<const int32_t> tokens, int64_t hidden_from,
                       const OnRows& on_rows, ForwardHooks* hooks) {
  while (!tokens.empty()) {
    const int64_t first = sequence.length();
    const auto chunk = tokens.subspan(0, std::min(tokens.size(), static_cast<size_t>(kChunkRows)));
    LARDER_TRY(cache_->Reserve(sequence, static_cast<int64_t>(chunk.size())));
    rows_.clear();
    int wanted = 0;
    for (size_t i = 0; i < chunk.size(); ++i) {
      Row row;
      row.token = chunk[i];
      row.position = static_cast<int32_t>(first + static_cast<int64_t>(i));
      row.kv = &sequence;
      row.wants_hidden = row.position >= hidden_from;
      wanted += row.wants_hidden;
      rows_.push_back(row);
    }
    hidden_.resize(static_cast<size_t>(wanted) * static_cast<size_t>(model_.spec().width));
    model_.Forward(rows_, hidden_.data(), hooks);
    cache_->Publish(sequence, chunk);
    if (wanted > 0) on_rows(first + static_cast<int64_t>(chunk.size()) - wanted, wanted, hidden_.data());
    tokens = tokens.subspan(chunk.size());
  }
  return {};
}

Status Session::Step(std::span<KvSequence* const> sequences, std::span<const int32_t> tokens, float* hidden) {
  rows_.clear();
  for (size_t i = 0; i < sequences.size(); ++i) {
    LARDER_TRY(cache_->Reserve(*sequences[i], 1));
    Row row;
    row.token = tokens[i];
    row.position = static_cast<int32_t>(sequences[i]->length());
    row.kv = sequences[i];
    row.wants_hidden = true;
    rows_.push_back(row);
  }
  model_.Forward(rows_, hidden);
  for (size_t i = 0; i < sequences.size(); ++i) cache_->Publish(*sequences[i], tokens.subspan(i, 1));
  return {};
}

ModelWork ModelWork::Of(const ModelSpec& spec) {
  const double width = spec.width, head = spec.head_dim;
  const double qkvo = width * head * (2.0 * spec.heads + 2.0 * spec.kv_heads);
  ModelWork work;
  work.layer_macs = static_cast<double>(spec.layers.size()) * (qkvo + 3.0 * width * spec.feed_forward);
  work.head_macs = width * static_cast<double>(spec.vocabulary);
  return work;
}

double AttentionMacs(const ModelSpec& spec, int64_t context) {
  double entries = 0;
  for (const LayerSpec& layer : spec.layers)
    entries += static_cast<double>(layer.window > 0 ? std::min<int64_t>(layer.window, context) : context);
  return 2.0 * spec.heads * spec.head_dim * entries;
}

}  // namespace larder
