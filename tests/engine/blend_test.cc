// Requests that use stored chunks through the engine: computing every row again changes no bit, answers do
// not depend on threads, neighbours, warm prefixes or preemption, nothing is published under exact names,
// chunks stay with their tenant and outlive the process, all memory comes back.
#include <algorithm>
#include <chrono>
#include <future>

#include "kv/reuse/chunk_record.h"
#include "tests/engine/blend_fixture.h"
#include "tests/kv/memory_tier.h"

namespace larder::testing {
namespace {

TEST_P(BlendTest, ComputingEveryRowAgainChangesNoBit) {
  const auto model = Load(2);
  for (const Tokens& prompt : {system_ + a_ + b_ + c_ + question_, a_ + c_, c_ + question_ + b_,
                               question_ + b_, system_ + Text(9, 200) + a_ + question_}) {
    const auto full = Ask(*Start(*model), prompt, "prefix");
    const auto blended = Ask(*StartWith(*model, {a_, b_, c_}), prompt, "blend:ratio=1");
    ExpectSame(*blended, *full, fmt::format("{} rows", prompt.size()));
    EXPECT_GT(blended->report.blend.uses.size(), 0u);
    EXPECT_EQ(blended->report.read_chunks, 0);
    if (!IsDeep()) continue;
    const auto part = Ask(*StartWith(*model, {a_, b_, c_}), prompt, "blend:ratio=0.2");
    EXPECT_FALSE(Same(*part, *full)) << prompt.size();
  }
}

TEST_P(BlendTest, TheReportAddsUp) {
  const auto model = Load(2);
  const auto core = StartWith(*model, {a_, b_});
  const Tokens prompt = system_ + b_ + a_ + question_;
  Ask(*core, system_, "prefix", 1);
  const auto answer = Ask(*core, prompt, "blend:ratio=0.25");
  const BlendReport& blend = answer->report.blend;
  EXPECT_EQ(blend.method, "blend:ratio=0.25");
  ASSERT_EQ(blend.uses.size(), 2u);
  EXPECT_EQ(blend.uses[0].begin, 30);
  EXPECT_EQ(blend.uses[0].rows, 64);
  EXPECT_EQ(blend.uses[1].begin, 94);
  EXPECT_EQ(blend.uses[1].rows, 130);
  EXPECT_EQ(blend.covered, 194);
  EXPECT_EQ(blend.again, 48);  // a quarter of them
  EXPECT_EQ(answer->report.read_chunks, 146);
  EXPECT_EQ(answer->usage.cached_tokens, answer->report.read_memory);
  EXPECT_EQ(blend.fresh + blend.covered + answer->report.read_memory, std::ssize(prompt));
  EXPECT_EQ(answer->report.recomputed + answer->report.read_chunks + answer->report.read_memory,
            std::ssize(prompt));
  const auto exact = Ask(*core, Text(77, 50), "blend");
  EXPECT_EQ(exact->report.blend.method, "");
  EXPECT_EQ(exact->report.read_chunks, 0);
}

TEST_P(BlendTest, ThreadsAndNeighboursDoNotMatter) {
  const auto two = Load(2), one = Load(1);
  const Tokens prompt = system_ + a_ + question_ + c_ + b_ + question_;
  for (const std::string method : {"blend:ratio=0.15", "blend:ratio=0,by=k", "blend:ratio=0.3,select=random",
                                   "blend:ratio=0.3,select=first,reposition=false"}) {
    const auto expected = Ask(*StartWith(*two, {a_, b_, c_}), prompt, method);
    ExpectSame(*Ask(*StartWith(*one, {c_, b_, a_}), prompt, method), *expected, method + " one thread");
    for (const int64_t rows : {1, 7, 64}) {
      EngineOptions options;
      options.max_batch_rows = rows;
      ExpectSame(*Ask(*StartWith(*two, {a_, b_, c_}, options), prompt, method), *expected, method);
    }
    const auto core = StartWith(*two, {a_, b_, c_});
    const auto plain = Add(*core, Make(prompt, "prefix"));
    const auto blended = Add(*core, Make(prompt, method));
    const auto other = Add(*core, Make(system_ + c_ + a_ + question_, "blend:ratio=0.5", 30));
    Request evicts = Make(prompt, "prefix", 30);
    evicts.evict = "h2o:budget=40";
    const auto evicting = Add(*core, evicts);
    Finish(*core);
    ExpectSame(*blended, *expected, method + " among others");
    ExpectSame(*plain, *Ask(*Start(*two), prompt, "prefix"), "plain beside " + method);
    EXPECT_TRUE(other->finished);
    const auto alone = Start(*two);
    const auto evicting_alone = Add(*alone, evicts);
    Finish(*alone);
    ExpectSame(*evicting, *evicting_alone, "h2o beside " + method);
  }
}

TEST_P(BlendTest, WarmEqualsColdAndNothingIsPublished) {
  const auto model = Load(2);
  const Tokens prompt = system_ + Text(6, 100) + a_ + b_ + question_;
  const auto core = StartWith(*model, {a_, b_});
  const auto cold = Ask(*core, prompt, "blend:ratio=0.1");
  EXPECT_EQ(cold->report.read_memory, 0);
  EXPECT_EQ(core->cache().stats().blocks, 0u);
  EXPECT_EQ(core->Stats().private_bytes, 0u);
  Ask(*core, {prompt.begin(), prompt.begin() + 129}, "prefix", 1);
  const auto warm = Ask(*core, prompt, "blend:ratio=0.1");
  EXPECT_GT(warm->report.read_memory, 0);
  ExpectSame(*warm, *cold, "warm");
  ExpectSame(*Ask(*core, prompt, "prefix"), *Ask(*Start(*model), prompt, "prefix"), "full afterwards");
  // Rows of the exact cache that lie behind the first chunk are not mixed in.
  const auto again = Ask(*core, prompt, "blend:ratio=0.1");
  ExpectSame(*again, *cold, "beside the exact text");
}

TEST_P(BlendTest, PreemptedRequestsGoOnAsIfNothingHadHappened) {
  const auto model = Load(2);
  const auto prompt = [&](uint32_t i) { return Text(20 + i, 40) + a_ + c_ + Text(40 + i, 60); };
  std::vector<std::shared_ptr<Answer>> alone, together;
  for (uint32_t i = 0; i < 4; ++i)
    alone.push_back(Ask(*StartWith(*model, {a_, c_}), prompt(i), "blend:ratio=0.2", 80));
  const uint64_t one = alone[0]->report.held.peak_private_bytes;
  EngineOptions options;
  options.max_batch_rows = 200;
  options.cache.limit_bytes = 2 * (144 << 10) + 3 * one;
  const auto tight = StartWith(*model, {a_, c_}, options);
  ASSERT_EQ(tight->chunks().stats().chunks, 2u);
  for (uint32_t i = 0; i < 4; ++i) together.push_back(Add(*tight, Make(prompt(i), "blend:ratio=0.2", 80)));
  Finish(*tight);
  int64_t preemptions = 0;
  for (size_t i = 0; i < 4; ++i) {
    ExpectSame(*together[i], *alone[i], fmt::format("request {}", i));
    preemptions += together[i]->report.preemptions;
  }
  EXPECT_GT(preemptions, 0);
}

TEST_P(BlendTest, AChunkStaysWithItsTenant) {
  const auto model = Load(1);
  const auto core = Start(*model);
  Store(*core, {1}, a_, "t");
  Request r = Make(system_ + a_ + question_, "blend:ratio=0");
  r.tenant = "u";
  const auto other = Add(*core, r);
  Finish(*core);
  EXPECT_EQ(other->report.blend.method, "");
  ExpectSame(*other, *Ask(*Start(*model), r.prompt, "prefix"), "another tenant");
  EXPECT_EQ(Ask(*core, r.prompt, "blend:ratio=0")->report.read_chunks, 130);
  core->derived().Forget("t");
  EXPECT_EQ(Ask(*core, r.prompt, "blend:ratio=0")->report.read_chunks, 0);
}

TEST_P(BlendTest, PartsOfAPromptAreStoredFirst) {
  const auto model = Load(2);
  const auto core = Start(*model);
  Request r = Make(system_ + a_ + b_ + question_, "blend:ratio=0.2");
  r.parts = {{30, 130}, {160, 64}, {224, 17}};  // the last is too short to be one
  const auto first = Add(*core, r), second = Add(*core, r);
  Finish(*core);
  EXPECT_EQ(first->report.blend.stored, 194);
  EXPECT_EQ(second->report.blend.stored, 0);
  EXPECT_EQ(first->report.blend.covered, 194);
  ExpectSame(*first, *second, "the second");
  EXPECT_EQ(core->chunks().stats().chunks, 2u);
  r.parts = {{200, 42}};
  EXPECT_FALSE(core->Validate(r));
}

TEST_P(BlendTest, AnExactRequestDoesNotWaitForItsParts) {
  const auto model = Load(2);
  const auto core = Start(*model);
  Request r = Make(system_ + a_ + b_ + question_, "prefix");
  r.parts = {{30, 130}, {160, 64}};
  const uint64_t cancelled = next_;
  Add(*core, r);
  core->Step();
  core->Cancel(cancelled);
  Finish(*core);
  EXPECT_EQ(core->chunks().stats().chunks, 0u) << "who left wants nothing stored";
  const auto undisturbed = Add(*core, r);
  core->Step();
  core->Forget("t");
  Finish(*core);
  EXPECT_TRUE(undisturbed->finished);
  EXPECT_EQ(core->chunks().stats().chunks, 0u) << "and who was wiped leaves nothing";
  const auto answer = Add(*core, r);
  EXPECT_EQ(core->unfinished(), 1);
  while (!answer->finished) ASSERT_TRUE(core->Step());
  EXPECT_EQ(core->chunks().stats().chunks, 0u);
  Finish(*core);
  EXPECT_EQ(core->chunks().stats().chunks, 2u);
  ExpectSame(*answer, *Ask(*Start(*model), r.prompt, "prefix"), "exact");
}

// Log-probabilities of the prompt are true ones, and so are rows of a request that reads nothing.
TEST_P(BlendTest, WhoAsksForEveryRowGetsTrueOnes) {
  const auto model = Load(1);
  const auto core = StartWith(*model, {a_});
  Request r = Make(system_ + a_ + question_, "blend:ratio=0");
  const auto full = Ask(*Start(*model), r.prompt, "prefix");
  r.prompt_logprobs = 0;
  const auto scored = Add(*core, r);
  Finish(*core);
  ExpectSame(*scored, *full, "scored");
  r.prompt_logprobs = -1;
  r.read_cache = false;
  const auto unread = Add(*core, r);
  Finish(*core);
  ExpectSame(*unread, *full, "read_cache false");
  EXPECT_EQ(unread->report.blend.method, "");
}

// Chunks that fill their share of a small cache: the oldest go, blocks and running requests are served.
TEST_P(BlendTest, ChunksKeepToTheirShare) {
  const auto model = Load(2);
  EngineOptions options;
  options.cache.limit_bytes = 3 << 20;
  const auto core = Start(*model, options);
  for (uint32_t i = 0; i < 40; ++i) {
    Store(*core, {1}, Text(100 + i, 250));
    const ChunkStats stats = core->chunks().stats();
    EXPECT_LE(stats.bytes, stats.limit_bytes);
    EXPECT_LE(core->cache().used_bytes(), options.cache.limit_bytes);
  }
  EXPECT_GT(core->chunks().stats().evicted, 0u);
  EXPECT_GT(core->chunks().stats().chunks, 1u);
  EXPECT_EQ(Ask(*core, system_ + Text(139, 250) + question_, "blend:ratio=0")->report.read_chunks, 250);
  Request r = Make(Text(1, 100000), "prefix", 0);
  r.chunk_from = 0;
  EXPECT_FALSE(core->Validate(r));
}

TEST_P(BlendTest, RunsBesideACodec) {
  const auto two = Load(2, KvType::kI16, "t4:center=0"), one = Load(1, KvType::kI16, "t4:center=0");
  const Tokens prompt = system_ + a_ + b_ + question_;
  const auto expected = Ask(*StartWith(*two, {a_, b_}), prompt, "blend:ratio=0.2");
  EXPECT_EQ(expected->report.blend.covered, 194);
  EngineOptions options;
  options.max_batch_rows = 7;
  ExpectSame(*Ask(*StartWith(*one, {a_, b_}, options), prompt, "blend:ratio=0.2"), *expected, "one thread");
  const auto core = StartWith(*two, {a_, b_});
  const auto plain = Ask(*core, prompt, "prefix");
  Ask(*core, prompt, "blend:ratio=0.2");
  ExpectSame(*Ask(*core, prompt, "prefix"), *plain, "full afterwards");
}

TEST_P(BlendTest, RefusesWhatCannotBe) {
  const auto model = Load(1);
  const auto core = Start(*model);
  Request r = Make({1, 2, 3}, "nosuch");
  EXPECT_FALSE(core->Validate(r));
  r.reuse = "blend:check=999";
  EXPECT_FALSE(core->Validate(r));
  r.reuse = "blend:ratio=1.5";
  EXPECT_FALSE(core->Validate(r));
  r.reuse = "blend";
  r.evict = "streaming";
  const Status both = core->Validate(r);
  ASSERT_FALSE(both);
  EXPECT_EQ(both.error().kind, ErrorKind::kUnsupported);
  r.evict = "";
  r.chunk_from = 1;
  EXPECT_FALSE(core->Validate(r)) << "two tokens are no chunk";
  EngineOptions options;
  options.reuse = "blend";
  options.evict = "snapkv";
  EXPECT_FALSE(EngineCore::Create(model.get(), options, &clock_));
}

// Pieces end where 2,048 rows of the prompt end, whatever was cached of it and however long a step is.
TEST_P(BlendTest, PiecesAreAtFixedPlaces) {
  if (!IsDeep()) GTEST_SKIP() << "the model's context is too short";
  const auto two = Load(2), one = Load(1);
  const Tokens prompt = Text(60, 1980) + a_ + Text(61, 70) + b_ + question_;
  const auto core = StartWith(*two, {a_, b_});
  const auto cold = Ask(*core, prompt, "blend:ratio=0.2");
  EXPECT_EQ(cold->report.blend.covered, 194);
  EXPECT_EQ(cold->report.blend.again, 13 + 25);  // a fifth of 68, and of 62 + 64
  Ask(*core, {prompt.begin(), prompt.begin() + 1900}, "prefix", 1);
  const auto warm = Ask(*core, prompt, "blend:ratio=0.2");
  EXPECT_GT(warm->report.read_memory, 1000);
  ExpectSame(*warm, *cold, "warm");
  EngineOptions options;
  options.max_batch_rows = 50;
  ExpectSame(*Ask(*StartWith(*one, {a_, b_}, options), prompt, "blend:ratio=0.2"), *cold, "one thread");
  ExpectSame(*Ask(*core, prompt, "blend:ratio=1"), *Ask(*Start(*two), prompt, "prefix"), "all rows");
}

// A chunk is written below, known to the next process, read when a prompt wants it, and gives the same bits.
TEST_P(BlendTest, ChunksOutliveTheProcessBelowMemory) {
  const auto model = Load(2);
  const Tokens prompt = system_ + a_ + b_ + question_;
  const SpaceId space = {1, 2, 3};
  const auto with_space = [&](Request r) {
    r.space = space;
    return r;
  };
  const auto run = [](EngineCore& core, MemoryTier& tier) {
    for (int i = 0; i < 100000 && core.unfinished() > 0; ++i) {
      core.Step();
      tier.DeliverAll();
    }
  };
  const auto ask = [&](EngineCore& core, MemoryTier& tier) {
    auto answer = Add(core, with_space(Make(prompt, "blend:ratio=0.2")));
    run(core, tier);
    EXPECT_TRUE(answer->finished) << answer->error;
    return answer;
  };
  MemoryRecords records;
  std::shared_ptr<Answer> first;
  {
    MemoryTier tier(&records);
    EngineOptions options;
    options.tiers = {&tier};
    const auto core = Start(*model, options);
    for (const Tokens& chunk : {a_, b_}) {
      Request r = with_space(Make(Tokens{1} + chunk, "prefix", 0));
      r.chunk_from = 1;
      Add(*core, r);
    }
    run(*core, tier);
    first = ask(*core, tier);
    EXPECT_EQ(first->report.blend.covered, 194);
    core->Step();
    // Memory that is wanted: the chunks stay known.
    while (core->derived().DropOldest()) {
    }
    EXPECT_EQ(core->chunks().stats().bytes, 0u);
    const auto below = core->ListChunks("t", std::nullopt, 10).chunks;
    ASSERT_EQ(below.size(), 2u);
    for (const ChunkListing& one : below) EXPECT_TRUE(one.below && !one.in_memory && !one.held);
    ExpectSame(*ask(*core, tier), *first, "read again");
    EXPECT_EQ(core->chunks().stats().restored, 2u);
  }
  {
    MemoryTier tier(&records);
    EngineOptions options;
    options.tiers = {&tier};
    const auto core = Start(*model, options);
    core->SetSpace("t", space);
    EXPECT_TRUE(core->ListChunks("t", std::nullopt, 10).pending);
    tier.DeliverAll();
    core->Step();
    EXPECT_FALSE(core->ListChunks("t", std::nullopt, 10).pending);
    EXPECT_EQ(core->ListChunks("t", std::nullopt, 10).chunks.size(), 2u);
    const auto next = ask(*core, tier);
    ExpectSame(*next, *first, "the next process");
    EXPECT_EQ(next->report.read_chunks, first->report.read_chunks);
    EXPECT_EQ(core->chunks().stats().restored, 2u);
    // Another space has none of it.
    Request other = Make(prompt, "blend:ratio=0.2");
    other.tenant = "u";
    other.space = SpaceId{9};
    const auto strange = Add(*core, other);
    run(*core, tier);
    EXPECT_EQ(strange->report.blend.method, "");
  }
  // What cannot be read is computed.
  MemoryTier tier(&records);
  for (const auto& [name, record] : records.by_name) {
    if (record.header.kind == kKvChunkRecord) tier.corrupt.insert(name);
  }
  EXPECT_EQ(tier.corrupt.size(), 2u);
  EngineOptions options;
  options.tiers = {&tier};
  const auto core = Start(*model, options);
  const auto damaged = ask(*core, tier);
  EXPECT_EQ(damaged->report.blend.method, "");
  EXPECT_EQ(core->chunks().stats().chunks, 0u);
  EXPECT_EQ(core->chunks().stats().bytes, 0u);
  ExpectSame(*damaged, *Ask(*Start(*model), prompt, "prefix"), "computed");
}

// A request with chunks begins with what its prompt begins with, so that is asked for before the chunks.
TEST_P(BlendTest, WhatThePromptBeginsWithIsReadBeforeTheChunks) {
  const auto model = Load(2);
  const Tokens front = Text(6, 130), prompt = front + a_ + question_;
  MemoryRecords records;
  const auto start = [&](MemoryTier& tier) {
    EngineOptions options;
    options.tiers = {&tier};
    options.always_restore = true;  // these models compute faster than any tier reads
    auto core = Start(*model, options);
    core->SetSpace("t", SpaceId{1});
    return core;
  };
  const auto ask = [&](EngineCore& core, MemoryTier& tier, Request r) {
    r.space = SpaceId{1};
    auto answer = Add(core, std::move(r));
    for (int i = 0; i < 100000 && core.unfinished() > 0; ++i) {
      core.Step();
      tier.DeliverAll();
    }
    EXPECT_TRUE(answer->finished) << answer->error;
    return answer;
  };
  {
    MemoryTier tier(&records);
    const auto core = start(tier);
    ask(*core, tier, Make(front + question_, "prefix"));
    Request chunk = Make(Tokens{1} + a_, "prefix", 0);
    chunk.chunk_from = 1;
    ask(*core, tier, chunk);
  }
  MemoryTier tier(&records);
  const auto core = start(tier);
  const auto answer = ask(*core, tier, Make(prompt, "blend:ratio=0.2"));
  EXPECT_EQ(answer->report.blend.covered, 130);
  ASSERT_EQ(answer->report.read_tiers.size(), 1u);
  EXPECT_GE(answer->report.read_tiers[0].second, 128);
  std::vector<bool> chunk_at;
  for (const Digest& name : tier.asked)
    chunk_at.push_back(records.by_name.at(name.Hex()).header.kind == kKvChunkRecord);
  EXPECT_GE(chunk_at.size(), 3u);
  EXPECT_EQ(std::ranges::count(chunk_at, true), 1);
  EXPECT_TRUE(chunk_at.back());
}

// The later layers of chunks are read while the first are computed with. What does not come after all costs a
// computation, and the answer is the one without it.
TEST_P(BlendTest, BlendingBeginsBeforeAllLayersAreHere) {
  const auto model = Load(2);
  const Tokens prompt = system_ + a_ + b_ + question_;
  const SpaceId space = {1, 2, 3};
  MemoryRecords records;
  EngineOptions options;
  options.tier_group_bytes = 1;  // a group of its own for each layer
  // Answers of the tier come one after the other, also while a step waits for them. Returns how many had come
  // when the first rows were computed.
  const auto run = [](EngineCore& core, MemoryTier& tier) {
    int rounds = 0, begun = -1;
    for (int i = 0; i < 10000 && core.unfinished() > 0; ++i) {
      const uint64_t steps = core.Stats().steps;
      auto step = std::async(std::launch::async, [&core] { core.Step(); });
      const int before = rounds;
      while (step.wait_for(std::chrono::milliseconds(2)) != std::future_status::ready)
        rounds += tier.DeliverAll() ? 1 : 0;
      if (begun < 0 && core.Stats().steps > steps) begun = before;
      rounds += tier.DeliverAll() ? 1 : 0;
    }
    return begun;
  };
  const auto add = [&](EngineCore& core, Request r) {
    r.space = space;
    return Add(core, std::move(r));
  };
  const auto start = [&](MemoryTier& tier) {
    options.tiers = {&tier};
    auto core = Start(*model, options);
    core->SetSpace("t", space);
    tier.DeliverAll();
    core->Step();
    return core;
  };
  {
    MemoryTier tier(&records);
    const auto core = start(tier);
    for (const Tokens& chunk : {a_, b_}) {
      Request r = Make(Tokens{1} + chunk, "prefix", 0);
      r.chunk_from = 1;
      add(*core, r);
    }
    run(*core, tier);
    core->cache().FlushTiers();
  }
  // Blocks may be read too, but only chunks are wanted here.
  std::erase_if(records.by_name, [](const auto& r) { return r.second.header.kind != kKvChunkRecord; });
  ASSERT_EQ(records.by_name.size(), 2u);
  const Request request = Make(prompt, "blend:ratio=0.2");
  const auto expected = Ask(*StartWith(*model, {a_, b_}), prompt, "blend:ratio=0.2");
  {
    MemoryTier tier(&records);
    const auto core = start(tier);
    const auto answer = add(*core, request);
    const int begun = run(*core, tier);
    ExpectSame(*answer, *expected, "layer by layer");
    EXPECT_EQ(answer->report.read_chunks, expected->report.read_chunks);
    EXPECT_TRUE(!IsDeep() || begun < model->kv_shape().layers()) << begun;
    EXPECT_EQ(tier.gets, 1u) << "both chunks in one read";
    EXPECT_LT(tier.last_deadline_ns, clock_.NowNs() + 10'000'000'000) << "no longer than computing";
    EXPECT_EQ(core->chunks().stats().restored, 2u);
  }
  MemoryTier tier(&records);
  for (const auto& [name, record] : records.by_name) tier.corrupt.insert(name);
  const auto core = start(tier);
  const auto damaged = add(*core, request);
  run(*core, tier);
  EXPECT_EQ(damaged->report.read_chunks, 0);
  ExpectSame(*damaged, *Ask(*Start(*model), prompt, "prefix"), "computed");
  EXPECT_EQ(core->chunks().stats().chunks, 0u);
}

// A tenant that comes with another space was wiped by another server. What was its own under the old one is
// found neither in memory nor below, by nobody who waits, and not when somebody from before comes late.
TEST_P(BlendTest, AnotherSpaceIsAWipeFromElsewhere) {
  const auto model = Load(2);
  const SpaceId before = {1}, now = {2};
  MemoryRecords records;
  MemoryTier tier(&records);
  EngineOptions options;
  options.tiers = {&tier};
  const auto core = Start(*model, options);
  const auto listed = [&] { return core->ListChunks("t", std::nullopt, 10).chunks.size(); };
  const auto add = [&](Request r, const SpaceId& space) {
    r.space = space;
    return Add(*core, std::move(r));
  };
  const auto run = [&] {
    for (int i = 0; i < 100000 && core->unfinished() > 0; ++i) {
      core->Step();
      tier.DeliverAll();
    }
    core->Step();
  };
  const auto store = [&](const Tokens& text, const SpaceId& space) {
    Request r = Make(Tokens{1} + text, "prefix", 0);
    r.chunk_from = 1;
    add(r, space);
    run();
  };
  const Request asks = Make(system_ + a_ + question_, "blend:ratio=0.2");
  store(a_, before);
  store(c_, before);
  while (core->derived().DropOldest()) {
  }
  add(asks, before);
  run();
  Request turn = Make(c_, "prefix", 1);
  turn.evict = "streaming:budget=33";
  turn.keep_state = true;
  add(turn, before);
  run();
  ASSERT_EQ(listed(), 2u);
  ASSERT_EQ(core->states().List("t", std::nullopt, 10).size(), 1u);

  // It has found both; one is in memory, the other on its way.
  const auto waiting = add(Make(system_ + a_ + c_ + question_, "blend:ratio=0.2"), before);
  core->Step();
  ASSERT_EQ(std::ranges::count(core->ListChunks("t", std::nullopt, 10).chunks, true, &ChunkListing::held), 2);
  core->SetSpace("t", now);
  EXPECT_EQ(listed(), 0u);
  EXPECT_TRUE(core->states().List("t", std::nullopt, 10).empty());
  run();
  EXPECT_TRUE(waiting->finished) << waiting->error;
  EXPECT_EQ(waiting->report.read_chunks, 0) << "who waited lets go";

  store(b_, now);
  EXPECT_EQ(listed(), 1u);
  const auto late = add(asks, before);
  run();
  EXPECT_EQ(late->report.read_chunks, 0) << "what the tier has of the old space is not learnt again";
  EXPECT_EQ(listed(), 1u) << "and what was stored since stays";
  EXPECT_EQ(core->ListChunks("t", std::nullopt, 10).chunks[0].tokens, 64);
  core->Forget("t");
  const size_t kept = records.by_name.size();
  store(Text(70, 100), now);
  EXPECT_EQ(records.by_name.size(), kept) << "nobody writes under a space that was wiped here";
}

INSTANTIATE_TEST_SUITE_P(, BlendTest, ::testing::Values("tiny-llama.gguf", "tiny-gemma3.gguf"));

}  // namespace
}  // namespace larder::testing
