// The mean of a model's keys over a text, for codecs that take it away (kv/codec/means.h).
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "kv/codec/means.h"
#include "model/model.h"

namespace larder {

// Over all tokens, in windows of `window` that begin anew (with BOS where the model has one). The keys are as
// the rotary embedding leaves them, whatever the model's own codec does then. kInvalid: no tokens.
Result<KeyMeans> MeanKeys(Model& model, std::span<const int32_t> tokens, int64_t window,
                          const std::function<void(double)>& progress);

}  // namespace larder
