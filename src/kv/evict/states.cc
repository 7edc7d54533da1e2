#include "kv/evict/states.h"

#include <algorithm>
#include <utility>

namespace larder {

namespace {

// Of a state, beside its pages and what their runs have paid for: tokens, lanes, names, lists.
uint64_t TableBytes(const KvShape& shape, int64_t tokens) {
  constexpr uint64_t kFixed = 1024, kLane = 256;
  const auto lanes = static_cast<uint64_t>(shape.layers()) * static_cast<uint64_t>(shape.kv_heads());
  return kFixed + lanes * kLane + static_cast<uint64_t>(tokens) * sizeof(int32_t);
}

}  // namespace

EvictState::~EvictState() {
  if (room_ == nullptr) return;
  room_->Return(bytes_);
  room_->Refund(table_bytes_);
}

EvictStates::EvictStates(const KvShape* shape, const KvIdentity& identity, DerivedRoom* room)
    : shape_(shape), names_(*shape, identity, nullptr), room_(room) {
  room->Add(this);
}

EvictStates::~EvictStates() { room_->Remove(this); }

Digest EvictStates::Name(const std::string& tenant, const std::string& method,
                         std::span<const int32_t> prompts, std::span<const int32_t> tokens) const {
  return FieldHasher()
      .Add("larder", std::string_view("kv-state"))
      .Add("version", kBlockNameVersion)
      .Add("root", names_.Root(0, tenant))
      .Add("method", std::string_view(method))
      .Add("prompts", prompts)
      .Add("tokens", tokens)
      .Finish();
}

void EvictStates::Keep(const std::string& tenant, std::span<const int32_t> tokens, EvictLeft left,
                       uint64_t begun) {
  if (room_->ForgottenSince(tenant, begun)) return;
  const Digest name = Name(tenant, left.method->spec(), left.prompts, tokens);
  if (const auto known = states_.find(name); known != states_.end()) {
    known->second->last_use_ = room_->Tick();  // the same bits
    return;
  }
  std::shared_ptr<EvictState> state(new EvictState(std::move(left)));
  state->name_ = name;
  state->tenant_ = tenant;
  state->tokens_.assign(tokens.begin(), tokens.end());
  const uint64_t tables = TableBytes(*shape_, state->rows());
  const uint64_t bytes = state->lanes().bytes() + tables;
  if (!room_->Take(bytes)) return Refuse();
  if (!room_->Charge(tables)) {
    room_->Return(bytes);
    return Refuse();
  }
  state->room_ = room_;
  state->bytes_ = bytes;
  state->table_bytes_ = tables;
  state->last_use_ = room_->Tick();
  states_[name] = std::move(state);
  ++stats_.stored;
}

std::shared_ptr<const EvictState> EvictStates::Find(const std::string& tenant, const std::string& method,
                                                    std::span<const int32_t> prompt) {
  EvictState* best = nullptr;
  for (const auto& [name, state] : states_) {
    if (state->tenant_ != tenant || state->method().spec() != method) continue;
    if (state->rows() >= std::ssize(prompt)) continue;
    if (best != nullptr && (state->rows() < best->rows() ||
                            (state->rows() == best->rows() && state->last_use_ < best->last_use_)))
      continue;
    if (!std::ranges::equal(state->tokens_, prompt.first(state->tokens_.size()))) continue;
    best = state.get();
  }
  if (best == nullptr) return nullptr;
  best->last_use_ = room_->Tick();
  ++stats_.hits;
  stats_.hit_tokens += static_cast<uint64_t>(best->rows());
  return states_.at(best->name());
}

std::vector<EvictStateListing> EvictStates::List(const std::string& tenant,
                                                 const std::optional<Digest>& after, size_t limit) const {
  std::vector<EvictStateListing> listed;
  for (auto it = after ? states_.upper_bound(*after) : states_.begin();
       it != states_.end() && listed.size() < limit; ++it) {
    const std::shared_ptr<EvictState>& state = it->second;
    if (state->tenant() != tenant) continue;
    listed.push_back({.name = state->name(),
                      .method = state->method().spec(),
                      .tokens = state->rows(),
                      .bytes = state->bytes_,
                      .held = state.use_count() > 1});
  }
  return listed;
}

EvictStates::States::const_iterator EvictStates::Oldest() const {
  auto oldest = states_.end();
  for (auto it = states_.begin(); it != states_.end(); ++it) {
    if (it->second.use_count() > 1) continue;
    if (oldest == states_.end() || it->second->last_use_ < oldest->second->last_use_) oldest = it;
  }
  return oldest;
}

std::optional<uint64_t> EvictStates::OldestUse() const {
  const auto oldest = Oldest();
  return oldest == states_.end() ? std::nullopt : std::optional(oldest->second->last_use_);
}

void EvictStates::DropOldest() {
  const auto oldest = Oldest();
  LARDER_CHECK(oldest != states_.end());
  states_.erase(oldest);
  ++stats_.evicted;
}

void EvictStates::Drop(const std::string& tenant) {
  std::erase_if(states_, [&](const auto& one) { return tenant.empty() || one.second->tenant() == tenant; });
}

EvictStateStats EvictStates::stats() const {
  EvictStateStats stats = stats_;
  stats.states = states_.size();
  for (const auto& [name, state] : states_) {
    stats.tokens += static_cast<uint64_t>(state->rows());
    stats.bytes += state->bytes_;
  }
  stats.limit_bytes = room_->limit_bytes();
  return stats;
}

}  // namespace larder
