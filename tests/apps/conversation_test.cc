#include "larder/conversation.h"

#include <gtest/gtest.h>

namespace larder {
namespace {

using Tokens = std::vector<int32_t>;

TEST(Conversation, EachPromptBeginsWithTheOneBefore) {
  Conversation conversation;
  conversation.Ask({1, 2});
  EXPECT_EQ(conversation.Prompt(), (Tokens{1, 2}));
  conversation.Answer(Tokens{3});
  conversation.Ask({4});
  conversation.Answer(Tokens{5, 6});
  conversation.Ask({7});
  EXPECT_EQ(conversation.Prompt(), (Tokens{1, 2, 3, 4, 5, 6, 7}));
}

TEST(Conversation, TheOldestTurnGoesWithItsAnswer) {
  Conversation conversation(2);
  conversation.Ask({1});
  conversation.Answer(Tokens{2});
  conversation.Ask({3});
  EXPECT_EQ(conversation.Prompt(), (Tokens{1, 2, 3}));
  conversation.Ask({4});
  EXPECT_EQ(conversation.Prompt(), (Tokens{3, 4}));
}

}  // namespace
}  // namespace larder
