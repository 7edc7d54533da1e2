// The engine's side of stored chunks that others of the engine need.
#pragma once

#include "kv/reuse/method.h"
#include "model/model.h"

namespace larder {

ReuseModel ReuseModelOf(const Model& model);

}  // namespace larder
