// Random operations of several tenants against a simple model: the set of all prefixes ever published. Every
// sequence must read its own content through its pages, every look-up must find what the model knows
// (exactly, while nothing is evicted), and the invariants must hold throughout.
#include <random>
#include <unordered_set>

#include "kv_fixture.h"

namespace larder {
namespace {

#ifdef __SANITIZE_THREAD__
constexpr int kSteps = 1500;  // of one thread, whose accesses cost twenty times as much
#else
constexpr int kSteps = 8000;
#endif

struct RandomCase {
  std::string name;
  KvSetup setup;
  bool ample;  // nothing is ever evicted: look-ups must find everything
};

// Which prefixes of which tenant were published.
class Model {
 public:
  void Add(const std::string& tenant, std::span<const int32_t> tokens) {
    for (size_t n = 1; n <= tokens.size(); ++n) known_.insert(Key(tenant, tokens.first(n)));
  }
  int64_t Longest(const std::string& tenant, std::span<const int32_t> tokens) const {
    size_t n = 0;
    while (n < tokens.size() && known_.contains(Key(tenant, tokens.first(n + 1)))) ++n;
    return static_cast<int64_t>(n);
  }

 private:
  static std::string Key(const std::string& tenant, std::span<const int32_t> tokens) {
    std::string key = tenant;
    for (const int32_t token : tokens) key += static_cast<char>('a' + token);
    return key;
  }
  std::unordered_set<std::string> known_;
};

class RandomWalk {
 public:
  RandomWalk(const RandomCase& setup, uint32_t seed) : case_(setup), world_(setup.setup), random_(seed) {}

  void Step() {
    const int dice = Upto(100);
    if (live_.empty() || (dice < 12 && live_.size() < 14)) return Open();
    const size_t index = static_cast<size_t>(Upto(static_cast<int>(live_.size())));
    KvSequence& sequence = *live_[index];
    if (dice < 55) {
      Extend(sequence);
    } else if (dice < 62 && live_.size() < 14) {
      Fork(sequence);
    } else if (dice < 70) {
      Truncate(sequence);
    } else if (dice < 74) {
      if (sequence.length() < 700) (void)world_.cache().Reserve(sequence, Upto(200));
    } else if (dice < 84) {
      world_.cache().Close(std::move(live_[index]));
      live_.erase(live_.begin() + static_cast<ptrdiff_t>(index));
    } else if (dice < 85 && !case_.ample) {
      world_.cache().Clear(Tenant());
    } else {
      const auto text = Text();
      const std::string tenant = Tenant();
      Found(tenant, text, world_.cache().Probe(tenant, text));
    }
  }

  void Check() {
    ASSERT_TRUE(world_.Sound());
    for (const auto& sequence : live_) ASSERT_TRUE(world_.Reads(*sequence));
  }

  void Finish() {
    live_.clear();
    ASSERT_TRUE(world_.Sound());
    const auto stats = world_.cache().stats();
    EXPECT_EQ(stats.sequences, 0u);
    EXPECT_EQ(stats.held_blocks, 0u);
    EXPECT_EQ(stats.evicted_blocks == 0, case_.ample);
    EXPECT_GT(stats.hits_rows, 0u);
    EXPECT_GT(stats.copied_rows, 0u);
    EXPECT_GT(stats.deduplicated_blocks, 0u);
    world_.cache().Clear("");
    ASSERT_TRUE(world_.Sound());
    EXPECT_EQ(world_.cache().stats().blocks, 0u);
    EXPECT_EQ(world_.cache().stats().tenants, 0u);
  }

 private:
  int Upto(int n) { return static_cast<int>(random_() % static_cast<uint32_t>(n)); }
  std::string Tenant() { return std::string(1, static_cast<char>('x' + Upto(3))); }
  int32_t Token() { return Upto(40) == 0 ? 1 + Upto(2) : 0; }  // texts part rarely, at any row

  std::vector<int32_t> Text() {
    std::vector<int32_t> text;
    if (!live_.empty() && Upto(2) == 0) {
      text = live_[static_cast<size_t>(Upto(static_cast<int>(live_.size())))]->tokens();
      text.resize(static_cast<size_t>(Upto(static_cast<int>(text.size()) + 1)));
    }
    for (int n = Upto(150); n > 0; --n) text.push_back(Token());
    return text;
  }

  void Found(const std::string& tenant, std::span<const int32_t> text, int64_t rows) {
    const int64_t known = model_.Longest(tenant, text);
    if (case_.ample && case_.setup.codec) {
      ASSERT_LE(rows, known);
      ASSERT_GE(rows, (known - 1) / kPageTokens * kPageTokens) << "the blocks before its last row are found";
    } else if (case_.ample) {
      ASSERT_EQ(rows, known);
    } else {
      ASSERT_LE(rows, known);
    }
  }

  void Open() {
    const auto text = Text();
    const std::string tenant = Tenant();
    const int64_t probed = world_.cache().Probe(tenant, text);
    auto opened = world_.cache().Open(tenant, text);
    if (!opened) {
      ASSERT_EQ(opened.error().kind, ErrorKind::kExhausted);
      return;
    }
    ASSERT_EQ(opened->sequence->length(), probed);
    ASSERT_EQ(opened->outcome.token, probed);
    ASSERT_EQ(opened->outcome.reason == MissReason::kNone, probed == static_cast<int64_t>(text.size()));
    Found(tenant, text, probed);
    live_.push_back(std::move(opened->sequence));
  }

  void Extend(KvSequence& sequence) {
    if (sequence.length() > 700) return;
    std::vector<int32_t> more;
    for (int n = 1 + (Upto(3) == 0 ? Upto(150) : Upto(20)); n > 0; --n) more.push_back(Token());
    if (world_.Write(sequence, more)) model_.Add(sequence.tenant(), sequence.tokens());
  }

  void Fork(const KvSequence& sequence) {
    auto fork = world_.cache().Fork(sequence);
    if (!fork) return;
    ASSERT_EQ((*fork)->tokens(), sequence.tokens());
    live_.push_back(*std::move(fork));
  }

  void Truncate(KvSequence& sequence) {
    const int64_t length = Upto(static_cast<int>(sequence.length()) + 1);
    const int64_t before = sequence.length();
    const auto status = world_.cache().Truncate(sequence, length);
    ASSERT_EQ(sequence.length(), status ? length : before);
    ASSERT_TRUE(status || !case_.ample || (case_.setup.codec && length % kPageTokens != 0));
  }

  const RandomCase& case_;
  KvWorld world_;
  std::mt19937 random_;
  Model model_;
  std::vector<std::unique_ptr<KvSequence>> live_;
};

constexpr uint64_t kAmple = 1ull << 30;

class Random : public testing::TestWithParam<RandomCase> {};

TEST_P(Random, AgreesWithTheModel) {
  for (uint32_t seed = 1; seed <= 3; ++seed) {
    SCOPED_TRACE(seed);
    RandomWalk walk(GetParam(), seed);
    for (int step = 0; step < kSteps; ++step) {
      walk.Step();
      // What is kept grows without end where memory is ample, and checking walks all of it.
      if (step % (GetParam().ample ? 64 : 4) == 0) walk.Check();
      if (HasFatalFailure()) FAIL() << "at step " << step;
    }
    walk.Finish();
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, Random,
    testing::Values(
        RandomCase{"Ample", {.windows = {0, 0}, .limit_bytes = kAmple}, true},
        RandomCase{
            "AmpleWindows", {.windows = {0, 40, 100}, .limit_bytes = kAmple, .resume_stride = 128}, true},
        RandomCase{"AmpleCollisions",
                   {.windows = {0, 0},
                    .limit_bytes = kAmple,
                    .weaken_name =
                        [](const Digest& name) {
                          Digest weak;
                          weak.bytes[0] = name.bytes[0] & 3;
                          return weak;
                        }},
                   true},
        RandomCase{"AmpleCodec", {.windows = {0, 0}, .limit_bytes = kAmple, .codec = true, .sinks = 4}, true},
        RandomCase{"AmpleCodecWindows",
                   {.windows = {0, 40, 100}, .limit_bytes = kAmple, .resume_stride = 128, .codec = true},
                   true},
        RandomCase{"TightCodec",
                   {.windows = {0, 0}, .limit_bytes = 40 * 16384 + 60'000, .codec = true, .sinks = 4},
                   false},
        RandomCase{"TightCodecWindows",
                   {.windows = {70, 0, 70},
                    .limit_bytes = 40 * 24576 + 60'000,
                    .resume_stride = 192,
                    .codec = true,
                    .sinks = 2},
                   false},
        RandomCase{"Tight", {.windows = {0, 0}, .limit_bytes = 40 * 16384 + 60'000}, false},
        RandomCase{
            "TightLfu", {.windows = {0, 0}, .limit_bytes = 40 * 16384 + 60'000, .policy = "lfu"}, false},
        RandomCase{
            "TightSlru", {.windows = {70, 0}, .limit_bytes = 40 * 16384 + 60'000, .policy = "slru"}, false},
        RandomCase{"TightS3Fifo",
                   {.windows = {0, 70}, .limit_bytes = 40 * 16384 + 60'000, .policy = "s3-fifo"},
                   false},
        RandomCase{
            "TightCost", {.windows = {0, 0}, .limit_bytes = 40 * 16384 + 60'000, .policy = "cost"}, false},
        RandomCase{"TightWindows",
                   {.windows = {70, 0, 70}, .limit_bytes = 40 * 24576 + 60'000, .resume_stride = 192},
                   false},
        RandomCase{
            "TightTwoWindows",
            {.windows = {30, 0, 130}, .limit_bytes = 40 * 24576 + 60'000, .resume_stride = 0, .ghosts = 5},
            false},
        RandomCase{"TightOnlyWindows",
                   {.windows = {64, 1}, .limit_bytes = 40 * 16384 + 60'000, .resume_stride = 256},
                   false}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace larder
