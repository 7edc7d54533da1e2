// Engines that have chunks, and requests that use them. For tests.
#pragma once

#include "tests/engine/core_fixture.h"

namespace larder::testing {

inline Tokens operator+(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

class BlendTest : public CoreTest {
 protected:
  // With two layers only, the check layer is the last, and all rows that are ever attended to are true.
  static bool IsDeep() { return std::string_view(GetParam()) != "tiny-llama.gguf"; }
  static Request Make(Tokens prompt, const std::string& reuse, int64_t tokens = 20) {
    Request r = Greedy(std::move(prompt), tokens);
    r.reuse = reuse;
    return r;
  }
  std::shared_ptr<Answer> Ask(EngineCore& core, Tokens prompt, const std::string& reuse,
                              int64_t tokens = 20) {
    auto answer = Add(core, Make(std::move(prompt), reuse, tokens));
    Finish(core);
    return answer;
  }
  void Store(EngineCore& core, const Tokens& prefix, const Tokens& chunk, const std::string& tenant = "t") {
    Request r = Make(prefix + chunk, "prefix", 0);
    r.tenant = tenant;
    r.chunk_from = std::ssize(prefix);
    const auto answer = Add(core, std::move(r));
    Finish(core);
    EXPECT_TRUE(answer->finished) << answer->error;
  }
  // An engine that has these texts as chunks and nothing else.
  std::unique_ptr<EngineCore> StartWith(Model& model, const std::vector<Tokens>& chunks,
                                        EngineOptions options = {}) {
    auto core = Start(model, options);
    for (const Tokens& chunk : chunks) Store(*core, {1}, chunk);
    core->cache().Clear("t");
    return core;
  }
  static bool Same(const Answer& a, const Answer& b) {
    return a.logprobs.size() == b.logprobs.size() &&
           std::memcmp(a.logprobs.data(), b.logprobs.data(), a.logprobs.size() * sizeof(float)) == 0;
  }

  const Tokens system_ = Text(1, 30), a_ = Text(2, 130), b_ = Text(3, 64), c_ = Text(4, 100),
               question_ = Text(5, 17);
};

}  // namespace larder::testing
