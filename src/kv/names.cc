#include "kv/names.h"

#include <utility>

namespace larder {
namespace {

Digest KindIdentity(const KvShape& shape, const KvIdentity& identity, const KvKind& kind) {
  const std::vector<int32_t> layers(kind.layers.begin(), kind.layers.end());
  return FieldHasher()
      .Add("larder", std::string_view("kv-kind"))
      .Add("version", kBlockNameVersion)
      .Add("weights", identity.weights)
      .Add("tokenizer", identity.tokenizer)
      .Add("rope", identity.rope)
      .Add("numerics", identity.numerics)
      .Add("codec", std::string_view(identity.codec))
      .Add("adapter", std::string_view(identity.adapter))
      .Add("layer-map", std::string_view(identity.layer_map))
      .Add("layers", static_cast<uint64_t>(shape.layers()))
      .Add("kv-heads", static_cast<uint64_t>(shape.kv_heads()))
      .Add("head-dim", static_cast<uint64_t>(shape.head_dim()))
      .Add("kind", std::string_view(kind.name))
      .Add("window", static_cast<uint64_t>(kind.window))
      .Add("kind-layers", std::span<const int32_t>(layers))
      .Finish();
}

}  // namespace

NameChain::NameChain(const KvShape& shape, const KvIdentity& identity,
                     std::function<Digest(const Digest&)> weaken)
    : weaken_(std::move(weaken)) {
  for (const KvKind& kind : shape.kinds()) kinds_.push_back(KindIdentity(shape, identity, kind));
}

Digest NameChain::Root(int kind, std::string_view tenant) const {
  return FieldHasher()
      .Add("larder", std::string_view("kv-root"))
      .Add("kind", kinds_[static_cast<size_t>(kind)])
      .Add("tenant", tenant)
      .Finish();
}

Digest NameChain::OfKind(int kind, const Digest& name) const {
  return FieldHasher()
      .Add("larder", std::string_view("kv-other-kind"))
      .Add("kind", kinds_[static_cast<size_t>(kind)])
      .Add("block", name)
      .Finish();
}

Digest NameChain::Block(const Digest& parent, std::span<const int32_t> tokens) const {
  const Digest name = FieldHasher()
                          .Add("larder", std::string_view("kv-block"))
                          .Add("parent", parent)
                          .Add("rows", static_cast<uint64_t>(tokens.size()))
                          .Add("tokens", tokens)
                          .Finish();
  return weaken_ ? weaken_(name) : name;
}

}  // namespace larder
