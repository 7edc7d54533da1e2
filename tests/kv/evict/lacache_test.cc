// LaCache over long streams of made-up rows: the tables of the specification, the plain ladder beside it at
// every step, and what must hold for ever.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <set>

#include "kv/evict/method.h"
#include "naive_ladder.h"
#include "tests/kv/heap_pages.h"

namespace larder {
namespace {

constexpr int kDim = 2;

// Rows whose keys are their numbers. Nobody attends to them.
class LadderStream {
 public:
  explicit LadderStream(const NaiveLadder::Form& form, const std::string& rungs = "")
      : form_(form),
        shape_(*KvShape::Create(std::vector<int>(static_cast<size_t>(form.layers)), 1, kDim, KvType::kF32)),
        pages_(shape_.page_bytes()),
        method_(*CreateEvictMethod(
            fmt::format("lacache:budget={},span={},overlap={},rungs={}", form.slots, form.span, form.overlap,
                        !rungs.empty()    ? rungs
                        : form.contiguous ? "contiguous"
                                          : "interleaved"),
            {.layers = static_cast<int>(form.layers)})),
        lanes_(&shape_, &pages_, PositionMode::kCompact, {&kOne, &kOne, 1 << 20}) {
    for (int layer = 0; layer < form.layers; ++layer) layers_.push_back(layer);
  }

  void Add(int32_t token) {
    ASSERT_TRUE(lanes_.Reserve(1, token));
    const int64_t rank = lanes_.Length(0, 0);
    const auto number = static_cast<float>(token);
    const float k[kDim] = {number, 0}, v[kDim] = {0, number};
    for (const int layer : layers_) {
      StoreKvRow(KvType::kF32, kDim, k, v, lanes_.WritablePage(layer, 0, rank),
                 lanes_.WritableSlot(layer, 0, rank));
    }
    lanes_.Advance();
    rows_ = token + 1;
  }
  void AfterToken() {
    EvictView view = View(1);
    ASSERT_TRUE(method_->AfterToken(view));
  }
  void AfterPrompt() {
    EvictView view = View(rows_);
    ASSERT_TRUE(method_->AfterPrompt(view));
  }

  std::span<const int32_t> Kept(int layer) const { return lanes_.Positions(layer, 0); }
  std::set<int32_t> Held() const {  // by any layer
    std::set<int32_t> held;
    for (const int layer : layers_) held.insert(Kept(layer).begin(), Kept(layer).end());
    return held;
  }
  uint64_t bytes() const { return lanes_.bytes(); }
  bool KeysAreTheirTokens() const {
    float k[kDim], v[kDim];
    for (const int layer : layers_) {
      for (int64_t i = 0; i < lanes_.Length(layer, 0); ++i) {
        lanes_.Load(layer, 0, i, k, v);
        const auto number = static_cast<float>(lanes_.PositionOf(layer, 0, i));
        if (k[0] != number || v[1] != number) return false;
      }
    }
    return true;
  }

 private:
  EvictView View(int64_t prompt) { return {shape_, 1, layers_, prompt, rows_, lanes_, {}}; }

  static constexpr float kOne = 1;
  const NaiveLadder::Form form_;
  KvShape shape_;
  HeapPages pages_;
  std::unique_ptr<EvictMethod> method_;
  LaneTable lanes_;
  std::vector<int> layers_;
  int64_t rows_ = 0;
};

using Numbers = std::vector<int32_t>;
Numbers Range(std::initializer_list<std::pair<int, int>> ranges, const Numbers& more = {}) {
  Numbers out;
  for (const auto& [from, to] : ranges) {
    for (int i = from; i <= to; ++i) out.push_back(i);
  }
  out.insert(out.end(), more.begin(), more.end());
  return out;
}
Numbers Listed(std::span<const int32_t> numbers) { return {numbers.begin(), numbers.end()}; }

// Four layers, 16 slots, each old token in two layers: the tables of the specification. Rungs are taken in
// turn (even and odd layers), or by halves.
TEST(LaCache, KeepsTheLadder) {
  for (const bool contiguous : {false, true}) {
    LadderStream stream({.layers = 4, .slots = 16, .span = 2, .overlap = 0, .contiguous = contiguous});
    const auto expect = [&](const Numbers& first, const Numbers& second) {
      for (int layer = 0; layer < 4; ++layer) {
        const bool on_first = contiguous ? layer < 2 : layer % 2 == 0;
        EXPECT_EQ(Listed(stream.Kept(layer)), on_first ? first : second) << layer << contiguous;
      }
    };
    for (int32_t i = 0; i < 40; ++i) {
      stream.Add(i);
      stream.AfterToken();
      if (i == 16) expect(Range({{0, 4}, {6, 16}}), Range({{0, 3}, {5, 16}}));
      if (i == 23) {
        expect(Range({{0, 4}}, {6, 8, 10, 12, 14, 16, 18, 20, 21, 22, 23}),
               Range({{0, 3}}, {5, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23}));
        EXPECT_EQ(stream.Held().size(), 24u) << "each is held somewhere";
      }
    }
    expect(Range({{0, 4}}, {12, 20, 24, 28, 30, 32, 34, 36, 37, 38, 39}),
           Range({{0, 3}}, {11, 19, 23, 27, 29, 31, 33, 35, 36, 37, 38, 39}));
    EXPECT_EQ(stream.Held().size(), 24u);
  }
}

struct LongStream {
  NaiveLadder::Form form;
  int32_t tokens;
  size_t held = 0;  // tokens that some layer holds after 2,000; 0: not in the specification
};
void PrintTo(const LongStream& s, std::ostream* out) {
  *out << fmt::format("{} layers, {} slots, span {}, overlap {}, {}", s.form.layers, s.form.slots,
                      s.form.span, s.form.overlap, s.form.contiguous ? "contiguous" : "interleaved");
}
class LaCacheStreams : public ::testing::TestWithParam<LongStream> {
 protected:
  // After token `last`.
  void Check(const LadderStream& stream, const NaiveLadder& ladder, int32_t last) {
    const auto& form = GetParam().form;
    const auto freed = static_cast<int32_t>(ladder.freed()), layers = static_cast<int32_t>(form.layers);
    const int64_t most = form.slots + freed / 2;
    const int64_t length = std::ssize(stream.Kept(0));
    ASSERT_LE(length, most);
    ASSERT_GT(length, std::min<int64_t>(last, most - freed));
    for (int layer = 0; layer < layers; ++layer) {
      const auto kept = stream.Kept(layer);
      ASSERT_TRUE(std::ranges::equal(kept, ladder.Layer(layer))) << layer << " after " << last;
      ASSERT_EQ(std::ranges::adjacent_find(kept, std::greater_equal<>{}), kept.end());
      const int32_t sinks = std::min(3, last), newest = std::min(layers - freed, last);
      ASSERT_EQ(kept[static_cast<size_t>(sinks)], sinks);
      ASSERT_EQ(kept[static_cast<size_t>(length - 1 - newest)], last - newest);
    }
  }
};

TEST_P(LaCacheStreams, KeepTheirInvariants) {
  const LongStream& run = GetParam();
  LadderStream stream(run.form);
  NaiveLadder ladder(run.form);
  uint64_t bytes = 0;
  for (int32_t i = 0; i < run.tokens; ++i) {
    stream.Add(i);
    stream.AfterToken();
    ladder.Add(i);
    ladder.Compact();
    ASSERT_NO_FATAL_FAILURE(Check(stream, ladder, i));
    if (i == 2 * run.form.slots) bytes = stream.bytes();
    if (bytes > 0) {
      ASSERT_EQ(stream.bytes(), bytes) << "after " << i;
    }
    if (i == 1999 && run.held > 0) {
      EXPECT_EQ(stream.Held().size(), run.held);
    }
  }
  EXPECT_TRUE(stream.KeysAreTheirTokens());
}

INSTANTIATE_TEST_SUITE_P(
    , LaCacheStreams,
    ::testing::Values(
        LongStream{{.layers = 4, .slots = 16, .span = 2, .overlap = 0}, 100'000},
        LongStream{{.layers = 4, .slots = 16, .span = 2, .overlap = 0, .contiguous = true}, 100'000},
        LongStream{{.layers = 30, .slots = 256, .span = 15, .overlap = 0}, 3000, 446},
        LongStream{{.layers = 30, .slots = 256, .span = 15, .overlap = 0, .contiguous = true}, 3000, 446},
        LongStream{{.layers = 30, .slots = 256, .span = 10, .overlap = 0}, 3000, 662},
        LongStream{{.layers = 30, .slots = 256, .span = 8, .overlap = 4}, 3000, 719},
        LongStream{{.layers = 30, .slots = 100, .span = 10, .overlap = 5}, 3000},
        LongStream{{.layers = 30, .slots = 80, .span = 9, .overlap = 3, .contiguous = true}, 3000},
        LongStream{{.layers = 24, .slots = 64, .span = 9, .overlap = 7}, 100'000},
        LongStream{{.layers = 28, .slots = 60, .span = 14, .overlap = 0}, 3000},
        LongStream{{.layers = 32, .slots = 128, .span = 9, .overlap = 3}, 3000}));

// Random layers take the ladder's places: as many hold a token, and others.
TEST(LaCache, RandomRungsHoldAsMuch) {
  const auto holders = [](const std::string& rungs) {
    LadderStream stream({.layers = 30, .slots = 100, .span = 10, .overlap = 0}, rungs);
    for (int32_t token = 0; token < 200; ++token) stream.Add(token);
    stream.AfterPrompt();
    std::map<int32_t, std::vector<int>> out;
    for (int layer = 0; layer < 30; ++layer) {
      for (const int32_t token : stream.Kept(layer)) out[token].push_back(layer);
    }
    return out;
  };
  const auto ladder = holders("interleaved"), one = holders("random,seed=1"),
             other = holders("random,seed=2");
  ASSERT_EQ(ladder.size(), one.size());
  for (const auto& [token, layers] : ladder) {
    ASSERT_TRUE(one.contains(token) && other.contains(token)) << token;
    EXPECT_EQ(one.at(token).size(), layers.size()) << token;
    EXPECT_EQ(other.at(token).size(), layers.size()) << token;
  }
  EXPECT_NE(one, ladder);
  EXPECT_NE(one, other);
  EXPECT_EQ(one, holders("random,seed=1"));
}

// A long prompt in one call needs several sweeps at once.
TEST(LaCache, OneCallForALongPrompt) {
  for (const int64_t overlap : {0, 5}) {
    for (const bool contiguous : {false, true}) {
      const NaiveLadder::Form form{.layers = 30,
                                   .slots = 60,
                                   .span = overlap == 0 ? 15 : 10,
                                   .overlap = overlap,
                                   .contiguous = contiguous};
      LadderStream stream(form);
      NaiveLadder ladder(form);
      for (int32_t i = 0; i < 1500; ++i) {
        stream.Add(i);
        ladder.Add(i);
      }
      stream.AfterPrompt();
      ladder.Compact();
      for (int layer = 0; layer < 30; ++layer) {
        const auto kept = stream.Kept(layer);
        EXPECT_TRUE(std::ranges::equal(kept, ladder.Layer(layer))) << layer;
        EXPECT_LE(kept.size(), 64u);
        EXPECT_EQ(kept.size(), stream.Kept(0).size());
        EXPECT_EQ(std::ranges::adjacent_find(kept, std::greater_equal<>{}), kept.end());
        EXPECT_EQ(kept.back(), 1499);
      }
    }
  }
}

}  // namespace
}  // namespace larder
