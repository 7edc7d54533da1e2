#include "engine/output.h"

#include <gtest/gtest.h>

#include <random>

namespace larder {
namespace {

// Token i stands for pieces[i]; token numbers from 1000 on are control tokens.
class PieceTokenizer final : public Tokenizer {
 public:
  explicit PieceTokenizer(std::vector<std::string> pieces) : pieces_(std::move(pieces)) {}
  std::vector<int32_t> Encode(std::string_view, EncodeOptions) const override { return {}; }
  std::string TokenBytes(int32_t token, bool special) const override {
    if (token >= 1000) return special ? "<end>" : "";
    return pieces_[static_cast<size_t>(token)];
  }
  std::string Decode(std::span<const int32_t> tokens, bool special) const override {
    std::string out;
    for (int32_t token : tokens) out += TokenBytes(token, special);
    return out;
  }

 private:
  std::vector<std::string> pieces_;
};

struct Shown {
  std::string text;                 // all that was shown, Finish included
  std::vector<std::string> pieces;  // what each Push showed
  std::string matched;
};

Shown Feed(const std::vector<std::string>& pieces, std::vector<std::string> stops, int64_t min_tokens = 0) {
  const PieceTokenizer tokenizer(pieces);
  OutputText output(&tokenizer, std::move(stops), true, min_tokens);
  Shown shown;
  for (size_t i = 0; i < pieces.size() && !output.stopped(); ++i) {
    shown.pieces.push_back(output.Push(static_cast<int32_t>(i)));
    shown.text += shown.pieces.back();
  }
  shown.text += output.Finish();
  shown.matched = output.matched();
  return shown;
}

TEST(Output, WithoutStopsTextIsShownAtOnce) {
  const Shown shown = Feed({"He", "llo", " you"}, {});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"He", "llo", " you"}));
  EXPECT_EQ(shown.matched, "");
}

TEST(Output, StopAcrossTokensIsNeverShown) {
  const Shown shown = Feed({"one ", "S", "T", "OP two"}, {"STOP"});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"one ", "", "", ""}));
  EXPECT_EQ(shown.text, "one ");
  EXPECT_EQ(shown.matched, "STOP");
}

TEST(Output, HeldTextIsReleasedWhenItTurnsOutToBeNoStop) {
  const Shown shown = Feed({"a S", "TO", "RE b"}, {"STOP"});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"a ", "", "STORE b"}));
}

TEST(Output, FinishReleasesWhatWasHeld) {
  const PieceTokenizer tokenizer({"a ST"});
  OutputText output(&tokenizer, {"STOP"}, true);
  EXPECT_EQ(output.Push(0), "a ");
  EXPECT_EQ(output.Finish(), "ST");
  EXPECT_FALSE(output.stopped());
  EXPECT_EQ(output.Finish(), "") << "only once";
}

TEST(Output, StopThatBeginsInsideAFailedOneIsFound) {
  EXPECT_EQ(Feed({"aa", "ab", "c"}, {"aab"}).text, "a");
  EXPECT_EQ(Feed({"ababa", "bac"}, {"ababac"}).text, "ab");
}

TEST(Output, OverlappingStopsEndAtTheFirstToComplete) {
  const Shown inner = Feed({"xabcdy"}, {"abcd", "bc"});
  EXPECT_EQ(inner.text, "xa");
  EXPECT_EQ(inner.matched, "bc");
  const Shown same_end = Feed({"xabcy"}, {"bc", "abc"});
  EXPECT_EQ(same_end.text, "x");
  EXPECT_EQ(same_end.matched, "abc");
}

TEST(Output, EmptyStopsAreIgnored) {
  const Shown shown = Feed({"abc"}, {"", ""});
  EXPECT_EQ(shown.text, "abc");
  EXPECT_EQ(shown.matched, "");
}

TEST(Output, CharactersAreNeverSplit) {
  const Shown shown = Feed({"\xF0\x9F", "\x98", "\x80!", "\xC3"}, {});
  EXPECT_EQ(shown.pieces, (std::vector<std::string>{"", "", "\xF0\x9F\x98\x80!", ""}));
  EXPECT_EQ(shown.text, "\xF0\x9F\x98\x80!\xEF\xBF\xBD");
}

TEST(Output, StopOfManyBytesSplitAnywhere) {
  const std::string stop = "\xE2\x98\x83\xE2\x98\x84";
  const std::string text = "\xE2\x98\x83 snow " + stop + "more";
  for (size_t a = 0; a <= text.size(); ++a) {
    for (size_t b = a; b <= text.size(); ++b) {
      const Shown shown = Feed({text.substr(0, a), text.substr(a, b - a), text.substr(b)}, {stop});
      EXPECT_EQ(shown.text, "\xE2\x98\x83 snow ") << a << " " << b;
      EXPECT_EQ(shown.matched, stop);
    }
  }
}

TEST(Output, AStopThatIsNoUtf8DoesNotSplitACharacter) {
  EXPECT_EQ(Feed({"x\xE2\x98\x83y"}, {"\x98\x83"}).text, "x");
  EXPECT_EQ(Feed({"x\xE2\x98\x83"}, {"\x83z"}).pieces[0], "x");
}

TEST(Output, ControlTokensGiveTextOnlyWhenAsked) {
  const PieceTokenizer tokenizer({"a"});
  OutputText hidden(&tokenizer, {}, true), shown(&tokenizer, {}, false);
  EXPECT_EQ(hidden.Push(1000), "");
  EXPECT_EQ(shown.Push(1000), "<end>");
}

TEST(Output, NothingIsShownAfterAStop) {
  const PieceTokenizer tokenizer({"a.b", "c"});
  OutputText output(&tokenizer, {"."}, true);
  EXPECT_EQ(output.Push(0), "a");
  EXPECT_EQ(output.Push(1), "");
  EXPECT_EQ(output.Finish(), "");
}

TEST(Output, MinTokensDelaysTheSearch) {
  EXPECT_EQ(Feed({"a.", "b.", "c.", "d"}, {"."}, 3).text, "a.b.c");
  EXPECT_EQ(Feed({"a.", "b."}, {"."}, 1).text, "a");
}

// What is shown does not depend on where tokens end, and it is the text up to the first complete stop.
TEST(Output, EqualsTheSearchOverTheWholeText) {
  std::mt19937 random(7);
  for (int round = 0; round < 3000; ++round) {
    const auto word = [&](size_t most) {
      std::string out;
      for (size_t n = random() % (most + 1); n > 0; --n) out += static_cast<char>('a' + random() % 3);
      return out;
    };
    const std::string text = word(20);
    std::vector<std::string> stops;
    for (size_t n = random() % 4; n > 0; --n) stops.push_back(word(4));
    std::string expected = text, matched;
    for (size_t end = 1; end <= text.size() && matched.empty(); ++end)
      for (const std::string& stop : stops)
        if (!stop.empty() && text.substr(0, end).ends_with(stop) && stop.size() > matched.size()) {
          matched = stop;
          expected = text.substr(0, end - stop.size());
        }
    std::vector<std::string> pieces;
    for (size_t at = 0; at < text.size();) {
      const size_t n = 1 + random() % 4;
      pieces.push_back(text.substr(at, n));
      at += n;
    }
    const Shown shown = Feed(pieces, stops);
    ASSERT_EQ(shown.text, expected) << text;
    ASSERT_EQ(shown.matched, matched) << text;
  }
}

}  // namespace
}  // namespace larder
