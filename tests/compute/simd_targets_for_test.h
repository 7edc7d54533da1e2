// Runs a test body once for every instruction set that this machine has and the kernels are compiled for.
#pragma once

#include "compute/simd_targets.h"
// The order matters: the targets must be chosen before Highway's first header.
#include "hwy/targets.h"

#include <gtest/gtest.h>

namespace larder {

template <class Body>
void ForEachSimdTarget(Body body) {
  const int64_t targets = hwy::SupportedTargets() & HWY_TARGETS;
  for (int64_t rest = targets; rest != 0; rest &= rest - 1) {
    const int64_t target = rest & -rest;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace larder
