// The matrix product on panels (packed.h). Rows are taken in tiles of up to kMaxTile, outputs in panels of
// 16; a tile's sums stay in registers over the whole inner dimension, so a panel is read and unpacked once
// for a tile. Activations of a tile are interleaved, [inner / 4][row][4 bytes], so that one pointer reaches
// all of its rows.
#include <algorithm>
#include <array>
#include <vector>

#include "compute/matmul.h"
#include "compute/matmul_scratch.h"
#include "compute/packed.h"
#include "compute/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "compute/matmul.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"

#include "compute/simd_dot-inl.h"
#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

// Rows whose integer and float sums fit the registers: 2 * 8 of 32 with 512 bits; with 256 bits the four
// rows' integer sums take 8 of 16 and the float sums are spilled once per group, which is cheap beside its 8
// or more products. Plain code has no registers to fill.
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
inline constexpr int kMaxTile = 8;
#elif HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_EMU128
inline constexpr int kMaxTile = 1;
#else
inline constexpr int kMaxTile = 4;
#endif

// Where a panel's results go: rows of a tile start ldy apart.
struct Destination {
  float* y;
  int64_t ldy;
  const float* bias;  // of the panel's first output, or null
  int columns;        // 1..16
};

// The last panel of a matrix whose outputs are no multiple of 16.
HWY_NOINLINE void StoreColumns(F16x acc, const Destination& to, int row) {
  HWY_ALIGN float values[kPanelOutputs];
  Store(acc, values);
  float* y = to.y + row * to.ldy;
  for (int c = 0; c < to.columns; ++c) y[c] = to.bias == nullptr ? values[c] : values[c] + to.bias[c];
}

template <int kRows>
HWY_INLINE void StoreTile(const F16x* acc, const Destination& to) {
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    if (to.columns == kPanelOutputs) {
      Store(to.bias == nullptr ? acc[r] : Add(acc[r], Load(to.bias)), to.y + r * to.ldy);
    } else {
      StoreColumns(acc[r], to, r);
    }
  }
}

template <int kRows>
HWY_NOINLINE void FloatTile(const float* w, const float* x, int64_t inputs, const Destination& to) {
  F16x acc[kRows];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) acc[r] = Zero();
  for (int64_t k = 0; k < inputs; ++k) {
    const F16x weights = Load(w + k * kPanelOutputs);
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) acc[r] = Fma(weights, Splat(x[k * kRows + r]), acc[r]);
  }
  StoreTile<kRows>(acc, to);
}

HWY_INLINE F16x LoadMetadata(const uint8_t* p, bool half) {
  return half ? LoadHalf(reinterpret_cast<const uint16_t*>(p)) : Load(reinterpret_cast<const float*>(p));
}

template <WeightForm kForm, int kGroup, int kRows>
HWY_NOINLINE void IntegerTile(const uint8_t* panel, const Matrix& matrix, const IntegerActivations& x,
                              const Destination& to) {
  const UnitLayout layout = LayoutOfUnit(kForm, kGroup, matrix.has_min(), matrix.half_scales());
  const bool has_min = matrix.has_min(), half = matrix.half_scales();
  const int64_t units = matrix.inputs() / kGroup;
  const GroupSums sums = kGroup == 16 ? x.by16 : x.by32;
  const int8_t* codes = x.codes;
  F16x acc[kRows];
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) acc[r] = Zero();
  for (int64_t g = 0; g < units; ++g, panel += layout.bytes) {
    constexpr int kSlices = kGroup / 4;
    GroupSum<kForm> isum[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) isum[r] = GroupSum<kForm>(sums.offsets[g * kRows + r]);
    HWY_UNROLL(8)
    for (int j = 0; j < kSlices; ++j) {
      Codes w;
      if constexpr (kForm == WeightForm::kU4) {
        const Codes pair = LoadCodes(panel + j / 2 * 64);
        w = j % 2 == 0 ? LowNibbles(pair) : HighNibbles(pair);
      } else {
        w = GroupSum<kForm>::Prepare(LoadCodes(panel + j * 64));
      }
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) isum[r].Add(w, codes + (j * kRows + r) * 4);
    }
    codes += kGroup * kRows;
    const F16x scale_w = LoadMetadata(panel + layout.codes_bytes, half);
    const float* scale_x = x.scales + g * kGroup / kActivationGroup * kRows;
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) acc[r] = Fma(isum[r].ToFloat(), Mul(scale_w, Splat(scale_x[r])), acc[r]);
    if (has_min) {
      const F16x min_w = LoadMetadata(panel + layout.codes_bytes + layout.metadata_bytes, half);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) acc[r] = Fma(min_w, Splat(sums.scaled[g * kRows + r]), acc[r]);
    }
  }
  StoreTile<kRows>(acc, to);
}

// One panel times one tile of `rows` rows, 1..kMaxTile.
template <int kRows>
void PanelTimesTile(int rows, const MatMulTarget& target, int64_t panel, MatMulScratch::Impl& scratch,
                    int64_t first_row) {
  if (rows != kRows) {
    if constexpr (kRows > 1) PanelTimesTile<kRows - 1>(rows, target, panel, scratch, first_row);
    return;
  }
  const Matrix& m = *target.weights;
  const int64_t output = panel * kPanelOutputs;
  const Destination to{target.y + first_row * target.ldy + output, target.ldy,
                       target.bias == nullptr ? nullptr : target.bias + output,
                       static_cast<int>(HWY_MIN(m.outputs() - output, int64_t{kPanelOutputs}))};
  const uint8_t* data = m.data().as<uint8_t>() +
                        panel * PanelBytes(m.form(), m.group(), m.has_min(), m.half_scales(), m.inputs());
  if (m.form() == WeightForm::kF32) {
    return FloatTile<kRows>(reinterpret_cast<const float*>(data), scratch.floats(first_row), m.inputs(), to);
  }
  const IntegerActivations x = scratch.integers(first_row);
  if (m.form() == WeightForm::kU4) {
    if (m.group() == 32) return IntegerTile<WeightForm::kU4, 32, kRows>(data, m, x, to);
    return IntegerTile<WeightForm::kU4, 16, kRows>(data, m, x, to);
  }
  if (m.group() == 32) return IntegerTile<WeightForm::kS8, 32, kRows>(data, m, x, to);
  return IntegerTile<WeightForm::kS8, 16, kRows>(data, m, x, to);
}

#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
// QuantizeGroup, in vectors: 32 codes to consecutive bytes.
float QuantizeGroupVector(const float* x, int8_t* codes) {
  const DF df;
  const DU du;
  const hn::RebindToSigned<DF> di;
  const hn::Rebind<int8_t, DF> d8;
  auto largest = hn::Zero(di);
  for (size_t i = 0; i < 32; i += kLanes) {
    const auto bits =
        hn::And(hn::BitCast(di, hn::LoadU(df, x + i)), hn::Set(di, static_cast<int32_t>(kMagnitudeBits)));
    largest = hn::Max(largest, bits);
  }
  const GroupScale scale = ScaleOfGroup(static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest))));
  if (scale.to_code == 0.0f) {
    hwy::ZeroBytes<32>(codes);
    return scale.scale;
  }
  const auto to_code = hn::Set(df, scale.to_code);
  const auto magic = hn::Set(df, kRoundMagic);
  for (size_t i = 0; i < 32; i += kLanes) {
    const auto shifted = hn::MulAdd(hn::LoadU(df, x + i), to_code, magic);
    const auto code = hn::BitCast(di, hn::Sub(hn::BitCast(du, shifted), hn::Set(du, kRoundMagicBits)));
    hn::StoreU(hn::DemoteTo(d8, code), d8, codes + i);
  }
  return scale.scale;
}
#else
float QuantizeGroupVector(const float* x, int8_t* codes) { return QuantizeGroup(x, codes); }
#endif

// Quantises a tile's rows into the interleaved form.
void QuantizeTile(const float* x, int64_t ldx, int64_t inputs, int rows, const IntegerActivations& to) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < inputs / kActivationGroup; ++g) {
      alignas(64) int8_t codes[kActivationGroup];
      const float scale = QuantizeGroupVector(x + r * ldx + g * kActivationGroup, codes);
      for (int k = 0; k < kActivationGroup; k += 4) {
        std::memcpy(to.codes + (g * kActivationGroup + k) * rows + 4 * r, codes + k, 4);
      }
      to.scales[g * rows + r] = scale;
      int32_t total = 0;
      for (int half = 0; half < 2; ++half) {
        int32_t sum = 0;
        for (int k = 0; k < 16; ++k) sum += codes[16 * half + k];
        to.by16.offsets[(2 * g + half) * rows + r] = -128 * sum;
        to.by16.scaled[(2 * g + half) * rows + r] = scale * static_cast<float>(sum);
        total += sum;
      }
      to.by32.offsets[g * rows + r] = -128 * total;
      to.by32.scaled[g * rows + r] = scale * static_cast<float>(total);
    }
  }
}

void InterleaveTile(const float* x, int64_t ldx, int64_t inputs, int rows, float* to) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < inputs; ++k) to[k * rows + r] = x[r * ldx + k];
  }
}

// How the rows and panels of a call are cut. Nothing here changes a result.
struct Plan {
  int64_t rows, tiles;
  int64_t tiles_per_item, row_blocks;
  int64_t panels_per_item;

  int64_t FirstRow(int64_t tile) const { return tile * (rows / tiles) + HWY_MIN(tile, rows % tiles); }
};

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

Plan MakePlan(int64_t rows, int64_t inputs, std::span<const MatMulTarget> targets, int threads) {
  // An item's activations stay in a core's second-level cache beside the panel; its products take long enough
  // (about 10 us) to hide what it costs to fetch an item, and there are enough of them to balance the
  // threads.
  constexpr int64_t kActivationBytes = 128 * 1024;
  constexpr int64_t kLeastProducts = 48 * 1024;
  constexpr int64_t kItemsPerThread = 12;
  Plan plan;
  plan.rows = rows;
  plan.tiles = DivideUp(rows, kMaxTile);
  plan.tiles_per_item = HWY_MAX(int64_t{1}, HWY_MIN(int64_t{16}, kActivationBytes / inputs / kMaxTile));
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  plan.tiles_per_item = DivideUp(plan.tiles, plan.row_blocks);
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  int64_t panels = 0;
  for (const MatMulTarget& target : targets) panels += DivideUp(target.weights->outputs(), kPanelOutputs);
  const int64_t balanced = panels * plan.row_blocks / (kItemsPerThread * threads);
  const int64_t products = kPanelOutputs * inputs * HWY_MIN(rows, plan.tiles_per_item * kMaxTile);
  plan.panels_per_item = HWY_MAX(int64_t{1}, HWY_MAX(balanced, kLeastProducts / products));
  return plan;
}

// Fills the scratch with what the targets' forms need.
void PrepareActivations(ThreadPool& pool, MatMulScratch::Impl& scratch, const float* x, int64_t ldx,
                        int64_t inputs, const Plan& plan, std::span<const MatMulTarget> targets) {
  bool floats = false, integers = false;
  for (const MatMulTarget& t : targets) (t.weights->form() == WeightForm::kF32 ? floats : integers) = true;
  scratch.Resize(plan.rows, inputs, floats, integers);
  const auto prepare = [&](int64_t tile, int) HWY_ATTR {
    const int64_t first = plan.FirstRow(tile);
    const int rows = static_cast<int>(plan.FirstRow(tile + 1) - first);
    if (floats) InterleaveTile(x + first * ldx, ldx, inputs, rows, scratch.floats(first));
    if (integers) QuantizeTile(x + first * ldx, ldx, inputs, rows, scratch.integers(first));
  };
  // A few rows are quicker done here than handed out.
  constexpr int64_t kParallelElements = 16 * 1024;
  if (plan.rows * inputs < kParallelElements) {
    for (int64_t tile = 0; tile < plan.tiles; ++tile) prepare(tile, 0);
  } else {
    pool.Run(plan.tiles, prepare);
  }
}

void MatMulOnTarget(ThreadPool& pool, MatMulScratch::Impl& scratch, const float* x, int64_t ldx, int rows,
                    std::span<const MatMulTarget> targets) {
  const int64_t inputs = targets[0].weights->inputs();
  const Plan plan = MakePlan(rows, inputs, targets, pool.threads());
  PrepareActivations(pool, scratch, x, ldx, inputs, plan, targets);

  const auto items_of = [&](const MatMulTarget& target) HWY_ATTR {
    return DivideUp(DivideUp(target.weights->outputs(), kPanelOutputs), plan.panels_per_item) *
           plan.row_blocks;
  };
  int64_t items = 0;
  for (const MatMulTarget& target : targets) items += items_of(target);
  pool.Run(items, [&](int64_t item, int) HWY_ATTR {
    size_t t = 0;
    for (; item >= items_of(targets[t]); ++t) item -= items_of(targets[t]);
    const MatMulTarget& target = targets[t];
    const int64_t panels = DivideUp(target.weights->outputs(), kPanelOutputs);
    const int64_t first_panel = item / plan.row_blocks * plan.panels_per_item;
    const int64_t end_panel = HWY_MIN(panels, first_panel + plan.panels_per_item);
    const int64_t first_tile = item % plan.row_blocks * plan.tiles_per_item;
    const int64_t end_tile = HWY_MIN(plan.tiles, first_tile + plan.tiles_per_item);
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      for (int64_t tile = first_tile; tile < end_tile; ++tile) {
        const int64_t row = plan.FirstRow(tile);
        PanelTimesTile<kMaxTile>(static_cast<int>(plan.FirstRow(tile + 1) - row), target, panel, scratch,
                                 row);
      }
    }
  });
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(MatMulOnTarget);

void MatMulScratch::Impl::Resize(int64_t rows, int64_t inputs, bool floats, bool integers) {
  inputs_ = inputs;
  const auto grow = [](auto& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
  };
  if (floats) grow(floats_, rows * inputs);
  if (!integers) return;
  grow(codes_, rows * inputs);
  grow(scales_, rows * inputs / 32);
  grow(offsets32_, rows * inputs / 32);
  grow(scaled32_, rows * inputs / 32);
  grow(offsets16_, rows * inputs / 16);
  grow(scaled16_, rows * inputs / 16);
}

MatMulScratch::MatMulScratch() : impl_(std::make_unique<Impl>()) {}
MatMulScratch::~MatMulScratch() = default;

void MatMul(ThreadPool& pool, MatMulScratch& scratch, const float* x, int64_t ldx, int rows,
            std::span<const MatMulTarget> targets) {
  if (rows <= 0 || targets.empty()) return;
  for (const MatMulTarget& target : targets)
    LARDER_CHECK(target.weights->inputs() == targets[0].weights->inputs());
  HWY_DYNAMIC_DISPATCH(MatMulOnTarget)(pool, scratch.impl(), x, ldx, rows, targets);
}

}  // namespace larder
#endif
