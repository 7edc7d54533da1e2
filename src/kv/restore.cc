#include "kv/restore.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/log.h"
#include "kv/block_record.h"
#include "kv/cache_impl.h"
#include "kv/tiers.h"

namespace larder {
namespace {

constexpr size_t kChildren = 64;         // of a block that are looked at for a tail
constexpr double kMostFindMs = 250;      // a tier that takes longer to say what it has has nothing
constexpr double kMostReadMs = 120'000;  // a read takes no longer, however slow computing is
constexpr int64_t kRowsBeside = 64;      // worth computing before everything is here
constexpr double kNewShare = 0.3;        // of a new measurement in the estimate
constexpr double kLeastFixedMs = 0.05;   // of an estimate: two threads are woken
constexpr double kMostOff = 7;           // e to that is how far off one measurement may be
constexpr uint64_t kMeasureAgain = 16;   // of so many restores that are not worth it, one is tried

int64_t RowsOf(std::span<const int32_t> tokens) { return static_cast<int64_t>(tokens.size()); }

}  // namespace

KvRestore::~KvRestore() {
  if (tiers_ != nullptr) tiers_->Abandon(*this);
}

bool KvRestore::WaitForLayer(int kind, int index) {
  LARDER_CHECK(kind == 0);  // only models whose layers are all alike start early
  const auto group = static_cast<uint32_t>(index / layers_per_group_);
  std::unique_lock lock(progress_->mutex);
  progress_->changed.wait(lock, [&] {
    return progress_->failed ||
           std::ranges::all_of(progress_->groups, [&](uint32_t done) { return done > group; });
  });
  return !progress_->failed;
}

std::span<const int32_t> KvTiers::TokensOf(const KvRestore& restore, size_t block) const {
  const size_t begin = block * kPageTokens;
  const bool tail = !restore.tail_tokens_.empty() && block + 1 == restore.blocks_.size();
  return tail ? std::span(restore.tail_tokens_)
              : std::span(restore.tokens_).subspan(begin, static_cast<size_t>(kPageTokens));
}

KvForm KvTiers::FormOf(const KvRestore& restore, size_t block) const {
  return TokensOf(restore, block).size() < kPageTokens ? KvForm::kRows
                                                       : cache_.shape.FullForm(static_cast<int64_t>(block));
}

const Digest& KvTiers::ParentName(const KvRestore& restore, size_t block) const {
  return block > 0 ? restore.blocks_[block - 1].name
                   : cache_.tenants[static_cast<size_t>(restore.tenant_)]->root.name;
}

std::shared_ptr<KvRestore> KvTiers::Begin(int32_t tenant, std::span<const int32_t> tokens,
                                          RecomputeMs recompute_ms, ReadPriority priority, bool whole) {
  auto& owner = *cache_.tenants[static_cast<size_t>(tenant)];
  if (!owner.space || owner.retired || options_.tiers.empty()) return nullptr;
  DropAbandoned();
  const KvCache::Impl::Match match = cache_.FindMatch(owner.root, tokens);
  const int64_t usable = cache_.ReusableRows(match.path, match.rows, RowsOf(tokens));
  if (usable == RowsOf(tokens)) return nullptr;

  Restore restore(new KvRestore(this, tenant, tokens));
  restores_.insert(restore.get());
  ++owner.sequences;  // keeps the tenant
  restore->recompute_ms_ = std::move(recompute_ms);
  restore->priority_ = priority;
  restore->whole_ = whole;
  restore->memory_rows_ = usable;
  restore->wanted_rows_ = RowsOf(tokens);  // at most
  const bool in_codes = match.next.rows > 0 && cache_.shape.codec() != nullptr && match.next.child->sealed();
  restore->rows_after_path_ = in_codes ? 0 : match.next.rows;
  restore->path_.assign(match.path.begin(), match.path.end() - (match.next.rows > 0));
  if (!restore->path_.empty()) {
    restore->held_ = restore->path_.back();
    HoldChain(*restore->held_);
  }
  restore->blocks_.resize(tokens.size() / kPageTokens);
  for (size_t b = 0; b < restore->blocks_.size(); ++b) {
    restore->blocks_[b].name = b < restore->path_.size()
                                   ? restore->path_[b]->name
                                   : cache_.names.Block(ParentName(*restore, b), TokensOf(*restore, b));
  }
  const size_t known = restore->path_.size();
  if (known < restore->blocks_.size()) {
    const auto other = reading_.find(restore->blocks_[known].name);
    if (other != reading_.end()) restore->joined_ = other->second.lock();
    if (restore->joined_ != nullptr) return restore;
  }
  for (size_t b = known; b < restore->blocks_.size(); ++b) {
    reading_[restore->blocks_[b].name] = restore;
    restore->registered_.push_back(restore->blocks_[b].name);
  }
  for (size_t b = 0; b < restore->blocks_.size(); ++b) {
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      const bool resident = b < known && cache_.KindBytes(*restore->path_[b], kind) > 0;
      if (!resident) restore->asked_.emplace_back(b, kind);
    }
  }
  Find(restore, &KvTiers::AskTails);
  return restore;
}

// Until when a tier may take with its next answer: waiting for longer than computing takes would help nobody,
// and what was waited already counts. However fast computing is, a tier has kLeastWaitMs.
int64_t KvTiers::AnswerBy(const KvRestore& restore, double most_ms) const {
  double limit_ms = std::clamp(RecomputeMsOf(restore), kLeastWaitMs, most_ms);
  if (restore.recompute_ms_) limit_ms = std::max(limit_ms - restore.waited_ms_, kLeastWaitMs);
  return cache_.clock->NowNs() + static_cast<int64_t>(limit_ms * 1e6);
}

void KvTiers::Asked(KvRestore& restore) {
  restore.answers_left_ = static_cast<int>(options_.tiers.size());
  restore.asked_ns_ = restore.answered_ns_ = cache_.clock->NowNs();
}

// An answer came at `at_ns`; the engine may have been busy since, which is not the tier's time.
bool KvTiers::LastAnswer(KvRestore& restore, int64_t at_ns) {
  restore.answered_ns_ = std::max(restore.answered_ns_, at_ns);
  if (--restore.answers_left_ > 0) return false;
  restore.waited_ms_ += static_cast<double>(restore.answered_ns_ - restore.asked_ns_) / 1e6;
  return true;
}

// Asks all tiers for what is in asked_, then goes on.
void KvTiers::Find(const Restore& restore, void (KvTiers::*next)(const Restore&)) {
  if (restore->asked_.empty()) return (this->*next)(restore);
  std::vector<Digest> names;
  for (const auto& [block, kind] : restore->asked_) {
    names.push_back(RecordName(kind, restore->blocks_[block].name));
  }
  Asked(*restore);
  const int64_t deadline_ns = AnswerBy(*restore, kMostFindMs);
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    options_.tiers[tier]->Find(
        names, deadline_ns,
        [inbox = inbox_, clock = cache_.clock, weak = std::weak_ptr(restore), tier,
         next](Result<std::vector<bool>> here) {
          inbox->Post([weak, tier, next, at_ns = clock->NowNs(), here = std::move(here)](KvTiers& tiers) {
            const Restore found = weak.lock();
            if (found == nullptr) return;
            tiers.Found(found, tier, here);
            if (tiers.LastAnswer(*found, at_ns)) (tiers.*next)(found);
          });
        });
  }
}

void KvTiers::Found(const Restore& restore, size_t tier, const Result<std::vector<bool>>& here) {
  if (!here) {
    restore->slow_ |= here.error().kind == ErrorKind::kSlow;
    return;
  }
  for (size_t i = 0; i < restore->asked_.size(); ++i) {
    const auto [block, kind] = restore->asked_[i];
    int8_t& has = restore->blocks_[block].tier[static_cast<size_t>(kind)];
    if ((*here)[i] && (has < 0 || has > static_cast<int8_t>(tier))) has = static_cast<int8_t>(tier);
  }
}

// Blocks behind a gap are of no use; what follows the last one before it may be a tail, or a block of another
// text that agrees for some rows.
void KvTiers::AskTails(const Restore& restore) {
  size_t end = restore->path_.size();
  const auto kind = static_cast<size_t>(cache_.name_kind);
  while (end < restore->blocks_.size() && restore->blocks_[end].tier[kind] >= 0) ++end;
  restore->blocks_.resize(end);
  restore->phase_ = KvRestore::Phase::kTails;
  if (static_cast<int64_t>(end) * kPageTokens == RowsOf(restore->tokens_)) return Plan(restore);
  Asked(*restore);
  const int64_t deadline_ns = AnswerBy(*restore, kMostFindMs);
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    options_.tiers[tier]->Children(
        ParentName(*restore, end), kChildren, deadline_ns,
        [inbox = inbox_, clock = cache_.clock, weak = std::weak_ptr(restore),
         tier](Result<std::vector<RecordHeader>> children) {
          inbox->Post([weak, tier, at_ns = clock->NowNs(), children = std::move(children)](KvTiers& tiers) {
            const Restore found = weak.lock();
            if (found == nullptr) return;
            tiers.TailsFound(found, tier, children);
            if (tiers.LastAnswer(*found, at_ns)) tiers.AskOlderTails(found);
          });
        });
  }
}

// The tail that is best so far stands behind the full blocks.
size_t KvTiers::FullBlocks(const KvRestore& restore) const {
  return restore.blocks_.size() - !restore.tail_tokens_.empty();
}

// Rows behind the full blocks that are known of.
int64_t KvTiers::TailRows(const KvRestore& restore) const {
  const int64_t known = FullBlocks(restore) == restore.path_.size() ? restore.rows_after_path_ : 0;
  return std::max(known, restore.tail_rows_);
}

void KvTiers::TakeTail(KvRestore& restore, size_t tier, const Digest& name, std::vector<int32_t> tokens,
                       int64_t rows) const {
  const size_t end = FullBlocks(restore);
  restore.blocks_.resize(end + 1);
  restore.blocks_[end].name = name;
  restore.blocks_[end].tier[static_cast<size_t>(cache_.name_kind)] = static_cast<int8_t>(tier);
  restore.tail_rows_ = rows;
  restore.tail_tokens_ = std::move(tokens);
}

void KvTiers::TailsFound(const Restore& restore, size_t tier,
                         const Result<std::vector<RecordHeader>>& children) {
  if (!children) return;
  if (children->size() >= kChildren) restore->more_children_ |= static_cast<uint8_t>(1u << tier);
  const size_t end = FullBlocks(*restore);
  const Digest parent = ParentName(*restore, end);
  const auto rest = std::span(restore->tokens_).subspan(end * kPageTokens);
  for (const RecordHeader& child : *children) {
    if (child.kind != kKvBlockRecord || child.parent != parent) continue;
    auto tokens = DecodeBlockMetadata(child.metadata);
    if (!tokens) continue;
    // Of codes, only whole blocks are of use.
    if (cache_.shape.codec() != nullptr && tokens->size() == kPageTokens) continue;
    const int64_t rows = CommonPrefix(*tokens, rest);
    if (rows <= TailRows(*restore) || child.name != cache_.names.Block(parent, *tokens)) continue;
    TakeTail(*restore, tier, child.name, *std::move(tokens), rows);
  }
}

// A tier tells only the newest children of a block. An older one that this text goes on from whole has a name
// that is known beforehand: one for each length that is longer than what was found.
void KvTiers::AskOlderTails(const Restore& restore) {
  const size_t end = FullBlocks(*restore);
  const Digest parent = ParentName(*restore, end);
  const auto rest = std::span(restore->tokens_).subspan(end * kPageTokens);
  std::vector<Digest> names;  // by rows, from one more than those known on
  for (int64_t rows = TailRows(*restore) + 1; rows <= std::min<int64_t>(RowsOf(rest), kPageTokens - 1);
       ++rows)
    names.push_back(cache_.names.Block(parent, rest.first(static_cast<size_t>(rows))));
  if (restore->more_children_ == 0 || names.empty()) return AskTailWindows(restore);
  Asked(*restore);
  restore->answers_left_ = std::popcount(restore->more_children_);
  const int64_t deadline_ns = AnswerBy(*restore, kMostFindMs);
  for (size_t tier = 0; tier < options_.tiers.size(); ++tier) {
    if ((restore->more_children_ >> tier & 1) == 0) continue;
    options_.tiers[tier]->Find(
        names, deadline_ns,
        [inbox = inbox_, clock = cache_.clock, weak = std::weak_ptr(restore), tier,
         names](Result<std::vector<bool>> here) {
          inbox->Post([weak, tier, names, at_ns = clock->NowNs(), here = std::move(here)](KvTiers& tiers) {
            const Restore found = weak.lock();
            if (found == nullptr) return;
            tiers.OlderTailsFound(*found, tier, names, here);
            if (tiers.LastAnswer(*found, at_ns)) tiers.AskTailWindows(found);
          });
        });
  }
}

void KvTiers::OlderTailsFound(KvRestore& restore, size_t tier, std::span<const Digest> names,
                              const Result<std::vector<bool>>& here) const {
  if (!here) return;
  const auto rest = std::span(restore.tokens_).subspan(FullBlocks(restore) * kPageTokens);
  const int64_t most = std::min<int64_t>(RowsOf(rest), kPageTokens - 1);
  for (size_t i = names.size(); i-- > 0;) {
    const int64_t rows = most - static_cast<int64_t>(names.size() - 1 - i);
    if (!(*here)[i] || rows <= TailRows(restore)) continue;
    const auto tokens = rest.first(static_cast<size_t>(rows));
    return TakeTail(restore, tier, names[i], {tokens.begin(), tokens.end()}, rows);
  }
}

void KvTiers::AskTailWindows(const Restore& restore) {
  restore->phase_ = KvRestore::Phase::kWindows;
  restore->asked_.clear();
  if (!restore->tail_tokens_.empty()) {
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      if (kind != cache_.name_kind) restore->asked_.emplace_back(restore->blocks_.size() - 1, kind);
    }
  }
  Find(restore, &KvTiers::Plan);
}

// --- what to read

bool KvTiers::Available(const KvRestore& restore, size_t block, int kind) const {
  if (block < restore.path_.size() && cache_.KindBytes(*restore.path_[block], kind) > 0) return true;
  return restore.blocks_[block].tier[static_cast<size_t>(kind)] >= 0;
}

// The most rows that memory and tiers together can resume after.
int64_t KvTiers::Reachable(const KvRestore& restore) const {
  const size_t full = restore.blocks_.size() - !restore.tail_tokens_.empty();
  int64_t rows = static_cast<int64_t>(full) * kPageTokens + restore.tail_rows_;
  // Of codes the last block is of no use to a text that ends with it.
  if (cache_.shape.codec() != nullptr && restore.tail_rows_ == 0 && rows == RowsOf(restore.tokens_))
    rows = std::max<int64_t>(0, rows - kPageTokens);
  for (bool changed = true; changed && rows > 0;) {
    changed = false;
    for (int kind = 0; kind < cache_.kinds() && rows > 0; ++kind) {
      if (cache_.window(kind) == 0) continue;
      const int64_t first = WindowStart(rows, cache_.window(kind)) / kPageTokens;
      for (int64_t block = (rows - 1) / kPageTokens; block >= first; --block) {
        if (Available(restore, static_cast<size_t>(block), kind)) continue;
        rows = block * kPageTokens;
        changed = true;
        break;
      }
    }
  }
  return rows;
}

// Cuts the text to `rows` rows.
void KvTiers::Cut(KvRestore& restore, int64_t rows) const {
  const size_t blocks = KvCache::Impl::BlocksFor(rows);
  if (blocks < restore.blocks_.size()) {
    restore.blocks_.resize(blocks);
    restore.tail_tokens_.clear();
    restore.tail_rows_ = 0;
  }
  restore.wanted_rows_ = rows;
}

// Whether a block must be read to resume after the wanted rows.
bool KvTiers::Wanted(const KvRestore& restore, size_t block, int kind) const {
  if (restore.blocks_[block].tier[static_cast<size_t>(kind)] < 0) return false;
  if (block < restore.path_.size() && cache_.KindBytes(*restore.path_[block], kind) > 0) return false;
  return cache_.window(kind) == 0 ||
         static_cast<int64_t>(block) >= WindowStart(restore.wanted_rows_, cache_.window(kind)) / kPageTokens;
}

bool KvTiers::WorthReading(const KvRestore& restore) const {
  double read_ms = 0;
  std::array<bool, kMaxTiers> used{};
  for (size_t b = 0; b < restore.blocks_.size(); ++b) {
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      if (!Wanted(restore, b, kind)) continue;
      const auto tier = static_cast<size_t>(restore.blocks_[b].tier[static_cast<size_t>(kind)]);
      read_ms +=
          static_cast<double>(cache_.shape.BlockBytes(kind, FormOf(restore, b))) / rates_[tier].bytes_per_ms;
      if (!std::exchange(used[tier], true)) read_ms += rates_[tier].fixed_ms;
    }
  }
  return read_ms <= RecomputeMsOf(restore);
}

double KvTiers::RecomputeMsOf(const KvRestore& restore) const {
  if (!restore.recompute_ms_) return kMostReadMs;
  return restore.recompute_ms_(restore.memory_rows_, restore.wanted_rows_ - restore.memory_rows_);
}

void KvTiers::Plan(const Restore& restore) {
  Cut(*restore, Reachable(*restore));
  if (restore->wanted_rows_ <= restore->memory_rows_) return Finish(*restore);
  // Now and then it is read all the same: a tier that was slow once would never be measured again.
  if (!WorthReading(*restore) && ++not_worth_ % kMeasureAgain != 0) {
    restore->slow_ = true;
    return Finish(*restore);
  }
  // What does not fit beside running sequences is not read; the first blocks are worth the most.
  while (!TakeMemory(*restore)) {
    Cut(*restore, restore->wanted_rows_ * 3 / 4 / kPageTokens * kPageTokens);
    Cut(*restore, Reachable(*restore));
    if (restore->wanted_rows_ <= restore->memory_rows_) return Finish(*restore);
  }
  restore->phase_ = KvRestore::Phase::kReading;
  Read(restore);
}

bool KvTiers::TakeMemory(KvRestore& restore) {
  BlockCounts counts{};
  for (size_t b = 0; b < restore.blocks_.size(); ++b) {
    const auto form = static_cast<size_t>(FormOf(restore, b));
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      counts[static_cast<size_t>(kind)][form] += Wanted(restore, b, kind);
    }
  }
  const size_t known = std::min(restore.path_.size(), restore.blocks_.size());
  const uint64_t metadata = (restore.blocks_.size() - known) * cache_.node_cost;
  if (!cache_.MakeRoomFor(counts, metadata)) return false;
  cache_.metadata_bytes += metadata;
  restore.charged_metadata_ = metadata;
  for (size_t b = 0; b < restore.blocks_.size(); ++b) {
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      if (!Wanted(restore, b, kind)) continue;
      // Refused by the operating system: a hole; what comes before it is still good.
      if (auto memory = cache_.pool.Take(kind, FormOf(restore, b))) {
        restore.blocks_[b].memory[static_cast<size_t>(kind)] = *std::move(memory);
      }
    }
  }
  return true;
}

// --- reading

void KvTiers::Read(const Restore& restore) {
  // Of the forms of full blocks the one with the fewest; a tail is read whole before anything begins.
  restore->layers_per_group_ = cache_.shape.layers();
  for (const int64_t index : {0, 1}) {
    const KvForm form = cache_.shape.FullForm(index);
    restore->layers_per_group_ =
        std::min(restore->layers_per_group_, LayersPerGroup(cache_.shape, 0, form, options_.group_bytes));
  }
  for (const bool tail : {true, false}) {
    for (size_t tier = 0; tier < options_.tiers.size(); ++tier) StartReading(restore, tier, tail);
  }
  if (restore->readings_.empty()) return Land(*restore);
  open_reads_.push_back(restore);
}

void KvTiers::StartReading(const Restore& restore, size_t tier, bool tail) {
  auto reading = std::make_shared<KvRestore::Reading>();
  std::vector<RecordRead> reads;
  const bool has_tail = !restore->tail_tokens_.empty();
  for (size_t b = 0; b < restore->blocks_.size(); ++b) {
    if ((has_tail && b + 1 == restore->blocks_.size()) != tail) continue;
    KvRestore::Block& block = restore->blocks_[b];
    for (int kind = 0; kind < cache_.kinds(); ++kind) {
      const auto k = static_cast<size_t>(kind);
      if (block.memory[k].size() == 0 || block.tier[k] != static_cast<int8_t>(tier)) continue;
      const auto tokens = TokensOf(*restore, b);
      reading->items.push_back(
          {b,
           kind,
           RecordName(kind, block.name),
           kind == cache_.name_kind ? ParentName(*restore, b) : Digest{},
           {tokens.begin(), tokens.end()},
           BlockGroupBytes(cache_.shape, kind, FormOf(*restore, b), options_.group_bytes)});
      const size_t bytes = block.memory[k].size();
      reads.push_back({.name = reading->items.back().name, .destination = {block.memory[k].data(), bytes}});
      reading->bytes += bytes;
    }
  }
  if (reads.empty()) return;
  reading->tier = tier;
  reading->tail = tail;
  reading->number = restore->readings_.size();
  reading->status.resize(reads.size());
  reading->begin_ns = cache_.clock->NowNs();
  restore->readings_.push_back(reading);
  const auto progress = restore->progress_;
  {
    std::lock_guard lock(progress->mutex);
    progress->groups.push_back(0);
  }

  GetCallbacks callbacks;
  // A hit is verified: the tokens and the parent, not only the name.
  callbacks.accept = [reading](size_t index, const RecordHeader& header) -> Status {
    const KvRestore::Item& item = reading->items[index];
    LARDER_ASSIGN(const auto tokens, DecodeBlockMetadata(header.metadata));
    if (header.kind != kKvBlockRecord || header.parent != item.parent || tokens != item.tokens ||
        header.group_bytes != item.group_bytes) {
      return Fail(ErrorKind::kConflict, "record {} is of another text or layout", header.name.ShortHex());
    }
    reading->groups = std::max(reading->groups, static_cast<uint32_t>(item.group_bytes.size()));
    return {};
  };
  // With the last group all is known; the tier may take longer to be done with a read that it gave up.
  callbacks.group_done = [reading, progress, inbox = inbox_, clock = cache_.clock,
                          weak = std::weak_ptr(restore)](uint32_t group, std::span<const Status> items) {
    if (reading->told) return;  // of a record that was refused
    reading->told = group + 1 >= reading->groups;
    reading->end_ns = clock->NowNs();
    bool failed = false;
    for (size_t i = 0; i < items.size(); ++i) {
      if (!items[i] && reading->status[i]) reading->status[i] = items[i];
      failed |= !items[i];
    }
    {
      std::lock_guard lock(progress->mutex);
      progress->failed |= failed;
      progress->groups[reading->number] = reading->told ? UINT32_MAX : group + 1;
    }
    progress->changed.notify_all();
    if (!reading->told && (group > 0 || failed)) return;
    inbox->Post([weak, reading, over = reading->told](KvTiers& tiers) {
      const Restore read = weak.lock();
      if (read == nullptr) return;
      if (over) {
        tiers.ReadOver(read, *reading);
      } else {
        tiers.GroupsArrived(read);
      }
    });
  };
  callbacks.done = [inbox = inbox_, progress, weak = std::weak_ptr(restore), reading] {
    {
      std::lock_guard lock(progress->mutex);
      progress->groups[reading->number] = UINT32_MAX;
    }
    progress->changed.notify_all();
    inbox->Post([weak, reading](KvTiers& tiers) {
      // Kept alive by open_reads_ until all of its reads have ended.
      if (const Restore read = weak.lock()) tiers.ReadEnded(read, *reading);
    });
  };
  reading->ticket = options_.tiers[tier]->Get(std::move(reads), AnswerBy(*restore, kMostReadMs),
                                              restore->priority_, std::move(callbacks));
}

// Both terms of the estimate go a step towards what was measured, each by its share in it (descent on the
// squared error of the logarithm): small reads teach the fixed part, large ones the rate, and who was slow is
// believed to be fast again after as many reads as it took to lose belief.
void KvTiers::Learn(const KvRestore::Reading& reading) {
  uint64_t arrived = 0;
  bool slow = false;
  for (size_t i = 0; i < reading.items.size(); ++i) {
    const Status& status = reading.status[i];
    if (!status && status.error().kind == ErrorKind::kCancelled) return;
    slow |= !status && status.error().kind == ErrorKind::kSlow;
    for (const uint64_t bytes : reading.items[i].group_bytes) arrived += status ? bytes : 0;
  }
  Rate& rate = rates_[reading.tier];
  const double ms = static_cast<double>(reading.end_ns - reading.begin_ns) / 1e6;
  const auto bytes = static_cast<double>(slow ? reading.bytes : arrived);
  const double moving_ms = bytes / rate.bytes_per_ms, estimate_ms = rate.fixed_ms + moving_ms;
  // Of what was given up only the least time is known.
  if (bytes == 0 || ms <= 0 || (slow && ms < estimate_ms)) return;
  const double step = kNewShare * std::clamp(std::log(ms / estimate_ms), -kMostOff, kMostOff) / estimate_ms;
  rate.bytes_per_ms /= std::exp(step * moving_ms);
  rate.fixed_ms = std::max(rate.fixed_ms * std::exp(step * rate.fixed_ms), kLeastFixedMs);
}

void KvTiers::ReadOver(const Restore& restore, KvRestore::Reading& reading) {
  if (std::exchange(reading.over, true)) return;
  for (size_t i = 0; i < reading.items.size(); ++i) {
    if (reading.status[i]) continue;
    const KvRestore::Item& item = reading.items[i];
    const Error& error = reading.status[i].error();
    restore->slow_ |= error.kind == ErrorKind::kSlow || error.kind == ErrorKind::kIo ||
                      error.kind == ErrorKind::kUnavailable || error.kind == ErrorKind::kCorrupt;
    if (error.kind == ErrorKind::kConflict) ++cache_.totals.collisions;
    AlignedBuffer& memory = restore->blocks_[item.block].memory[static_cast<size_t>(item.kind)];
    if (memory.size() > 0) restore->late_.emplace_back(item.kind, std::exchange(memory, {}));
  }
  Learn(reading);
  const auto over = [](const auto& other) { return other->over; };
  if (!std::ranges::all_of(restore->readings_, over)) return GroupsArrived(restore);
  if (restore->started_) {
    Arrived(*restore);
  } else {
    Land(*restore);
  }
}

// The tier touches no destination any more.
void KvTiers::ReadEnded(const Restore& restore, KvRestore::Reading& reading) {
  ReadOver(restore, reading);
  reading.ended = true;
  if (!std::ranges::all_of(restore->readings_, [](const auto& other) { return other->ended; })) return;
  ReturnLate(*restore);
  std::erase(open_reads_, restore);
}

// With something to compute beside the reading, it may begin when the first groups and all of the tail are
// here.
void KvTiers::GroupsArrived(const Restore& restore) {
  const int64_t beside = RowsOf(restore->tokens_) - restore->wanted_rows_;
  if (restore->phase_ != KvRestore::Phase::kReading || restore->started_ || restore->whole_ ||
      cache_.kinds() > 1 || beside < kRowsBeside) {
    return;
  }
  {
    std::lock_guard lock(restore->progress_->mutex);
    if (restore->progress_->failed) return;
    for (const auto& reading : restore->readings_) {
      if (restore->progress_->groups[reading->number] == 0 || (reading->tail && !reading->over)) return;
    }
  }
  restore->started_ = true;
  Land(*restore);
}

// All that was begun with is here, or it is known what is not.
void KvTiers::Arrived(KvRestore& restore) {
  const bool failed = std::ranges::any_of(restore.readings_, [](const auto& reading) {
    return std::ranges::any_of(reading->status, [](const Status& status) { return !status; });
  });
  // After a failure the nodes stay marked until their request has let go of them.
  restore.broken_ = failed;
  if (!failed) {
    for (KvNode* node : std::exchange(restore.landed_, {})) {
      node->arriving = nullptr;
      if (node->sealed()) cache_.Supersede(*node);
      Keep(*node);
    }
  }
  Finish(restore);
}

}  // namespace larder
