// Do leases protect what they say, no longer than they say, within their budget, and never against progress?
#include "kv/leases.h"

#include <map>
#include <random>

#include "kv/events.h"
#include "kv_fixture.h"

namespace larder {
namespace {

constexpr int64_t kMsNs = 1'000'000;

LeaseTerms Soft(int32_t priority, int64_t ttl_ms = 60'000, std::string holder = "h") {
  return {.holder = std::move(holder), .kind = LeaseKind::kRetained, .ttl_ms = ttl_ms, .priority = priority};
}
LeaseTerms Hard(int64_t ttl_ms = 60'000, int32_t priority = 50, std::string holder = "h") {
  return {.holder = std::move(holder), .ttl_ms = ttl_ms, .priority = priority, .hard = true};
}
LeaseTerms Turn(std::string program) { return {.holder = std::move(program), .kind = LeaseKind::kTurn}; }
KvTarget Of(std::vector<int32_t> tokens) { return {.tokens = std::move(tokens), .block = {}, .holder = {}}; }
KvTarget HeldBy(std::string holder) { return {.tokens = {}, .block = {}, .holder = std::move(holder)}; }

// About `blocks` blocks beside what the cache needs for itself.
KvSetup Room(int blocks, double share = 0.25, std::vector<int> windows = {0, 0}) {
  KvSetup setup{.windows = std::move(windows), .ghosts = 0};
  setup.hard_lease_share = share;
  const uint64_t wanted = static_cast<uint64_t>(blocks) * (KvWorld(setup).BlockBytes() + 1700);
  setup.limit_bytes = wanted;
  // What it needs for itself grows a little with the limit.
  for (int i = 0; i < 3; ++i) setup.limit_bytes = KvWorld(setup).cache().used_bytes() + wanted;
  return setup;
}

// New texts until about everything that can go has gone.
void Flood(KvWorld& world, int blocks) {
  static int series = 1000;
  for (int i = 0; i < blocks; ++i) world.Run("flood", Text(series++, kPageTokens));
}

TEST(Leases, SoftOnesGoAfterAllOthersByPriority) {
  KvWorld world(Room(12));
  const auto plain = Text(1, 64), low = Text(2, 64), high = Text(3, 64);
  world.Run("t", high);
  world.Run("t", low);
  world.Run("t", plain);
  KvLeases& leases = world.cache().leases();
  EXPECT_EQ(leases.Take("t", Of(low), Soft(10)).rows, 64);
  EXPECT_EQ(leases.Take("t", Of(high), Soft(90)).rows, 64);
  Flood(world, 30);
  EXPECT_EQ(world.cache().Probe("t", plain), 0)
      << "no lease: least recently used, though it was touched last";
  EXPECT_EQ(world.cache().Probe("t", low), 64);
  // Everything else is held: the soft ones go, the lower priority first.
  auto running = world.Open("t", {});
  while (world.cache().Probe("t", low) > 0) ASSERT_TRUE(world.Write(*running, Text(4, 64)));
  EXPECT_EQ(world.cache().Probe("t", high), 64);
  while (world.cache().Probe("t", high) > 0) ASSERT_TRUE(world.Write(*running, Text(4, 64)));
  EXPECT_EQ(leases.stats().evicted, 2u);
  EXPECT_EQ(leases.stats().leases, 0u);
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, ASoftLeaseOfAnEvictedEndGoesOnWithTheRest) {
  KvWorld world(Room(8));
  const auto text = Text(1, 4 * 64);
  world.Run("t", text);
  world.cache().leases().Take("t", Of(text), Soft(50));
  auto running = world.Open("t", {});
  while (world.cache().Probe("t", text) == 4 * 64) ASSERT_TRUE(world.Write(*running, Text(4, 64)));
  const auto listed = world.cache().leases().List("t", 10);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].rows, world.cache().Probe("t", text));
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, HardOnesStayAndTheirAncestorsToo) {
  for (const auto& windows : {std::vector<int>{0, 0}, std::vector<int>{0, 100}, std::vector<int>{64, 64}}) {
    KvWorld world(Room(24, 0.5, windows));
    const auto text = Text(1, 5 * 64 + 7);
    world.Run("t", text);
    const LeaseGrant grant = world.cache().leases().Take("t", Of(text), Hard());
    EXPECT_EQ(grant.rows, 5 * 64 + 7);
    EXPECT_EQ(grant.reason, "");
    EXPECT_TRUE(world.Sound());
    Flood(world, 100);
    EXPECT_EQ(world.cache().Probe("t", text), 5 * 64 + 7);
    EXPECT_TRUE(world.Reads(*world.Open("t", text)));
    EXPECT_EQ(world.cache().leases().End("t", HeldBy("h")), 5 * 64 + 7);
    EXPECT_EQ(world.cache().stats().held_blocks, 0u);
    Flood(world, 100);
    EXPECT_EQ(world.cache().Probe("t", text), 0);
    EXPECT_TRUE(world.Sound());
  }
}

TEST(Leases, TheBudgetClipsFromTheEndAndSharedBlocksCountOnce) {
  KvWorld world(Room(40, 0.25));
  const auto text = Text(1, 20 * 64);
  world.Run("t", text);
  KvLeases& leases = world.cache().leases();
  const LeaseGrant grant = leases.Take("t", Of(text), Hard());
  EXPECT_GT(grant.rows, 5 * 64);
  EXPECT_LT(grant.rows, 12 * 64);
  EXPECT_EQ(grant.rows % 64, 0);
  EXPECT_NE(grant.reason, "");
  EXPECT_EQ(leases.stats().clipped, 1u);
  const auto stats = leases.stats();
  EXPECT_LE(stats.hard_bytes, stats.hard_limit_bytes);
  // The same beginning for somebody else costs nothing more.
  const auto begin = std::vector<int32_t>(text.begin(), text.begin() + 3 * 64);
  EXPECT_EQ(leases.Take("t", Of(begin), Hard(60'000, 50, "other")).rows, 3 * 64);
  EXPECT_EQ(leases.stats().hard_bytes, stats.hard_bytes);
  const auto stranger = Text(2, 4 * 64);
  world.Run("t", stranger);
  EXPECT_EQ(leases.Take("t", Of(stranger), Hard()).rows, 0);
  EXPECT_EQ(leases.stats().refused, 1u);
  leases.End("t", HeldBy("h"));
  EXPECT_EQ(leases.Take("t", Of(stranger), Hard()).rows, 4 * 64);
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, NothingInMemoryIsRefusedAndPartOfItClipped) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  EXPECT_EQ(leases.Take("nobody", Of(Text(1, 64)), Hard()).rows, 0);
  world.Run("t", Text(1, 100));
  const LeaseGrant grant = leases.Take("t", Of(Text(1, 300)), Soft(1));
  EXPECT_EQ(grant.rows, 100);
  EXPECT_NE(grant.reason.find("100 of 300"), std::string::npos) << grant.reason;
  EXPECT_EQ(leases.Take("t", Of(Text(2, 64)), Hard()).rows, 0);
  EXPECT_EQ(leases.Take("stranger", Of(Text(1, 100)), Hard()).rows, 0) << "another tenant's blocks";
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, ExpireWhenRoomIsNeededOrTimeIsLookedAt) {
  KvWorld world(Room(16, 0.5));
  const auto text = Text(1, 4 * 64);
  world.Run("t", text);
  KvLeases& leases = world.cache().leases();
  leases.Take("t", Of(text), Hard(1000));
  world.clock().AdvanceNs(999 * kMsNs);
  Flood(world, 40);
  EXPECT_EQ(world.cache().Probe("t", text), 4 * 64);
  world.clock().AdvanceNs(1 * kMsNs);
  Flood(world, 40);
  EXPECT_EQ(world.cache().Probe("t", text), 0) << "the room was needed, and the lease was over";
  EXPECT_EQ(leases.stats().expired, 1u);

  world.Run("t", text);
  leases.Take("t", Of(text), Hard(1000));
  world.clock().AdvanceNs(1000 * kMsNs);
  EXPECT_GT(world.cache().stats().held_blocks, 0u);
  leases.Expire();
  EXPECT_EQ(world.cache().stats().held_blocks, 0u);
  EXPECT_TRUE(world.Sound());
}

// Pool fully leased and one arrival: it runs, and the leases of the lowest priority give way first.
TEST(Leases, GiveWayWhenNothingElseRuns) {
  KvWorld world(Room(20, 1.0));
  std::map<int, std::vector<int32_t>> texts;
  KvLeases& leases = world.cache().leases();
  for (int priority = 1; priority <= 4; ++priority) {
    texts[priority] = Text(priority, 4 * 64);
    world.Run("t", texts[priority]);
    ASSERT_EQ(
        leases.Take("t", Of(texts[priority]), Hard(60'000, priority * 10, std::to_string(priority))).rows,
        256);
  }
  {
    auto running = world.Open("t", {});
    ASSERT_TRUE(world.Write(*running, Text(9, 6 * 64)));
    EXPECT_EQ(leases.stats().broken, 1u);
    EXPECT_LT(world.cache().Probe("t", texts[1]), 256) << "the lowest priority has given way";
    EXPECT_EQ(world.cache().Probe("t", texts[2]), 256);
    // With another one running, the pins stay: there will be room again.
    auto second = world.Open("t", {});
    EXPECT_FALSE(world.Write(*second, Text(10, 6 * 64)));
    EXPECT_EQ(leases.stats().broken, 1u);
  }
  EXPECT_TRUE(world.Sound());
  auto alone = world.Open("t", {});
  EXPECT_TRUE(world.Write(*alone, Text(11, 16 * 64))) << "all of it, if need be";
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, ANewTurnTakesProtectionFromWhatItDoesNotContinue) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  const auto system = Text(1, 2 * 64);
  const auto first = Join(system, Text(2, 130));
  auto sequence = world.Open("t", {});
  ASSERT_TRUE(world.Write(*sequence, first));
  EXPECT_EQ(leases.Take(*sequence, sequence->length(), Turn("p")).rows, 258);
  world.cache().Close(std::move(sequence));
  EXPECT_EQ(leases.Take("t", Of(first), {.holder = "p"}).rows, 258);  // a pin is no turn's lease

  leases.Follow("t", "q", Text(7, 64));
  leases.Follow("t", "p", Join(first, Text(3, 10)));
  EXPECT_EQ(leases.stats().superseded, 0u) << "another program; and a turn that continues";
  // The thinking was dropped from the history: the text parts at row 140.
  leases.Follow("t", "p", Join(First(first, 140), Text(4, 20)));
  EXPECT_EQ(leases.stats().superseded, 1u);
  auto listed = leases.List("t", 10);
  ASSERT_EQ(listed.size(), 2u);
  for (const auto& lease : listed) EXPECT_EQ(lease.rows, lease.kind == LeaseKind::kTurn ? 128 : 258);
  leases.Finish("t", "p");
  listed = leases.List("t", 10);
  ASSERT_EQ(listed.size(), 1u);
  EXPECT_EQ(listed[0].kind, LeaseKind::kPinned);
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, AChatThatGrowsHasOneLeasePerHolder) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  std::vector<int32_t> chat = Text(1, 100);
  for (int turn = 0; turn < 20; ++turn) {
    world.Run("t", chat);
    world.clock().AdvanceNs(kMsNs);
    EXPECT_EQ(leases.Take("t", Of(chat), Soft(50, 60'000, "a")).rows, static_cast<int64_t>(chat.size()));
    EXPECT_EQ(leases.stats().leases, 1u);
    chat = Join(chat, Text(turn + 2, 77));
  }
  // A weaker wish of the same holder adds nothing; another holder's is its own.
  leases.Take("t", Of({chat.begin(), chat.end() - 77}), Soft(40, 1000, "a"));
  EXPECT_EQ(leases.stats().leases, 1u);
  leases.Take("t", Of({chat.begin(), chat.end() - 77}), Soft(40, 1000, "b"));
  EXPECT_EQ(leases.stats().leases, 2u);
  EXPECT_TRUE(world.Sound());
}

// Two sequences write the same block at once; a tail is repeated by a longer one: the lease moves to the copy
// that stays.
TEST(Leases, MoveWithTheirBlocks) {
  for (const auto& windows : {std::vector<int>{0, 0}, std::vector<int>{0, 40}}) {
    KvWorld world({.windows = windows});
    KvLeases& leases = world.cache().leases();
    const auto text = Text(1, 128);
    auto a = world.Open("t", {}), b = world.Open("t", {});
    ASSERT_TRUE(world.Write(*a, First(text, 30)));
    ASSERT_TRUE(world.Write(*b, First(text, 40)));
    EXPECT_EQ(leases.Take(*b, 40, Hard()).rows, 40);
    EXPECT_TRUE(world.Sound());
    ASSERT_TRUE(world.Write(*a, std::span(text).subspan(30)));
    ASSERT_TRUE(world.Write(*b, std::span(text).subspan(40)));
    EXPECT_GT(world.cache().stats().deduplicated_blocks, 0u);
    EXPECT_TRUE(world.Sound());
    a.reset();
    b.reset();
    EXPECT_EQ(leases.stats().leases, 1u);
    EXPECT_TRUE(world.Sound());

    // A leased tail of 20 rows that another sequence repeats and continues.
    const auto tail = Text(5, 90);
    world.Run("t", First(tail, 20));
    leases.Take("t", Of({tail.begin(), tail.begin() + 20}), Hard(60'000, 50, "tail"));
    auto c = world.Open("t", First(tail, 10));
    ASSERT_TRUE(world.Write(*c, std::span(tail).subspan(10)));
    c.reset();
    EXPECT_TRUE(world.Sound());
    EXPECT_EQ(leases.End("t", HeldBy("tail")), 20);
    leases.End("t", HeldBy("h"));
    EXPECT_EQ(world.cache().stats().held_blocks, 0u);
    EXPECT_TRUE(world.Sound());
  }
}

TEST(Leases, UnpinningATextLeavesThePinOfItsBeginning) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  const auto text = Text(1, 300);
  world.Run("t", text);
  leases.Take("t", Of({text.begin(), text.begin() + 100}), Hard(60'000, 50, "a"));
  leases.Take("t", Of(text), Hard(60'000, 50, "b"));
  EXPECT_EQ(leases.End("t", Of(text)), 300);
  ASSERT_EQ(leases.List("", 10).size(), 1u);
  EXPECT_EQ(leases.List("", 10)[0].holder, "a");
  EXPECT_EQ(leases.End("stranger", Of(text)), 0);
}

TEST(Leases, DroppingSparesWhatOthersNeed) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  const auto shared = Text(1, 3 * 64);
  const auto a = Join(shared, Text(2, 2 * 64)), b = Join(shared, Text(3, 2 * 64));
  world.Run("t", a);
  world.Run("t", b);
  leases.Take("t", Of(a), Soft(90));
  EXPECT_EQ(leases.Drop("t", Of(a)), 128) << "its own end, leased or not, but not what the other shares";
  EXPECT_EQ(world.cache().Probe("t", b), 5 * 64);
  leases.Take("t", Of(shared), Soft(90, 60'000, "system"));
  EXPECT_EQ(leases.Drop("t", Of(b)), 128) << "nor what another lease covers";
  auto running = world.Open("t", shared);
  EXPECT_EQ(leases.Drop("t", Of(shared)), 0) << "nor what somebody runs on";
  running.reset();
  EXPECT_EQ(leases.Drop("t", Of({shared.begin(), shared.begin() + 100})), 0)
      << "a text that ends inside a block leaves it to the others";
  EXPECT_EQ(leases.Drop("t", HeldBy("system")), 0) << "the lease was ended before";
  EXPECT_EQ(leases.Drop("t", Of(shared)), 3 * 64);
  EXPECT_TRUE(world.Sound());
  EXPECT_EQ(world.cache().stats().blocks, 0u);
}

TEST(Leases, BlocksAreFoundByTheirNameAndOnlyByTheirTenant) {
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  world.Run("t", Text(1, 200));
  uint64_t cursor = 0;
  const auto blocks = world.cache().Snapshot("t", cursor, 10);
  ASSERT_EQ(blocks.size(), 3u);
  const KvTarget second{.tokens = {}, .block = blocks[1].name, .holder = {}};
  EXPECT_EQ(leases.Take("t", second, Hard()).rows, 128);
  EXPECT_EQ(leases.Take("stranger", second, Hard()).rows, 0);
  EXPECT_EQ(leases.End("stranger", second), 0);
  EXPECT_EQ(leases.End("t", second), 128);
}

TEST(Leases, ClearingEndsThem) {
  KvWorld world;
  world.Run("t", Text(1, 200));
  world.cache().leases().Take("t", Of(Text(1, 200)), Hard());
  world.cache().Clear("t");
  EXPECT_EQ(world.cache().stats().blocks, 0u);
  EXPECT_EQ(world.cache().leases().stats().leases, 0u);
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, ComeBackSoftWhenTheirBlockDoes) {
  std::vector<SavedLease> saved;
  {
    KvWorld world;
    world.Run("t", Text(1, 200));
    world.cache().leases().Take("t", Of(Text(1, 200)), Hard(10'000, 70));
    world.cache().leases().Take("t", Of(Text(1, 10)), Soft(1));  // its end has no name in the file
    world.clock().AdvanceNs(4000 * kMsNs);
    saved = world.cache().leases().Save(10);
    ASSERT_EQ(saved.size(), 2u);
  }
  KvWorld world;
  KvLeases& leases = world.cache().leases();
  leases.Remember(saved);
  EXPECT_EQ(leases.stats().leases, 0u);
  EXPECT_EQ(leases.Save(10).size(), 2u) << "they are not forgotten before they are needed";
  world.Run("t", Text(2, 200));
  EXPECT_EQ(leases.stats().leases, 0u);
  world.clock().AdvanceNs(1000 * kMsNs);
  world.Run("t", Text(1, 200));
  const auto listed = leases.List("t", 10);
  ASSERT_EQ(listed.size(), 2u);
  for (const auto& lease : listed) {
    EXPECT_FALSE(lease.hard);
    const int64_t left = lease.priority == 70 ? 5000 : 55'000;
    EXPECT_EQ(lease.ttl_ms, left) << "what was left, and not a millisecond more";
  }
  EXPECT_TRUE(world.Sound());
  world.clock().AdvanceNs(60'000 * kMsNs);
  leases.Expire();
  EXPECT_EQ(leases.bytes(), 0u);
  EXPECT_TRUE(world.Sound());
}

TEST(Leases, AreBoundedThemselves) {
  KvWorld world(Room(12));
  KvLeases& leases = world.cache().leases();
  world.Run("t", Text(1, 64));
  for (int i = 0; i < 5000; ++i)
    leases.Take("t", Of(Text(1, 64)), Soft(i % 100, 1000 + i, std::to_string(i)));
  EXPECT_LE(leases.bytes(), world.cache().limit_bytes() / 64);
  EXPECT_GT(leases.stats().refused, 0u);
  EXPECT_TRUE(world.Sound());
  Flood(world, 40);
  EXPECT_TRUE(world.Sound());
}

// Random life with leases of all kinds and a clock that jumps. Every lease that is listed must be one that
// was granted, with no more time than it was granted; hard ones are never lost while others can give way.
class LeaseWalk {
 public:
  LeaseWalk(KvSetup setup, uint32_t seed) : world_(std::move(setup)), random_(seed) {}

  void Step() {
    switch (Upto(12)) {
      case 0:
      case 1:
        if (live_.size() < 4) Open();
        break;
      case 2:
      case 3:
      case 4:
        if (!live_.empty()) Extend(*live_[Pick()]);
        break;
      case 5:
        if (!live_.empty()) live_.erase(live_.begin() + static_cast<ptrdiff_t>(Pick()));
        if (Upto(4) == 0) live_.resize(std::min<size_t>(live_.size(), 1));
        break;
      case 6:
        if (!live_.empty()) Granted(world_.cache().leases().Take(*live_[Pick()], Upto(600), Terms()));
        break;
      case 7:
      case 8:
        Granted(world_.cache().leases().Take(Tenant(), Target(), Terms()));
        break;
      case 9:
        world_.clock().AdvanceNs(Upto(3000) * kMsNs);
        if (Upto(2) == 0) world_.cache().leases().Expire();
        break;
      case 10:
        End();
        break;
      default:
        if (Upto(40) == 0) world_.cache().Clear(Tenant());
        if (Upto(30) == 0) Reload();
    }
  }

  void Check() {
    ASSERT_TRUE(world_.Sound());
    for (const auto& sequence : live_) ASSERT_TRUE(world_.Reads(*sequence));
    const int64_t now_ms = world_.clock().WallMs();
    for (const KvLeaseInfo& lease : world_.cache().leases().List("", 10'000)) {
      const auto latest = latest_ms_.find(lease.holder);
      ASSERT_TRUE(latest != latest_ms_.end());
      ASSERT_LE(now_ms + lease.ttl_ms, latest->second) << "a lease that grew";
    }
  }

  // `breaks`: hard leases can hold so much that a request cannot run beside them.
  void Finish(bool breaks) {
    live_.clear();
    world_.clock().AdvanceNs(kMostLeaseMs * kMsNs);
    world_.cache().leases().Expire();
    ASSERT_TRUE(world_.Sound());
    EXPECT_EQ(world_.cache().stats().held_blocks, 0u);
    EXPECT_EQ(world_.cache().leases().bytes(), 0u);
    const KvLeaseStats stats = world_.cache().leases().stats();
    const std::pair<const char*, uint64_t> been[] = {
        {"granted", stats.granted}, {"clipped", stats.clipped},       {"refused", stats.refused},
        {"expired", stats.expired}, {"superseded", stats.superseded}, {"broken", stats.broken},
        {"evicted", stats.evicted}};
    for (const auto& [name, count] : been) {
      if (!breaks && std::string_view(name) == "broken") continue;
      EXPECT_GT(count, 0u) << "the walk has not been where leases are " << name;
    }
  }

 private:
  int Upto(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  size_t Pick() { return static_cast<size_t>(Upto(static_cast<int>(live_.size()))); }
  std::string Tenant() { return std::string(1, static_cast<char>('x' + Upto(2))); }
  std::string Holder() { return "holder " + std::to_string(Upto(4)); }
  int32_t Token() { return Upto(30) == 0 ? 1 + Upto(2) : 0; }

  std::vector<int32_t> Text() {
    std::vector<int32_t> text;
    if (!live_.empty() && Upto(3) > 0) {
      text = live_[Pick()]->tokens();
      text.resize(static_cast<size_t>(Upto(static_cast<int>(text.size()) + 1)));
    }
    for (int n = Upto(150); n > 0; --n) text.push_back(Token());
    return text;
  }
  KvTarget Target() { return Upto(4) == 0 ? HeldBy(Holder()) : Of(Text()); }

  LeaseTerms Terms() {
    const LeaseTerms terms{.holder = Holder(),
                           .kind = static_cast<LeaseKind>(Upto(3)),
                           .ttl_ms = 1 + Upto(20'000),
                           .priority = Upto(101),
                           .hard = Upto(2) == 0};
    asked_ = terms;
    // Only pins are hard.
    if (asked_.kind != LeaseKind::kPinned) asked_.hard = false;
    return asked_;
  }
  void Granted(const LeaseGrant& grant) {
    if (grant.rows == 0) return;
    int64_t& latest = latest_ms_[asked_.holder];
    latest = std::max(latest, world_.clock().WallMs() + asked_.ttl_ms);
  }

  void Open() {
    const std::string tenant = Tenant();
    const auto text = Text();
    if (Upto(2) == 0) world_.cache().leases().Follow(tenant, Holder(), text);
    if (auto opened = world_.cache().Open(tenant, text)) live_.push_back(std::move(opened->sequence));
  }
  void Extend(KvSequence& sequence) {
    if (sequence.length() > 2000) return;
    std::vector<int32_t> more;
    for (int n = 1 + Upto(live_.size() == 1 ? 600 : 150); n > 0; --n) more.push_back(Token());
    (void)world_.Write(sequence, more);
  }
  void End() {
    KvLeases& leases = world_.cache().leases();
    const int what = Upto(4);
    if (what == 0) leases.End(Tenant(), Target());
    if (what == 1) leases.Drop(Tenant(), Target());
    if (what == 2) leases.Finish(Tenant(), Holder());
  }
  // As if the program had been started again, with the same blocks.
  void Reload() {
    KvLeases& leases = world_.cache().leases();
    const auto saved = leases.Save(100);
    for (const char* tenant : {"x", "y"}) {
      for (int i = 0; i < 4; ++i) leases.End(tenant, HeldBy("holder " + std::to_string(i)));
    }
    leases.Remember(saved);
  }

  KvWorld world_;
  std::mt19937 random_;
  std::vector<std::unique_ptr<KvSequence>> live_;
  LeaseTerms asked_;
  std::map<std::string, int64_t> latest_ms_;
};

TEST(Leases, RandomLifeKeepsTheBooks) {
  for (const auto& windows : {std::vector<int>{0, 0}, std::vector<int>{0, 70}, std::vector<int>{30, 130}}) {
    for (uint32_t seed = 1; seed <= 3; ++seed) {
      SCOPED_TRACE(fmt::format("windows {} {}, seed {}", windows[0], windows[1], seed));
      LeaseWalk walk(Room(20, 0.8, windows), seed);
      for (int step = 0; step < 20'000; ++step) {
        walk.Step();
        if (step % 4 == 0) walk.Check();
        if (testing::Test::HasFatalFailure()) FAIL() << "at step " << step;
      }
      // With windows alone a lease holds no more than a few blocks before its end.
      walk.Finish(windows[0] == 0);
    }
  }
}

}  // namespace
}  // namespace larder
