// A get over several tiers against a plain account of what it must tell: the nearest tier that accepts an
// item decides about it. The tiers here answer when the test says so, in any order among them.
#include "capi/stacked_get.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <string>

namespace larder {
namespace {

using Random = std::mt19937;

Digest NameOf(size_t item) {
  Digest name;
  name.bytes[0] = static_cast<uint8_t>(item);
  return name;
}

// What a tier has under a name.
struct Copy {
  uint32_t groups = 0;  // 0: nothing
  uint32_t bad_group = UINT32_MAX;
  ErrorKind missing = ErrorKind::kNotFound;  // how it says that there is nothing
};

class ScriptedTier final : public Tier {
 public:
  ScriptedTier(std::string label, bool all_groups_of_missing)
      : label_(std::move(label)), all_groups_of_missing_(all_groups_of_missing) {}

  std::map<Digest, Copy> copies;

  uint64_t Get(std::vector<RecordRead> items, int64_t, ReadPriority, GetCallbacks callbacks) override {
    calls_.push_back({.items = std::move(items), .callbacks = std::move(callbacks)});
    return calls_.size();
  }
  void Cancel(uint64_t ticket) override { calls_.at(ticket - 1).cancelled = true; }

  // The next thing that happens to one of its calls; false: there are none.
  bool Step(Random& random) {
    std::vector<size_t> open;
    for (size_t i = 0; i < calls_.size(); ++i) {
      if (!calls_[i].ended) open.push_back(i);
    }
    if (open.empty()) return false;
    Advance(open[random() % open.size()]);
    return true;
  }

  Status StatusOf(const Copy& copy, uint32_t group) const {
    if (copy.groups == 0) return std::unexpected(Error{copy.missing, label_});
    if (group == copy.bad_group) return std::unexpected(Error{ErrorKind::kCorrupt, label_});
    return {};
  }

  std::string_view name() const override { return label_; }
  void Find(std::vector<Digest>, int64_t, FindDone) override {}
  void Children(const Digest&, size_t, int64_t, ChildrenDone) override {}
  void Put(RecordHeader, RecordPayload, std::function<void(Status)>) override {}
  void Touch(std::span<const Digest>) override {}
  Status Pin(const Digest&, int64_t) override { return {}; }
  Status Remove(std::span<const Digest>) override { return {}; }
  Status Wipe(const SpaceId&) override { return {}; }
  std::vector<RecordHeader> List(uint64_t&, size_t, const SpaceId*) override { return {}; }
  void Flush() override {}
  TierStats stats() const override { return {}; }

 private:
  struct Call {
    std::vector<RecordRead> items;
    GetCallbacks callbacks;
    bool accepted = false, cancelled = false, ended = false;
    uint32_t next = kMaxRecordGroups, end = 0;
    std::vector<Status> refused;
  };

  // Callbacks may start further calls of other tiers, not of this one.
  void Advance(size_t index) {
    Call& call = calls_[index];
    if (!call.accepted) return AcceptAll(call);
    if (call.next < call.end) {
      std::vector<Status> statuses;
      for (size_t i = 0; i < call.items.size(); ++i) statuses.push_back(StatusIn(call, i));
      return call.callbacks.group_done(call.next++, statuses);
    }
    call.ended = true;
    call.callbacks.done();
  }

  void AcceptAll(Call& call) {
    call.accepted = true;
    call.refused.resize(call.items.size());
    for (size_t i = 0; i < call.items.size(); ++i) {
      const RecordRead& item = call.items[i];
      const Copy& copy = copies[item.name];
      uint32_t end =
          all_groups_of_missing_ || item.end_group < kMaxRecordGroups ? item.end_group : item.first_group + 1;
      if (copy.groups > 0) {
        RecordHeader header{.name = item.name, .group_bytes = std::vector<uint64_t>(copy.groups, 1)};
        call.refused[i] = call.callbacks.accept(i, header);
        end = std::min(item.end_group, copy.groups);
      }
      call.next = std::min(call.next, item.first_group);
      call.end = std::max(call.end, end);
    }
  }

  Status StatusIn(const Call& call, size_t i) {
    const RecordRead& item = call.items[i];
    const Copy& copy = copies[item.name];
    if (copy.groups > 0 &&
        (call.next < item.first_group || call.next >= std::min(item.end_group, copy.groups)))
      return {};
    if (!call.refused[i]) return call.refused[i];
    if (call.cancelled) return std::unexpected(Error{ErrorKind::kCancelled, label_});
    return StatusOf(copy, call.next);
  }

  const std::string label_;
  const bool all_groups_of_missing_;  // as one tier does and another does not
  std::deque<Call> calls_;
};

struct Told {
  std::vector<uint32_t> groups;
  std::vector<std::vector<Status>> statuses;
  std::vector<int> accepted;
  int done = 0;
};

class StackedGetTest : public testing::Test {
 protected:
  void Make(Random& random) {
    tiers_.clear();
    for (size_t t = 0; t < 1 + random() % 3; ++t)
      tiers_.push_back(std::make_unique<ScriptedTier>(std::to_string(t), random() % 2 == 0));
    items_.clear();
    for (size_t i = 0; i < 1 + random() % 5; ++i) {
      RecordRead read{.name = NameOf(i)};
      if (random() % 2 == 0) read.first_group = random() % 4;
      if (random() % 2 == 0) read.end_group = read.first_group + 1 + random() % 4;
      items_.push_back(read);
      for (auto& tier : tiers_) {
        Copy copy;
        if (random() % 2 == 0) copy.groups = read.first_group + 1 + random() % 4;
        if (random() % 4 == 0) copy.bad_group = random() % 8;
        if (random() % 4 == 0) copy.missing = ErrorKind::kCorrupt;
        if (random() % 8 == 0) copy.missing = ErrorKind::kSlow;
        tier->copies[read.name] = copy;
      }
    }
    refuses_ = random() % 5 == 0 ? random() % items_.size() : items_.size();
  }

  std::shared_ptr<StackedGet> Start(Told& told) {
    StackedGet::Plan plan{.items = items_};
    for (const auto& tier : tiers_) plan.tiers.push_back(tier.get());
    told.accepted.resize(items_.size());
    plan.callbacks.accept = [&](size_t item, const RecordHeader& header) -> Status {
      EXPECT_EQ(header.name, NameOf(item));
      ++told.accepted[item];
      if (item == refuses_) return Fail(ErrorKind::kInvalid, "refused");
      return {};
    };
    plan.callbacks.group_done = [&](uint32_t group, std::span<const Status> statuses) {
      told.groups.push_back(group);
      told.statuses.emplace_back(statuses.begin(), statuses.end());
      EXPECT_EQ(told.done, 0);
    };
    plan.callbacks.done = [&] { ++told.done; };
    auto get = std::make_shared<StackedGet>(std::move(plan));
    get->Start();
    return get;
  }

  bool Step(Random& random) {
    const size_t from = random() % tiers_.size();
    for (size_t i = 0; i < tiers_.size(); ++i) {
      if (tiers_[(from + i) % tiers_.size()]->Step(random)) return true;
    }
    return false;
  }

  // The tier that decides about an item: the first that has it or is too late to ask further, else the last.
  const ScriptedTier& Deciding(size_t item, Copy& copy) {
    for (auto& tier : tiers_) {
      copy = tier->copies[items_[item].name];
      if (copy.groups > 0 || copy.missing == ErrorKind::kSlow) return *tier;
    }
    return *tiers_.back();
  }

  void ExpectRight(const Told& told) {
    ASSERT_EQ(told.done, 1);
    uint32_t first = kMaxRecordGroups, end = 0;
    std::vector<uint32_t> ends;
    for (size_t i = 0; i < items_.size(); ++i) {
      Copy copy;
      Deciding(i, copy);
      const RecordRead& item = items_[i];
      const uint32_t missing_end = item.end_group < kMaxRecordGroups ? item.end_group : item.first_group + 1;
      ends.push_back(copy.groups > 0 ? std::min(item.end_group, copy.groups) : missing_end);
      first = std::min(first, item.first_group);
      end = std::max(end, ends.back());
      EXPECT_EQ(told.accepted[i], copy.groups > 0 ? 1 : 0);
    }
    ASSERT_EQ(told.groups.size(), end > first ? end - first : 0);
    for (uint32_t group = first; group < end; ++group) {
      ASSERT_EQ(told.groups[group - first], group);
      for (size_t i = 0; i < items_.size(); ++i)
        ExpectRight(told.statuses[group - first][i], i, group, ends[i]);
    }
  }

  void ExpectRight(const Status& status, size_t item, uint32_t group, uint32_t end) {
    Copy copy;
    const ScriptedTier& tier = Deciding(item, copy);
    if (group < items_[item].first_group || (copy.groups > 0 && group >= end)) {
      EXPECT_TRUE(status) << status.error().message;
    } else if (group < end) {
      const Status wanted = item == refuses_ && copy.groups > 0 ? Fail(ErrorKind::kInvalid, "refused")
                                                                : tier.StatusOf(copy, group);
      ASSERT_EQ(status.has_value(), wanted.has_value()) << "item " << item << " group " << group;
      EXPECT_TRUE(wanted || status.error().message == wanted.error().message);
    }
  }

  std::vector<std::unique_ptr<ScriptedTier>> tiers_;
  std::vector<RecordRead> items_;
  size_t refuses_ = 0;
};

TEST_F(StackedGetTest, TheNearestTierThatHasAnItemDecides) {
  for (unsigned seed = 0; seed < 3000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Make(random);
    Told told;
    const auto get = Start(told);
    while (Step(random)) {
    }
    ExpectRight(told);
  }
}

TEST_F(StackedGetTest, CancelledAtAnyMomentItEndsOnce) {
  for (unsigned seed = 0; seed < 3000 && !HasFailure(); ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    Make(random);
    Told told;
    const auto get = Start(told);
    for (unsigned steps = random() % 12; steps > 0 && Step(random); --steps) {
    }
    get->Cancel();
    while (Step(random)) {
    }
    EXPECT_EQ(told.done, 1);
    for (size_t i = 1; i < told.groups.size(); ++i) EXPECT_EQ(told.groups[i], told.groups[0] + i);
  }
}

TEST_F(StackedGetTest, NothingIsAnsweredAtOnce) {
  tiers_.push_back(std::make_unique<ScriptedTier>("0", false));
  Told told;
  Random random(1);
  const auto get = Start(told);
  EXPECT_EQ(told.done, 0);
  while (Step(random)) {
  }
  EXPECT_EQ(told.done, 1);
  EXPECT_TRUE(told.groups.empty());
}

}  // namespace
}  // namespace larder
