#include "larder/task_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <span>

#include "base/hash.h"

namespace larder {
namespace {

using Names = std::vector<std::string>;

// A generator whose numbers are the same everywhere; what the standard makes of them is not.
class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t Below(size_t n) { return static_cast<size_t>(engine_() % n); }
  template <typename T>
  const T& Of(std::span<const T> from) {
    return from[Below(from.size())];
  }
  template <typename T>
  void Shuffle(std::vector<T>& values) {
    for (size_t i = values.size(); i > 1; --i) std::swap(values[i - 1], values[Below(i)]);
  }

 private:
  std::mt19937_64 engine_;
};

// What a style says: facts, questions and filler.
class Style {
 public:
  virtual ~Style() = default;
  virtual const Names& keys() const = 0;
  virtual std::string Value(Random& random) const = 0;
  virtual std::string Filler(Random& random) const = 0;
  // `to_key`: the key is said to be the same as another key.
  virtual std::string Fact(const std::string& key, const std::string& what, bool to_key) const = 0;
  // chain: the key that is asked for, perhaps keys between, a value.
  virtual TaskTurn Turn(std::span<const std::string> chain) const = 0;
};

class Symbols final : public Style {
 public:
  Symbols() {
    for (const char c : kConsonants) {
      for (const char v : kVowels) {
        for (const char* ending : {"", "l", "n", "r", "s"}) keys_.push_back(std::string{c, v} + ending);
      }
    }
  }
  const Names& keys() const override { return keys_; }
  std::string Value(Random& random) const override {
    const char c = kConsonants[random.Below(kConsonants.size())];
    return {static_cast<char>(c - 'a' + 'A'), kVowels[random.Below(kVowels.size())]};
  }
  std::string Filler(Random& random) const override {
    return {' ', kVowels[random.Below(kVowels.size())], kConsonants[random.Below(kConsonants.size())]};
  }
  std::string Fact(const std::string& key, const std::string& what, bool) const override {
    return " " + key + " " + what + ".";
  }
  TaskTurn Turn(std::span<const std::string> chain) const override {
    TaskTurn turn{"? " + chain.front(), ""};
    for (const std::string& link : chain.subspan(1)) turn.answer += " " + link;
    return turn;
  }

 private:
  static constexpr std::string_view kConsonants = "bdfgklmnprstvwxz", kVowels = "aeiou";
  Names keys_;
};

constexpr std::array<std::string_view, 20> kAdjectives = {
    "red",   "blue", "green", "small", "large", "old",   "new",   "round", "square", "heavy",
    "light", "dark", "clean", "dusty", "broad", "short", "plain", "quiet", "cold",   "warm"};
constexpr std::array<std::string_view, 20> kNouns = {
    "apple",  "chair",  "lamp",   "bottle", "basket", "table",  "clock",  "window", "ladder", "hammer",
    "jacket", "mirror", "pencil", "bucket", "candle", "kettle", "pillow", "barrel", "wagon",  "bell"};
constexpr std::array<std::string_view, 16> kFiller = {
    " It had rained in the night, and the roads were still wet.",
    " Nobody was in a hurry that morning.",
    " The shop opened at nine and closed when the last customer had gone.",
    " A cart came up the hill and stopped in front of the gate.",
    " Someone had left the door open, so that the cat could come in.",
    " They talked about the harvest and the price of bread.",
    " The letters were sorted and put into their boxes.",
    " After lunch the children went down to the river.",
    " There was a smell of coffee in the hall.",
    " The train was late again, as it was on most days.",
    " In the evening the lights went on, one after another.",
    " The old map on the wall showed streets that were no longer there.",
    " He counted the coins twice and wrote the sum into a book.",
    " The garden behind the house was full of weeds.",
    " She read a page, turned it and began to smile.",
    " On Sundays the square was almost empty."};

class Sentences final : public Style {
 public:
  Sentences() {
    for (const auto adjective : kAdjectives) {
      for (const auto noun : kNouns) keys_.push_back(fmt::format("{} {}", adjective, noun));
    }
  }
  const Names& keys() const override { return keys_; }
  std::string Value(Random& random) const override { return std::to_string(1000 + random.Below(9000)); }
  std::string Filler(Random& random) const override {
    return std::string(random.Of(std::span<const std::string_view>(kFiller)));
  }
  std::string Fact(const std::string& key, const std::string& what, bool to_key) const override {
    if (to_key) return fmt::format(" The code of the {} is that of the {}.", key, what);
    return fmt::format(" The code of the {} is {}.", key, what);
  }
  TaskTurn Turn(std::span<const std::string> chain) const override {
    TaskTurn turn{fmt::format("\nQuestion: What is the code of the {0}?\nAnswer: The code of the {0} is",
                              chain.front()),
                  ""};
    for (const std::string& link : chain.subspan(1, chain.size() - 2))
      turn.answer += " that of the " + link + ", which is";
    turn.answer += " " + chain.back();
    return turn;
  }

 private:
  Names keys_;
};

std::unique_ptr<Style> StyleOf(std::string_view name) {
  if (name == "symbols") return std::make_unique<Symbols>();
  return std::make_unique<Sentences>();
}

// How many questions a session has.
int64_t TurnsOf(std::string_view task, const TaskOptions& options) {
  return task == "passkey" ? 1 : options.turns;
}

// Chains of distinct keys that end in a value: a few of them, or, for multi, as many as fit into `tokens`.
std::vector<Names> DrawChains(std::string_view task, const TaskOptions& options, const Style& style,
                              Random& random, const std::function<int64_t(std::string_view)>& count) {
  constexpr int64_t kFewFacts = 8;
  const int64_t most = task == "passkey" ? 1 : std::max(kFewFacts, options.turns);
  Names keys = style.keys();
  random.Shuffle(keys);
  const size_t links = task == "vt" ? 2 : 1;
  std::vector<Names> chains;
  int64_t room = options.tokens;
  for (size_t at = 0; at + links <= keys.size(); at += links) {
    if (task != "multi" && std::ssize(chains) >= most) break;
    Names chain(keys.begin() + static_cast<ptrdiff_t>(at), keys.begin() + static_cast<ptrdiff_t>(at + links));
    chain.push_back(style.Value(random));
    room -= count(style.Fact(chain.front(), chain.back(), false));
    if (task == "multi" && room < 0) break;
    chains.push_back(std::move(chain));
  }
  return chains;
}

}  // namespace

Result<TaskSession> MakeTaskSession(std::string_view task, const TaskOptions& options, uint64_t index,
                                    const std::function<int64_t(std::string_view)>& count) {
  const auto style = StyleOf(options.style);
  Random random(options.seed * 0x9e3779b97f4a7c15u + index * 0x100000001b3u +
                static_cast<uint64_t>(std::ranges::find(kTasks, task) - std::begin(kTasks)));
  const std::vector<Names> chains = DrawChains(task, options, *style, random, count);
  const int64_t turns = TurnsOf(task, options);
  if (std::ssize(chains) < turns) {
    return Fail(ErrorKind::kInvalid,
                "{} tokens have room for {} facts, and {} are asked for; give more "
                "--task-tokens or fewer --turns",
                options.tokens, chains.size(), turns);
  }
  std::vector<std::string> items;
  int64_t room = options.tokens;
  for (const Names& chain : chains) {
    for (size_t i = 0; i + 1 < chain.size(); ++i) {
      items.push_back(style->Fact(chain[i], chain[i + 1], i + 2 < chain.size()));
      room -= count(items.back());
    }
  }
  if (room < 0) {
    return Fail(ErrorKind::kInvalid, "the facts need {} tokens more than there are; give more --task-tokens",
                -room);
  }
  while (task != "multi") {
    std::string filler = style->Filler(random);
    room -= count(filler);
    if (room < 0) break;
    items.push_back(std::move(filler));
  }
  if (task == "passkey") {
    const auto before = std::lround(options.depth * static_cast<double>(items.size() - 1));
    std::rotate(items.begin(), items.begin() + 1, items.begin() + 1 + before);
  } else {
    random.Shuffle(items);
  }
  TaskSession session;
  for (const std::string& item : items) session.context += item;
  for (int64_t turn = 0; turn < turns; ++turn)
    session.turns.push_back(style->Turn(chains[static_cast<size_t>(turn)]));
  session.separator = ".";
  return session;
}

}  // namespace larder
