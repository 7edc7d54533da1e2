// What every eviction method must pass, through a model with a cache of floats: dropping is masking, with the
// choice made a second time by plain rules; a budget for everything is the full cache; the order of entries
// does not matter; bytes are those of the entries that are left.
#include <map>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/memory.h"
#include "engine/evict_driver.h"
#include "kv/codec/codec.h"
#include "tests/engine/core_fixture.h"
#include "tests/engine/masked_sequence.h"
#include "tests/kv/evict/naive_ladder.h"

namespace larder {
namespace {

using testing::MaskedSequence;
using testing::Tokens;

// A method at work on one sequence, as the engine has it.
class EvictedSequence {
 public:
  EvictedSequence(Model& model, std::unique_ptr<PageSource> pages, const std::string& spec, int64_t prompt)
      : model_(model),
        resources_(model, std::move(pages)),
        prompt_(prompt),
        driver_(resources_, *CreateEvictMethod(spec, EvictModelOf(model)), prompt) {
    EXPECT_TRUE(driver_.Begin(nullptr, 0));
  }
  // The end of the next step: the method's, and one row at a time behind the prompt.
  int64_t NextEnd() const {
    const int64_t at = driver_.rows(), stop = driver_.ChunkEnd(at);
    return stop > 0 ? stop : at < prompt_ ? prompt_ : at + 1;
  }
  // Runs rows up to `end`, and what the method does behind them. Their logits.
  std::vector<float> Run(const Tokens& tokens, int64_t end) {
    std::vector<float> logits = RunRows(tokens, end);
    const Status after = driver_.AfterRows(end, tokens);
    EXPECT_TRUE(after) << (after ? "" : after.error().message);
    return logits;
  }
  std::vector<float> RunRows(const Tokens& tokens, int64_t end) {
    EXPECT_TRUE(driver_.Reserve(end - driver_.rows()));
    std::vector<Row> rows;
    for (int64_t at = driver_.rows(); at < end; ++at) {
      Row row;
      row.token = tokens[static_cast<size_t>(at)];
      row.position = driver_.PositionOf(at);
      row.kv = driver_.store();
      rows.push_back(row);
    }
    return testing::LogitsOf(model_, rows, driver_.HooksFor(driver_.rows()));
  }
  std::vector<int32_t> Kept(int layer, int head) {
    const auto positions = lanes().Positions(layer, head);
    std::vector<int32_t> kept(positions.begin(), positions.end());
    std::ranges::sort(kept);
    return kept;
  }
  LaneTable& lanes() { return *driver_.store(); }
  EvictDriver& driver() { return driver_; }

 private:
  Model& model_;
  EvictResources resources_;
  const int64_t prompt_;
  EvictDriver driver_;
};

// What stays, said plainly. Lists are rows, ascending.
class Rule {
 public:
  enum class When : uint8_t { kChunk, kPrompt, kToken };
  virtual ~Rule() = default;
  virtual void Choose(MaskedSequence& rows, When when) = 0;
};

template <class Pick>
void KeepInEachLane(MaskedSequence& rows, Pick&& pick) {
  for (const int layer : rows.layers()) {
    for (int head = 0; head < rows.kv_heads(); ++head) rows.Keep(layer, head, pick(layer, head));
  }
}

// H2O: while there are too many, the lightest goes that is neither a sink nor recent; of equal ones the
// later.
class HeavyHitters final : public Rule {
 public:
  HeavyHitters(size_t budget, int64_t recent, int32_t sinks, bool decode)
      : budget_(budget), recent_(recent), sinks_(sinks), decode_(decode) {}
  void Choose(MaskedSequence& rows, When when) override {
    if (when == When::kToken && !decode_) return;
    KeepInEachLane(rows, [&](int layer, int head) {
      std::vector<int32_t> kept = rows.Kept(layer, head);
      const std::vector<double>& sums = rows.Sums(layer, head);
      while (kept.size() > budget_) {
        auto victim = kept.end();
        for (auto it = kept.begin(); it != kept.end(); ++it) {
          if (*it < sinks_ || *it >= rows.rows() - recent_) continue;
          if (victim == kept.end() || sums[static_cast<size_t>(*it)] <= sums[static_cast<size_t>(*victim)])
            victim = it;
        }
        kept.erase(victim);
      }
      return kept;
    });
  }

 private:
  const size_t budget_;
  const int64_t recent_;
  const int32_t sinks_;
  const bool decode_;
};

// SnapKV: the window, and what it attends to, by the largest sum among `kernel` neighbours.
class ObservationWindow final : public Rule {
 public:
  ObservationWindow(int64_t budget, int64_t window, int64_t kernel)
      : budget_(budget), window_(window), kernel_(kernel) {}
  void Choose(MaskedSequence& rows, When when) override {
    if (when != When::kPrompt) return;
    const int64_t n = rows.rows() - window_;
    KeepInEachLane(rows, [&](int layer, int head) {
      const std::vector<double>& sums = rows.Sums(layer, head);
      std::vector<std::pair<double, int32_t>> ranked;
      for (int64_t i = 0; i < n; ++i) {
        const auto from = sums.begin() + std::max<int64_t>(0, i - kernel_ / 2),
                   to = sums.begin() + std::min(n, i + kernel_ / 2 + 1);
        ranked.emplace_back(-*std::max_element(from, to), static_cast<int32_t>(i));
      }
      std::ranges::sort(ranked);
      std::vector<int32_t> kept;
      for (int64_t i = 0; i < budget_ - window_; ++i) kept.push_back(ranked[static_cast<size_t>(i)].second);
      for (int64_t i = n; i < rows.rows(); ++i) kept.push_back(static_cast<int32_t>(i));
      std::ranges::sort(kept);
      return kept;
    });
  }

 private:
  const int64_t budget_, window_, kernel_;
};

// StreamingLLM: four sinks and the newest.
class SinksAndNewest final : public Rule {
 public:
  explicit SinksAndNewest(size_t budget) : budget_(budget) {}
  void Choose(MaskedSequence& rows, When) override {
    KeepInEachLane(rows, [&](int layer, int head) {
      std::vector<int32_t> kept = rows.Kept(layer, head);
      while (kept.size() > budget_) kept.erase(kept.begin() + 4);
      return kept;
    });
  }

 private:
  const size_t budget_;
};

class Ladder final : public Rule {
 public:
  explicit Ladder(const NaiveLadder::Form& form) : ladder_(form) {}
  void Choose(MaskedSequence& rows, When) override {
    for (; added_ < rows.rows(); ++added_) ladder_.Add(added_);
    ladder_.Compact();
    KeepInEachLane(rows, [&](int layer, int) { return ladder_.Layer(layer); });
  }

 private:
  NaiveLadder ladder_;
  int32_t added_ = 0;
};

constexpr int64_t kPrompt = 150, kDecoded = 256;

struct Case {
  std::string spec;
  std::unique_ptr<Rule> rule;  // null: the sequence masks what the method has dropped
  int64_t first_counted = 0;   // row whose attention the rule wants first
  int64_t chunk = 0;           // of the prompt
  bool by_rank = false;
};

class EvictOracles : public testing::CoreTest {
 protected:
  bool HasWindows() const { return std::string_view(GetParam()) == "tiny-gemma3.gguf"; }
  // Every trigger, in both modes of positions.
  std::vector<Case> Cases(const Model& model) const {
    std::vector<Case> cases;
    const auto add = [&](Case c) { cases.push_back(std::move(c)); };
    add({"h2o:budget=40", std::make_unique<HeavyHitters>(40, 20, 0, true)});
    add({"h2o:budget=0.5,sinks=4,decode=false", std::make_unique<HeavyHitters>(75, 37, 4, false)});
    add({"snapkv:budget=48,window=16,kernel=5", std::make_unique<ObservationWindow>(48, 16, 5),
         kPrompt - 16});
    add({"streaming:budget=33", std::make_unique<SinksAndNewest>(33)});
    add({"streaming:budget=33,chunk=50", std::make_unique<SinksAndNewest>(33), 0, 50});
    for (const char* spec :
         {"adakv:budget=0.3,window=16", "cake:budget=0.3,window=16", "keynorm:budget=0.4,sinks=4",
          "random:budget=50,last=4", "kvmerger:budget=0.5,merge=false"})
      add({spec, nullptr});
    if (HasWindows()) return cases;
    add({"streaming:budget=33,positions=rank", std::make_unique<SinksAndNewest>(33), 0, 0, true});
    add({"streaming:budget=33,positions=rank,chunk=50", std::make_unique<SinksAndNewest>(33), 0, 50, true});
    const NaiveLadder::Form form{
        .layers = std::ssize(model.spec().layers), .slots = 24, .span = 1, .overlap = 0};
    add({"lacache:budget=24,span=1", std::make_unique<Ladder>(form), 0, 0, true});
    add({"lacache:budget=24,span=1,chunk=50", std::make_unique<Ladder>(form), 0, 50, true});
    return cases;
  }
  static void ExpectNear(const std::vector<float>& a, const std::vector<float>& b, float tolerance,
                         const std::string& what) {
    ASSERT_EQ(a.size(), b.size()) << what;
    float worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
    ASSERT_LT(worst, tolerance) << what;
  }
  // Logits of all rows over the full cache.
  static std::vector<float> FullLogits(Model& model, const Tokens& text) {
    testing::ModelSession session(&model);
    auto run = session.Open(text);
    session.Finish(run, 100);
    std::vector<float> logits;
    for (const auto& row : run.logits) logits.insert(logits.end(), row.begin(), row.end());
    session.Close(run);
    return logits;
  }
};

TEST_P(EvictOracles, WhatIsDroppedIsAsIfMasked) {
  const auto model = Load(2, KvType::kF32);
  const Tokens text = Text(21, kPrompt + kDecoded);
  for (const Case& c : Cases(*model)) {
    testing::ModelSession session(model.get());
    EvictedSequence evicted(*model, session.cache().MakePageSource(), c.spec, kPrompt);
    MaskedSequence masked(*model, c.by_rank, c.first_counted);
    size_t most = 0;
    while (masked.rows() < std::ssize(text)) {
      const int64_t end = evicted.NextEnd();
      const std::string what = fmt::format("{} at {}", c.spec, end);
      ASSERT_EQ(end, end > kPrompt ? masked.rows() + 1 : c.chunk > 0 ? masked.rows() + c.chunk : kPrompt);
      const auto logits = evicted.Run(text, end);
      ASSERT_NO_FATAL_FAILURE(ExpectNear(logits, masked.Run(text, end), 1e-3f, what));
      if (c.rule == nullptr) {
        KeepInEachLane(masked, [&](int layer, int head) { return evicted.Kept(layer, head); });
      } else {
        c.rule->Choose(masked, end > kPrompt    ? Rule::When::kToken
                               : end == kPrompt ? Rule::When::kPrompt
                                                : Rule::When::kChunk);
      }
      for (const int layer : masked.layers()) {
        for (int head = 0; head < masked.kv_heads(); ++head) {
          ASSERT_EQ(evicted.Kept(layer, head), masked.Kept(layer, head)) << what;
          if (end == kPrompt) most = std::max(most, masked.Kept(layer, head).size());
        }
      }
    }
    EXPECT_LT(most, 100u) << c.spec;
  }
}

// Bit for bit where positions are kept, and nearly where keys are rotated when they are read.
TEST_P(EvictOracles, ABudgetForEverythingIsTheFullCache) {
  const auto model = Load(2, KvType::kF32);
  const Tokens text = Text(22, 260);
  const std::vector<float> full = FullLogits(*model, text);
  std::vector<std::string> specs = {"h2o:decode=false", "h2o:normalise=true", "snapkv:pooling=avg",
                                    "streaming:chunk=50", "kvmerger:attention=none"};
  for (const EvictMethodEntry& entry : EvictMethods()) specs.emplace_back(entry.info.name);
  std::erase(specs, "mikv");  // makes codes of 16-bit rows: EvictTest has it
  if (HasWindows()) {
    std::erase(specs, "lacache");
  } else {
    for (const char* spec : {"lacache:chunk=50", "lacache:rungs=contiguous", "streaming:positions=rank",
                             "streaming:positions=rank,chunk=50"})
      specs.emplace_back(spec);
  }
  for (std::string spec : specs) {
    spec += spec.find(':') == std::string::npos ? ":budget=100000" : ",budget=100000";
    testing::ModelSession session(model.get());
    EvictedSequence evicted(*model, session.cache().MakePageSource(), spec, 201);
    std::vector<float> logits;
    while (evicted.driver().rows() < std::ssize(text)) {
      const auto some = evicted.Run(text, evicted.NextEnd());
      logits.insert(logits.end(), some.begin(), some.end());
    }
    if (evicted.lanes().keys_rotated()) {
      EXPECT_EQ(logits, full) << spec;
    } else {
      ASSERT_NO_FATAL_FAILURE(ExpectNear(logits, full, 1e-4f, spec));
    }
  }
}

// Beside a codec: the method on a cache without one, whose full pages are rounded to codes by hand, at the
// prompt's end and at each later multiple of 64 rows.
TEST_P(EvictOracles, CodesAreRowsRoundedByHand) {
  if (HasWindows()) GTEST_SKIP() << "lanes of codes begin behind what windows have let go of";
  const auto plain = Load(2), coded = Load(2, KvType::kI16, "q4_0");
  const KvCodec& codec = *coded->kv_shape().codec();
  const int dim = plain->spec().head_dim;
  AlignedBuffer codes = AlignedBuffer::Allocate(codec.PageBytes(dim)).value();
  constexpr int64_t kRows = 201;
  const Tokens text = Text(26, 460);
  for (const std::string method : {"snapkv:budget=150,window=16", "adakv:budget=100,window=16",
                                   "keynorm:budget=0.4", "h2o:budget=140,decode=false"}) {
    testing::ModelSession one(plain.get()), other(coded.get());
    EvictedSequence by_hand(*plain, one.cache().MakePageSource(), method, kRows),
        evicted(*coded, other.cache().MakePageSource(), method, kRows);
    std::map<std::pair<int, int>, int64_t> rounded;  // pages
    const auto round = [&] {
      for (int layer = 0; layer < std::ssize(plain->spec().layers); ++layer) {
        for (int head = 0; head < plain->spec().kv_heads; ++head) {
          for (int64_t& page = rounded[{layer, head}];
               page < by_hand.lanes().Length(layer, head) / kPageTokens; ++page) {
            auto* rows = static_cast<std::byte*>(
                const_cast<void*>(by_hand.lanes().Page(layer, head, page, nullptr).k));
            codec.Encode(dim, rows, codes.data());
            codec.Decode(dim, codes.data(), rows);
          }
          EXPECT_EQ((evicted.lanes().CodedPages(layer, head)), (rounded[{layer, head}]));
        }
      }
    };
    while (evicted.driver().rows() < std::ssize(text)) {
      const int64_t end = std::min(evicted.NextEnd(), std::ssize(text));
      EXPECT_TRUE(end <= kRows || end % kPageTokens == 0 || end == std::ssize(text)) << end;
      EXPECT_TRUE(evicted.Run(text, end) == by_hand.Run(text, end)) << method << " at " << end;
      if (end != std::ssize(text)) round();
    }
    EXPECT_GT((rounded[{0, 0}]), 4) << method;
    EXPECT_LT(evicted.driver().private_bytes(), by_hand.driver().private_bytes());
  }
}

TEST_P(EvictOracles, TheOrderOfEntriesDoesNotMatter) {
  if (HasWindows()) GTEST_SKIP() << "lanes of window layers have let go of pages";
  const auto model = Load(2, KvType::kF32);
  const Tokens text = Text(23, 300);
  const ModelSpec& spec = model->spec();
  testing::ModelSession session(model.get());
  EvictedSequence evicted(*model, session.cache().MakePageSource(), "snapkv:budget=150,window=16", 299);
  evicted.Run(text, 299);
  const auto pages = session.cache().MakePageSource();
  LaneTable shuffled(&model->kv_shape(), pages.get(), PositionMode::kKeep, {});
  std::mt19937 random(1);
  std::vector<float> k(static_cast<size_t>(spec.head_dim)), v(k.size());
  for (int layer = 0; layer < std::ssize(spec.layers); ++layer) {
    for (int head = 0; head < spec.kv_heads; ++head) {
      std::vector<int64_t> order(150);
      for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
      std::ranges::shuffle(order, random);
      for (const int64_t i : order) {
        evicted.lanes().Load(layer, head, i, k.data(), v.data());
        ASSERT_TRUE(
            shuffled.Append(layer, head, k.data(), v.data(), evicted.lanes().PositionOf(layer, head, i)));
      }
    }
  }
  ASSERT_TRUE(shuffled.Reserve(1, 299));
  Row row;
  row.token = text[299];
  row.position = 299;
  row.kv = &shuffled;
  std::vector<Row> rows = {row};
  const auto logits = testing::LogitsOf(*model, rows, nullptr);
  ExpectNear(logits, evicted.RunRows(text, 300), 1e-4f, "shuffled");
}

// The cache's pages, counted.
class CountedPages final : public PageSource {
 public:
  CountedPages(std::unique_ptr<PageSource> pages, uint64_t* taken)
      : pages_(std::move(pages)), taken_(taken) {}
  Result<std::byte*> Take() override {
    auto page = pages_->Take();
    *taken_ += page.has_value() ? 1 : 0;
    return page;
  }
  void Return(std::byte* page) override {
    pages_->Return(page);
    --*taken_;
  }
  PageSource& OfSize(size_t page_bytes) override { return pages_->OfSize(page_bytes); }

 private:
  std::unique_ptr<PageSource> pages_;
  uint64_t* const taken_;
};

// At every step: 2 x entries x elements x 4 bytes, in whole pages of each lane, and tables. What is dropped
// goes back at once, and at the end all of it.
TEST_P(EvictOracles, BytesAreThoseOfWhatIsLeft) {
  if (HasWindows()) GTEST_SKIP() << "lanes of window layers have let go of pages";
  const auto model = Load(2, KvType::kF32);
  const ModelSpec& spec = model->spec();
  const uint64_t lanes = spec.layers.size() * static_cast<uint64_t>(spec.kv_heads);
  const uint64_t page = 2 * kPageTokens * static_cast<uint64_t>(spec.head_dim) * sizeof(float);
  constexpr int64_t kRows = 1000;
  const Tokens text = Text(24, kRows + 200);
  for (const std::string method :
       {"snapkv:budget=300,window=16", "adakv:budget=300,window=16", "cake:budget=300,window=16",
        "kvmerger:budget=300", "h2o:budget=100", "streaming:budget=63", "lacache:budget=100,span=1"}) {
    testing::ModelSession session(model.get());
    const uint64_t empty = session.cache().used_bytes();
    uint64_t taken = 0;
    {
      EvictedSequence evicted(
          *model, std::make_unique<CountedPages>(session.cache().MakePageSource(), &taken), method, kRows);
      const auto check = [&] {
        uint64_t pages = 0;
        for (int layer = 0; layer < std::ssize(spec.layers); ++layer) {
          for (int head = 0; head < spec.kv_heads; ++head) {
            const auto entries = static_cast<uint64_t>(evicted.lanes().Length(layer, head));
            pages += (entries + kPageTokens - 1) / kPageTokens;
          }
        }
        ASSERT_EQ(taken, pages) << method << " after " << evicted.driver().rows();
        const uint64_t tables = evicted.driver().private_bytes() - pages * page;
        // Those of what has gone are gone, too; vectors grow by doubling.
        ASSERT_GE(tables, pages * kPageTokens * (sizeof(int32_t) + sizeof(float))) << method;
        ASSERT_LE(tables, 2 * (pages + lanes) * LaneTable::kTableBytesPerPage + 256 * (lanes + 1)) << method;
      };
      evicted.RunRows(text, kRows);
      const uint64_t all = lanes * ((kRows + kPageTokens - 1) / kPageTokens);
      ASSERT_EQ(taken, all);
      const uint64_t whole = session.cache().used_bytes();
      ASSERT_GE(whole - empty, all * page);
      ASSERT_TRUE(evicted.driver().AfterRows(kRows, text));
      ASSERT_NO_FATAL_FAILURE(check());
      // Pages come and go in runs of 16.
      EXPECT_GE(whole - session.cache().used_bytes(), (all - taken) / 16 * 16 * page) << method;
      while (evicted.driver().rows() < std::ssize(text)) {
        evicted.Run(text, evicted.NextEnd());
        ASSERT_NO_FATAL_FAILURE(check());
      }
    }
    EXPECT_EQ(taken, 0u) << method;
    EXPECT_EQ(session.cache().used_bytes(), empty) << method;
  }
}

// A budget in bytes holds at every step, the newcomer's page included.
TEST_P(EvictOracles, ABudgetInBytesIsKept) {
  const auto model = Load(2, KvType::kF32);
  const ModelSpec& spec = model->spec();
  const auto full_layers = static_cast<uint64_t>(std::ranges::count(spec.layers, 0, &LayerSpec::window));
  const uint64_t lanes = full_layers * static_cast<uint64_t>(spec.kv_heads);
  const Tokens text = Text(25, 500);
  std::vector<std::string> methods = {"h2o", "streaming"};
  if (!HasWindows()) methods.insert(methods.end(), {"streaming:positions=rank", "lacache:span=1"});
  for (std::string method : methods) {
    const uint64_t bytes = 2 * lanes * (model->kv_shape().page_bytes() + LaneTable::kTableBytesPerPage);
    method += fmt::format("{}budget={}B", method.find(':') == std::string::npos ? ":" : ",", bytes);
    testing::ModelSession session(model.get());
    EvictedSequence evicted(*model, session.cache().MakePageSource(), method, 300);
    while (evicted.driver().rows() < std::ssize(text)) {
      evicted.RunRows(text, evicted.NextEnd());
      const int64_t longest = evicted.driver().LongestLane() + evicted.lanes().reserved();
      if (evicted.driver().rows() > 0) {
        ASSERT_LE(longest, 2 * kPageTokens) << method;
      }
      ASSERT_TRUE(evicted.driver().AfterRows(evicted.driver().rows() + evicted.lanes().reserved(), text));
    }
    EXPECT_EQ(evicted.driver().LongestLane(), 2 * kPageTokens - 1) << method;
  }
}

INSTANTIATE_TEST_SUITE_P(, EvictOracles, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder
