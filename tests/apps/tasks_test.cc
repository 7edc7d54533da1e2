// Retrieval tasks: their texts follow from the seed, have one right answer, and are the same tokens in one
// piece as in parts; the constructed model and the trained one solve them with the full cache, and a method
// that has dropped the answer does not.
#include <gtest/gtest.h>

#include <set>

#include "larder/eval_tasks.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

int64_t Letters(std::string_view text) { return static_cast<int64_t>(text.size()); }

std::string Whole(const TaskSession& session) {
  std::string text = session.context;
  for (const TaskTurn& turn : session.turns) text += turn.question + turn.answer + session.separator;
  return text;
}

TEST(TaskText, FollowsFromItsSeed) {
  for (const auto task : kTasks) {
    for (const char* style : {"symbols", "sentences"}) {
      const TaskOptions options{style, 4000, 3, 7};
      const auto one = MakeTaskSession(task, options, 5, Letters),
                 again = MakeTaskSession(task, options, 5, Letters),
                 other = MakeTaskSession(task, options, 6, Letters);
      ASSERT_TRUE(one && again && other) << one.error().message;
      EXPECT_EQ(Whole(*one), Whole(*again));
      EXPECT_NE(Whole(*one), Whole(*other));
      EXPECT_LE(Letters(one->context), 4000);
      EXPECT_GT(Letters(one->context), 3000);  // all keys of the symbols
    }
  }
}

// Every key that is asked for stands in the context once as a key, and its answer right behind it.
TEST(TaskText, HasOneRightAnswer) {
  for (const auto task : kTasks) {
    const auto session = MakeTaskSession(task, {"symbols", 2000, 5, 1}, 0, Letters);
    ASSERT_TRUE(session);
    std::set<std::string> asked;
    for (const TaskTurn& turn : session->turns) {
      const std::string key = turn.question.substr(1);
      EXPECT_TRUE(asked.insert(key).second) << "asked twice: " << key;
      const std::string first = turn.answer.substr(0, turn.answer.find(' ', 1));
      EXPECT_NE(session->context.find(key + first + "."), std::string::npos) << key << first;
      EXPECT_EQ(session->context.find(key + " "), session->context.rfind(key + " ")) << key;
      EXPECT_EQ(std::ranges::count(turn.answer, ' '), task == "vt" ? 2 : 1);
    }
  }
  EXPECT_EQ(
      MakeTaskSession("vt", {"sentences", 4000, 1, 1}, 0, Letters)->turns[0].answer.find(" that of the "),
      0u);
}

// The same fact and the same filler, at the place that was asked for.
TEST(TaskText, PutsThePassKeyAtItsDepth) {
  for (const char* style : {"symbols", "sentences"}) {
    std::string filler;
    for (const double depth : kPasskeyDepths) {
      const auto session = MakeTaskSession("passkey", {style, 6000, 5, 3, depth}, 2, Letters);
      ASSERT_TRUE(session) << session.error().message;
      ASSERT_EQ(session->turns.size(), 1u);
      const std::string value = session->turns[0].answer + ".";
      const size_t end = session->context.find(value) + value.size();
      ASSERT_EQ(session->context.find(value), session->context.rfind(value)) << session->context;
      const size_t begin = session->context.rfind(
          style[1] == 'y' ? session->turns[0].question.substr(1) : " The code of the ", end);
      std::string rest = session->context;
      rest.erase(begin, end - begin);
      if (filler.empty()) filler = rest;
      EXPECT_EQ(rest, filler);
      EXPECT_NEAR(static_cast<double>(begin) / static_cast<double>(rest.size()), depth, 0.02) << style;
    }
  }
}

TEST(TaskText, RefusesWhatDoesNotFit) {
  EXPECT_FALSE(MakeTaskSession("kv", {"symbols", 20, 5, 1}, 0, Letters));
  EXPECT_FALSE(MakeTaskSession("multi", {"symbols", 20, 5, 1}, 0, Letters));
}

class Retrieval : public ::testing::Test {
 protected:
  explicit Retrieval(const char* file = "models/retr-tiny.gguf", int64_t tokens = 400)
      : path_(testing::DataPath(file)),
        tokens_(tokens),
        model_(testing::LoadModel(path_, MathMode::kFast, KvType::kI16, 2)) {}

  std::vector<int32_t> Encode(const std::string& text) const {
    return model_->tokenizer().Encode(text, {.add_special = false, .parse_special = false});
  }
  int64_t Count(std::string_view text) const { return std::ssize(Encode(std::string(text))); }

  std::vector<std::vector<SessionScore>> Ask(const std::string& methods, const std::string& budgets,
                                             std::string_view task, int sessions, double depth = 0.5) {
    auto arms = PlanArms(methods, budgets, 4, 32, *model_);
    LARDER_CHECK(arms.has_value());
    std::vector<std::unique_ptr<Model>> codecs;
    for (const Arm& arm : *arms) {
      if (arm.kind == ArmKind::kCodec)
        codecs.push_back(testing::LoadModel(path_, MathMode::kFast, KvType::kI16, 1, arm.spec));
    }
    auto runner = ArmRunner::Create(*model_, *arms, std::move(codecs), tokens_ + 100);
    LARDER_CHECK(runner.has_value());
    std::vector<std::vector<SessionScore>> out;
    for (int s = 0; s < sessions; ++s) {
      const auto session = MakeTaskSession(task, {"symbols", tokens_, 3, 2, depth}, static_cast<uint64_t>(s),
                                           [&](std::string_view text) { return Count(text); });
      LARDER_CHECK(session.has_value());
      auto scores = RunTaskSession(**runner, *session, model_->tokenizer());
      LARDER_CHECK(scores.has_value());
      out.push_back(*std::move(scores));
    }
    arms_ = *arms;
    return out;
  }
  TaskCell Cell(size_t arm, const std::vector<std::vector<SessionScore>>& scores) {
    return CellOf(arms_[arm], "kv", arm, scores);
  }

  std::string path_;
  int64_t tokens_;
  std::unique_ptr<Model> model_;
  std::vector<Arm> arms_;
};

// The model of scripts/train_retrieval, at the length that methods are compared at.
class TrainedRetrieval : public Retrieval {
 protected:
  TrainedRetrieval() : Retrieval("models/retr-trained.gguf", 1024) {}
};

TEST_F(Retrieval, TextsAreTheSameTokensInParts) {
  for (const auto task : kTasks) {
    const auto session = MakeTaskSession(task, {"symbols", tokens_, 3, 2}, 0,
                                         [&](std::string_view text) { return Count(text); });
    ASSERT_TRUE(session);
    std::vector<int32_t> parts = Encode(session->context);
    EXPECT_LE(std::ssize(parts), tokens_);
    for (const TaskTurn& turn : session->turns) {
      for (const std::string& text : {turn.question, turn.answer, session->separator}) {
        const auto some = Encode(text);
        parts.insert(parts.end(), some.begin(), some.end());
      }
    }
    EXPECT_EQ(parts, Encode(Whole(*session)));
  }
}

TEST_F(Retrieval, TheFullCacheAndExactCodecsSolveAllTasks) {
  for (const auto task : kTasks) {
    const auto scores = Ask("full,q8_0,snapkv", "100000", task, 2);
    for (size_t arm = 0; arm < arms_.size(); ++arm) {
      const TaskCell cell = Cell(arm, scores);
      EXPECT_EQ(cell.first.right, 1) << task << arms_[arm].method;
      EXPECT_EQ(cell.later.right, cell.later.answers > 0 ? 1 : 0) << task << arms_[arm].method;
      EXPECT_EQ(cell.hidden.right, 1) << task << arms_[arm].method;
      EXPECT_GT(cell.hidden.log_probability, -0.2);
    }
  }
}

// With room for a tenth, recency has lost what the context said; a method that has seen the question keeps
// its answer and loses those of the others; who knows the future keeps what is asked for.
TEST_F(Retrieval, WhatIsDroppedIsNotAnswered) {
  const auto scores = Ask("streaming,snapkv:window=4,oracle", "48", "multi", 4);
  const TaskCell recency = Cell(0, scores), snapkv = Cell(1, scores), oracle = Cell(2, scores);
  EXPECT_LE(recency.first.right, 0.25);
  EXPECT_LE(recency.hidden.right, 0.25);
  EXPECT_EQ(snapkv.first.right, 1);
  EXPECT_LE(snapkv.later.right, 0.4);
  EXPECT_LE(snapkv.hidden.right, 0.4);
  EXPECT_EQ(oracle.first.right, 1);
  EXPECT_EQ(oracle.hidden.right, 1);
  EXPECT_LT(recency.hidden.log_probability, oracle.hidden.log_probability);
  EXPECT_LT(recency.bytes, 0.5);
}

// The task has teeth: recency knows the key at the end alone. Who has seen the question knows it anywhere.
TEST_F(Retrieval, RecencyLosesThePassKeyInTheMiddle) {
  for (const double depth : kPasskeyDepths) {
    const auto scores = Ask("full,streaming,snapkv:window=4", "48", "passkey", 3, depth);
    const TaskCell full = Cell(0, scores), recency = Cell(1, scores), snapkv = Cell(2, scores);
    EXPECT_EQ(full.hidden.right, 1) << depth;
    EXPECT_EQ(full.later.answers, 0);
    EXPECT_EQ(snapkv.first.right, 1) << depth;
    if (depth == 1) {
      EXPECT_EQ(recency.first.right, 1);
      EXPECT_EQ(recency.hidden.right, 1);
    } else if (depth > 0) {
      EXPECT_LE(recency.first.right, 0.34) << depth;
      EXPECT_LE(recency.hidden.right, 0.34) << depth;
    }
  }
}

TEST(PrefillCost, CountsTheContextOnceOrForEveryQuestion) {
  PrefillCost cost;
  EXPECT_EQ(cost.Shown(), "");
  SessionScore session;
  session.context_tokens = 100, session.question_tokens = 20;
  session.hidden.resize(1);
  cost.Add(session);
  EXPECT_EQ(cost.shared, 0) << "one question shares nothing";
  session.hidden.resize(5);
  cost.Add(session);
  EXPECT_EQ(cost.shared, 120);
  EXPECT_EQ(cost.again, 520);
  EXPECT_NE(cost.Shown().find("4.33 times"), std::string::npos) << cost.Shown();
}

TEST_F(TrainedRetrieval, TheFullCacheSolvesAllTasks) {
  for (const auto task : {"kv", "multi", "vt"}) {
    const TaskCell cell = Cell(0, Ask("full", "100000", task, 8));
    EXPECT_GE(cell.first.right, 0.95) << task;
    EXPECT_GE(cell.later.right, 0.95) << task;
    EXPECT_GE(cell.hidden.right, 0.95) << task;
  }
}

TEST(TaskScores, AreMadeByHand) {
  const auto session = [](std::vector<bool> directed, std::vector<bool> hidden) {
    SessionScore score;
    for (const bool right : directed) score.directed.push_back({right ? -0.5 : -3, right});
    for (const bool right : hidden) score.hidden.push_back({-1, right});
    score.resident_bytes = 25, score.full_bytes = 100;
    return std::vector<SessionScore>{score};
  };
  const TaskCell cell =
      CellOf({"a", "0.5", ""}, "kv", 0,
             {session({true, true, false}, {false, false}), session({true, false, false}, {true, false})});
  EXPECT_EQ(cell.first.right, 1);
  EXPECT_EQ(cell.later.right, 0.25);
  EXPECT_EQ(cell.hidden.right, 0.25);
  EXPECT_EQ(cell.first.log_probability, -0.5);
  EXPECT_EQ(cell.later.log_probability, (-0.5 - 9) / 4);
  EXPECT_EQ(cell.bytes, 0.25);
  EXPECT_LE(cell.later.low, 0.25);
  EXPECT_GE(cell.later.high, 0.25);
  TaskCell deep = cell;
  deep.task = "passkey", deep.depth = 0.25, deep.later = {};
  TasksResult result{.model = "m", .cells = {cell, deep}};
  EXPECT_NE(TasksJson(result).find("\"later\":null"), std::string::npos);
  EXPECT_NE(TasksJson(result).find("\"depth\":0.25"), std::string::npos);
  EXPECT_NE(TasksHtml(result).find("<th>budget<th>depth"), std::string::npos);
  EXPECT_NE(TasksJson(result).find("\"later\":{\"right\":0.25"), std::string::npos);
  EXPECT_NE(TasksHtml(result).find("<svg"), std::string::npos);
}

}  // namespace
}  // namespace larder
