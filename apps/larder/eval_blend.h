// larder eval blend: prompts of stored chunks in random order, answered from a full prefill and by blending,
// with baselines in the same run.
#pragma once

#include <cstdint>
#include <string>

#include "base/params.h"
#include "model/model.h"

namespace larder {

class BlendEval {
 public:
  void Declare(Params& params);
  Status Run(Model& model, const std::string& text_path, const std::string& json);

 private:
  int64_t chunks_ = 8, chunk_tokens_ = 256, tail_tokens_ = 46, answer_tokens_ = 32, prompts_ = 10,
          alias_prompts_ = 20;
  double ratio_ = 0.15;
  std::string prefix_;
};

}  // namespace larder
