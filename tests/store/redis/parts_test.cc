// URLs, the protocol, slots and keys, without a server.
#include <gtest/gtest.h>

#include "store/redis/layout.h"
#include "store/redis/resp.h"
#include "store/redis/slots.h"
#include "store/redis/url.h"
#include "tests/store/store_fixture.h"

namespace larder {
namespace {

TEST(RedisUrl, FormsThatAreRight) {
  auto url = ParseRedisUrl("redis://localhost").value();
  EXPECT_FALSE(url.tls);
  EXPECT_EQ(url.endpoints, (std::vector<RedisEndpoint>{{"localhost", 6379}}));
  url = ParseRedisUrl("rediss://me:p%40ss%3a@h.example:1,10.0.0.2:65535,[::1]:7").value();
  EXPECT_TRUE(url.tls);
  EXPECT_EQ(url.user, "me");
  EXPECT_EQ(url.password, "p@ss:");
  EXPECT_EQ(url.endpoints, (std::vector<RedisEndpoint>{{"h.example", 1}, {"10.0.0.2", 65535}, {"::1", 7}}));
  EXPECT_EQ(url.endpoints[2].ToString(), "[::1]:7");
  EXPECT_EQ(ParseRedisUrl("redis://:secret@[::1]")->password, "secret");
}

TEST(RedisUrl, WrongFormsNameTheRightOneAndNoPassword) {
  for (const std::string text :
       {"", "localhost:6379", "http://h:1", "redis://", "redis://h:0", "redis://h:65536", "redis://h:x",
        "redis://h:", "redis://h:1,", "redis://,h:1", "redis://h:1/3", "redis://h h:1", "redis://user@h:1",
        "redis://user:@h:1", "redis://u:secret%4@h:1", "redis://u:secret%zz@h:1", "redis://u:secret@:1",
        "redis://[]:1"}) {
    const auto url = ParseRedisUrl(text);
    ASSERT_FALSE(url) << text;
    EXPECT_EQ(url.error().kind, ErrorKind::kInvalid);
    EXPECT_NE(url.error().message.find("redis://[user:password@]host:port"), std::string::npos);
    EXPECT_EQ(url.error().message.find("secret"), std::string::npos);
  }
}

TEST(Resp, CommandsAreFormatted) {
  EXPECT_EQ(RespCommand({"SET", "k", std::string_view("a\0\r\n", 4)}).text(),
            std::string("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\0\r\n\r\n", 30));
  EXPECT_EQ(RespCommand({""}).text(), "*1\r\n$0\r\n\r\n");
}

TEST(Resp, AnswersArriveInPieces) {
  RespReader reader;
  const std::string stream =
      "+OK\r\n-ERR no\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n*3\r\n:1\r\n$1\r\nx\r\n*1\r\n+y\r\n*0\r\n*-1\r\n";
  std::vector<RespValue> values;
  for (const char c : stream) {
    ASSERT_TRUE(reader.Feed({&c, 1}));
    const auto next = reader.Next(1000);
    ASSERT_TRUE(next);
    if (*next) values.push_back(**next);
  }
  ASSERT_EQ(values.size(), 8u);
  EXPECT_TRUE(values[0].IsStatus("OK"));
  EXPECT_EQ(values[1].type, RespValue::Type::kError);
  EXPECT_EQ(values[1].text, "ERR no");
  EXPECT_EQ(values[2].integer, -7);
  EXPECT_EQ(values[3].text, "a\r\n");
  EXPECT_TRUE(values[4].IsNil());
  ASSERT_EQ(values[5].elements.size(), 3u);
  EXPECT_EQ(values[5].elements[1].text, "x");
  EXPECT_EQ(values[5].elements[2].elements[0].text, "y");
  EXPECT_TRUE(values[6].elements.empty());
  EXPECT_TRUE(values[7].IsNil());
  EXPECT_EQ(reader.buffered(), 0u);
}

TEST(Resp, WhatIsNotTheProtocolIsAnError) {
  for (const std::string text :
       {"hello\r\n", "$5x\r\n", "$-2\r\n", ":a\r\n", "*-2\r\n", "$3\r\nabcdef\r\n*x\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"}) {
    RespReader reader;
    ASSERT_TRUE(reader.Feed(text));
    auto next = reader.Next(1000);
    while (next && *next) next = reader.Next(1000);
    // A text of another length than announced is only seen with what follows it.
    EXPECT_TRUE(!next || reader.buffered() > 0) << text;
  }
}

TEST(Resp, MoreThanAskedForIsRefusedBeforeItIsGathered) {
  for (const std::string text : {"*2147483647\r\n", "*100000\r\n:1\r\n"}) {
    RespReader reader;
    ASSERT_TRUE(reader.Feed(text));
    EXPECT_FALSE(reader.Next(1000)) << text;
  }
  for (const std::string start : {"$4000000000\r\n", "+", "*2\r\n$2000000\r\n", ""}) {
    RespReader reader;
    ASSERT_TRUE(reader.Feed(start));
    bool refused = !reader.Next(1000);
    for (int i = 0; i < 40 && !refused; ++i) {
      ASSERT_TRUE(reader.Feed(start.empty() ? std::string("*1\r\n") : std::string(100, 'x')));
      refused = !reader.Next(1000);
    }
    EXPECT_TRUE(refused) << start;
  }
  RespReader reader;
  ASSERT_TRUE(reader.Feed("$2000\r\n" + std::string(2000, 'x') + "\r\n"));
  EXPECT_FALSE(reader.Next(1000));
}

TEST(RedisSlots, FollowTheSpecification) {
  EXPECT_EQ(Crc16("123456789"), 0x31c3);
  EXPECT_EQ(RedisSlot("foo"), 12182);
  EXPECT_EQ(RedisSlot(""), 0);
}

TEST(RedisSlots, RedirectionsAreRead) {
  const RedisEndpoint asked{"h", 1};
  const auto moved = ParseRedirection("MOVED 3999 127.0.0.1:6381", asked).value();
  EXPECT_FALSE(moved.ask);
  EXPECT_EQ(moved.slot, 3999);
  EXPECT_EQ(moved.to, (RedisEndpoint{"127.0.0.1", 6381}));
  EXPECT_TRUE(ParseRedirection("ASK 1 ::1:7", asked)->ask);
  EXPECT_EQ(ParseRedirection("ASK 1 ::1:7", asked)->to, (RedisEndpoint{"::1", 7}));
  EXPECT_EQ(ParseRedirection("MOVED 1 :7", asked)->to, (RedisEndpoint{"h", 7}));
  EXPECT_EQ(ParseRedirection("ERR no", asked).error().kind, ErrorKind::kNotFound);
  for (const std::string_view bad :
       {"MOVED", "MOVED ", "MOVED x h:1", "MOVED 16384 h:1", "MOVED 1", "MOVED 1 ", "MOVED 1 h:0",
        "MOVED 1 h:99999", "MOVED -1 h:1", "ASK 1 h h:1"})
    EXPECT_FALSE(ParseRedirection(bad, asked)) << bad;
}

RespValue Number(int64_t n) { return {.type = RespValue::Type::kInteger, .integer = n}; }
RespValue Text(const std::string& s) { return {.type = RespValue::Type::kString, .text = s}; }
RespValue Array(std::vector<RespValue> e) {
  return {.type = RespValue::Type::kArray, .elements = std::move(e)};
}

TEST(RedisSlots, MapsAreRead) {
  const RedisEndpoint asked{"h", 1};
  const auto map =
      ParseClusterSlots(Array({Array({Number(0), Number(5), Array({Text("a"), Number(7), Text("id")})}),
                               Array({Number(6), Number(16383), Array({Text(""), Number(8)})})}),
                        asked)
          .value();
  ASSERT_EQ(map.size(), 2u);
  EXPECT_EQ(map[0].last, 5);
  EXPECT_EQ(map[0].master, (RedisEndpoint{"a", 7}));
  EXPECT_EQ(map[1].master, (RedisEndpoint{"h", 8}));
  const auto node = [](int64_t port) { return Array({Text("a"), Number(port)}); };
  for (const RespValue& bad :
       {Text("x"), Array({Text("x")}), Array({Array({Number(0), Number(5)})}),
        Array({Array({Number(5), Number(0), node(1)})}), Array({Array({Number(0), Number(16384), node(1)})}),
        Array({Array({Number(-1), Number(1), node(1)})}), Array({Array({Number(0), Number(1), node(70000)})}),
        Array({Array({Number(0), Number(1), Text("a:1")})})})
    EXPECT_FALSE(ParseClusterSlots(bad, asked));
}

TEST(RedisLayout, KeysAreAsDocumented) {
  const Digest name{{1, 2, 0xff}};
  const std::string hex = "0102ff" + std::string(58, '0');
  EXPECT_EQ(RedisHeadKey(name), "larder:v1:" + hex);
  EXPECT_EQ(RedisChildrenKey(name), "larder:v1:c:" + hex);
  const RedisPlace place{.name = name, .space = {0xab}, .tag = 0x1f};
  EXPECT_EQ(RedisPartKey(place, 0), RedisHeadKey(name));
  EXPECT_EQ(RedisPartKey(place, 12),
            "larder:v1:p:ab" + std::string(30, '0') + ":" + hex + ":000000000000001f:12");
  EXPECT_EQ(RedisNameInKey(RedisHeadKey(name)), name);
  for (const std::string& other : {RedisChildrenKey(name), RedisPartKey(place, 1), std::string("larder:v1:"),
                                   "larder:v1:" + std::string(64, 'g'), "larder:v2:" + hex})
    EXPECT_FALSE(RedisNameInKey(other)) << other;
}

TEST(RedisLayout, AHeadTellsWhereItsRecordLies) {
  const TestRecord record = MakeTestRecord(1, {100, kRedisPartBytes}, {9}, TestName(2));
  const RecordHead head = MakeRecordHead(record.header, record.payload(), 1, nullptr).value();
  std::vector<std::byte> bytes;
  ASSERT_TRUE(EncodeRecordHead(head, nullptr, bytes));
  const RedisPlace place = RedisPlaceOf(bytes).value();
  EXPECT_EQ(place.name, record.header.name);
  EXPECT_EQ(place.parent, TestName(2));
  EXPECT_EQ(place.space, (SpaceId{9}));
  EXPECT_EQ(place.head_bytes, bytes.size());
  EXPECT_EQ(place.stored_bytes, bytes.size() + 100 + kRedisPartBytes);
  EXPECT_EQ(place.parts(), 2u);
  for (size_t i = 0; i < bytes.size(); ++i) {
    auto bad = bytes;
    bad[i] ^= std::byte{1};
    EXPECT_FALSE(RedisPlaceOf(bad)) << i;
    EXPECT_FALSE(RedisPlaceOf(std::span(bytes).first(i))) << i;
  }
}

}  // namespace
}  // namespace larder
