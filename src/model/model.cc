#include "model/model.h"

#include <filesystem>
#include <thread>

#include "base/log.h"
#include "compute/probe.h"
#include "kv/codec/codec.h"
#include "kv/codec/means.h"
#include "model/forward.h"
#include "model/rope.h"
#include "model/weights.h"

namespace larder {

struct Model::Impl {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ThreadPool> pool;
  std::string name;
  ModelSpec spec;
  ModelOptions options;
  ModelWeights weights;
  KvShape kv_shape;
  Digest weights_digest, numerics;
  std::string codec_name;  // in the identity
  KeyTransform keys;
  std::unique_ptr<ForwardPass> forward;

  Status LoadWeights();
  Status DescribeKv();
  Status LoadMeans();
};

std::string KeyMeansFile(const Digest& weights) { return weights.ShortHex() + ".means"; }

// Shape and codec of the cache.
Status Model::Impl::DescribeKv() {
  std::vector<int> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.window);
  std::shared_ptr<const KvCodec> codec;
  codec_name = options.kv_type == KvType::kI16 ? "i16" : "f32";
  if (!options.kv_codec.empty()) {
    LARDER_ASSIGN(codec, CreateKvCodec(options.kv_codec, spec.head_dim));
    codec_name = codec->name();
    keys.rotation = codec->rotation();
  }
  LARDER_ASSIGN(kv_shape, KvShape::Create(windows, spec.kv_heads, spec.head_dim, options.kv_type, codec));
  return {};
}

// REQUIRES: the weights' digest is known.
Status Model::Impl::LoadMeans() {
  std::string path = options.key_means;
  if (std::filesystem::is_directory(path)) path += "/" + KeyMeansFile(weights_digest);
  auto means = KeyMeans::Read(path);
  if (!means && (path.empty() || means.error().kind == ErrorKind::kNotFound)) {
    return Fail(
        ErrorKind::kNotFound,
        "{} takes the mean of this model's keys away and does not know it: run larder calibrate --model "
        "FILE --text FILE once, or take center=0",
        codec_name);
  }
  if (!means) return std::unexpected(std::move(means).error());
  if (means->weights != weights_digest || means->layers != kv_shape.layers() ||
      means->kv_heads != spec.kv_heads || means->head_dim != spec.head_dim) {
    return Fail(ErrorKind::kInvalid,
                "the key means in {} are another model's; run larder calibrate for this one", path);
  }
  codec_name += ",means=" + means->digest().Hex();
  keys.means = std::move(means->values);
  return {};
}

// From packed weights that were kept; else they are packed, kept, and then used as the next start will.
Status Model::Impl::LoadWeights() {
  const PackedPlaces places(*file->mapped(),
                            options.math == MathMode::kFast ? options.packed : PackedOptions{});
  if (auto packed = places.Find(*pool)) {
    const Digest digest = packed->source_digest();
    auto mapped = MapWeights(*file, spec, std::move(packed));
    if (mapped) {
      weights_digest = digest;
      weights = *std::move(mapped);
      return {};
    }
    LogInfo("packed weights are not used: {}", mapped.error().message);
  }
  // Hashing the file runs beside packing it.
  std::jthread hashing([this] { weights_digest = Sha256(file->bytes()); });
  std::vector<PackedMatrix> made;
  LARDER_ASSIGN(weights, PackWeights(*file, spec, options.math, *pool, options.progress, &made));
  hashing.join();
  if (auto packed = places.Keep(weights_digest, made, *pool)) {
    if (auto mapped = MapWeights(*file, spec, std::move(packed))) weights = *std::move(mapped);
  }
  return {};
}

Model::Model(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Model::~Model() = default;

Result<std::unique_ptr<Model>> Model::Load(const std::string& path, ModelOptions options) {
  auto impl = std::make_unique<Impl>();
  Impl& m = *impl;
  m.options = std::move(options);
  LARDER_ASSIGN(m.file, GgufFile::Open(path));
  LARDER_ASSIGN(m.spec, DescribeModel(*m.file));
  LARDER_ASSIGN(m.tokenizer, Tokenizer::Load(*m.file));
  if (m.tokenizer->size() > m.spec.vocabulary) {
    return Fail(ErrorKind::kInvalid, "tokenizer.ggml.tokens has {} entries, token_embd.weight has {} rows",
                m.tokenizer->size(), m.spec.vocabulary);
  }
  m.name = m.file->StringOr("general.name", "");
  if (m.name.empty()) m.name = std::filesystem::path(path).stem().string();
  LARDER_TRY(m.DescribeKv());
  m.pool = std::make_unique<ThreadPool>(m.options.threads > 0 ? m.options.threads : AvailableCores());
  LARDER_TRY(m.LoadWeights());
  if (m.kv_shape.codec() != nullptr && m.kv_shape.codec()->centred()) LARDER_TRY(m.LoadMeans());
  m.numerics = NumericsProbe(m.options.math, *m.pool);
  m.forward = std::make_unique<ForwardPass>(m.spec, m.weights, m.options.kv_type, m.keys, *m.pool);
  return std::unique_ptr<Model>(new Model(std::move(impl)));
}

const ModelSpec& Model::spec() const { return impl_->spec; }
const Tokenizer& Model::tokenizer() const { return *impl_->tokenizer; }
const GgufFile& Model::file() const { return *impl_->file; }
const KvShape& Model::kv_shape() const { return impl_->kv_shape; }
const KeyTransform& Model::key_transform() const { return impl_->keys; }
const Digest& Model::weights_digest() const { return impl_->weights_digest; }
MathMode Model::math() const { return impl_->options.math; }
uint64_t Model::weight_bytes() const { return impl_->weights.bytes(); }
const std::string& Model::packed_path() const {
  static const std::string none;
  return impl_->weights.packed ? impl_->weights.packed->path() : none;
}
ThreadPool& Model::pool() { return *impl_->pool; }
const std::string& Model::name() const { return impl_->name; }
uint64_t Model::attention_pages_read() const { return impl_->forward->attention().pages_read(); }

KvIdentity Model::kv_identity() const {
  return {.weights = impl_->weights_digest,
          .tokenizer = impl_->tokenizer->digest(),
          .rope = RopeDigest(impl_->spec),
          .numerics = impl_->numerics,
          .codec = impl_->codec_name,
          .adapter = "",
          .layer_map = ""};
}

void Model::Forward(std::span<const Row> rows, float* hidden, ForwardHooks* hooks) {
  impl_->forward->Run(rows, hidden, hooks);
}
void Model::Logits(const float* hidden, int rows, float* logits) {
  impl_->forward->Logits(hidden, rows, logits);
}

}  // namespace larder
