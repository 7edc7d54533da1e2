// The matrix product on panels (packed.h). Rows are taken in tiles of up to kMaxTile, outputs in panels of
// 16; a tile's sums stay in registers over the whole inner dimension. A panel that meets several rows is
// unpacked once for all of them. Activations lie in blocks of 32, [inputs / 32][row][32 bytes], which is what
// a tile unit (matmul_amx.h) wants and what vectors reach with constant offsets.
#include <algorithm>

#include "compute/matmul.h"
#include "compute/matmul_amx.h"
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

// Rows whose integer and float sums fit the registers: 2 * 8 of 32 with 512 bits, 2 * 6 of 16 with 256. Plain
// code has no registers to fill.
#if HWY_TARGET == HWY_AVX3_DL || HWY_TARGET == HWY_AVX3
inline constexpr int kMaxTile = 8;
#elif HWY_TARGET == HWY_AVX2
inline constexpr int kMaxTile = 6;
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

// Of the outputs from `first` of a panel; the last panel of a matrix may have fewer than a register.
HWY_INLINE void StoreRow(Outputs acc, const Destination& to, int first, int row) {
  float* y = to.y + row * to.ldy + first;
  const float* bias = to.bias == nullptr ? nullptr : to.bias + first;
  if (to.columns - first >= kRegisterOutputs) {
    return StoreOutputs(bias == nullptr ? acc : Add(acc, LoadOutputs(bias)), y);
  }
  HWY_ALIGN float values[kRegisterOutputs];
  StoreOutputs(acc, values);
  for (int c = 0; c < to.columns - first; ++c) y[c] = bias == nullptr ? values[c] : values[c] + bias[c];
}

inline constexpr int kRegisters = kPanelOutputs / kRegisterOutputs;  // for a panel's outputs

template <int kRows>
HWY_NOINLINE void FloatTile(const float* w, const float* x, int64_t inputs, const Destination& to) {
  Outputs acc[kRows][kRegisters];
  HWY_UNROLL(16)
  for (int i = 0; i < kRows * kRegisters; ++i) acc[i / kRegisters][i % kRegisters] = SplatOutputs(0.0f);
  for (int64_t k = 0; k < inputs; ++k) {
    HWY_UNROLL(2)
    for (int p = 0; p < kRegisters; ++p) {
      const Outputs weights = LoadOutputs(w + k * kPanelOutputs + p * kRegisterOutputs);
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) acc[r][p] = Fma(weights, SplatOutputs(x[k * kRows + r]), acc[r][p]);
    }
  }
  HWY_UNROLL(16)
  for (int i = 0; i < kRows * kRegisters; ++i) {
    StoreRow(acc[i / kRegisters][i % kRegisters], to, i % kRegisters * kRegisterOutputs, i / kRegisters);
  }
}

// A panel of integer weights.
struct Panel {
  const uint8_t* units;
  const uint8_t* unpacked;  // UnpackUnit of all units, or null where nothing needs it
  UnitLayout layout;
  bool has_min, half_scales;
  int64_t inputs;

  // Scale or minimum (`which` 0 or 1) of a unit, for the outputs from `first`.
  HWY_INLINE Outputs Metadata(const uint8_t* unit, int which, int first) const {
    const uint8_t* p = unit + layout.codes_bytes + which * layout.metadata_bytes;
    return half_scales ? LoadHalfOutputs(reinterpret_cast<const uint16_t*>(p) + first)
                       : LoadOutputs(reinterpret_cast<const float*>(p) + first);
  }
};

// What follows a unit's integer sums, for one register of outputs of all rows.
template <int kGroup, int kRows, class Sum>
HWY_INLINE void AddUnit(const Panel& panel, const uint8_t* unit, int64_t u, int first,
                        const IntegerActivations& x, const GroupSums& sums, const Sum* isum, Outputs* acc) {
  const Outputs scale_w = panel.Metadata(unit, 0, first);
  const float* scale_x = x.scales + u * kGroup / kActivationGroup * kRows;
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) {
    acc[r] = Fma(isum[r].ToFloat(), Mul(scale_w, SplatOutputs(scale_x[r])), acc[r]);
  }
  if (!panel.has_min) return;
  const Outputs min_w = panel.Metadata(unit, 1, first);
  HWY_UNROLL(8)
  for (int r = 0; r < kRows; ++r) acc[r] = Fma(min_w, SplatOutputs(sums.scaled[u * kRows + r]), acc[r]);
}

// The activations of a unit's first row; the next row's follow after 32 bytes.
template <int kGroup, int kRows>
HWY_INLINE const int8_t* UnitActivations(const IntegerActivations& x, int64_t u) {
  return x.codes + u * kGroup / kActivationGroup * kActivationGroup * kRows + u * kGroup % kActivationGroup;
}

// One tile, for which unpacking would not pay. A few rows take all outputs of the panel at once, more fill
// the registers with one register of outputs.
template <WeightForm kForm, int kGroup, int kRows>
HWY_NOINLINE void PackedTile(const Panel& panel, const IntegerActivations& x, const Destination& to) {
  constexpr int kAtOnce = kRows < 4 ? kRegisters : 1;
  const GroupSums sums = kGroup == 16 ? x.by16 : x.by32;
  const int64_t units = panel.inputs / kGroup;
  for (int first = 0; first < kPanelOutputs; first += kAtOnce * kRegisterOutputs) {
    const uint8_t* unit = panel.units;
    Outputs acc[kAtOnce][kRows];
    HWY_UNROLL(8)
    for (int i = 0; i < kRows * kAtOnce; ++i) acc[i / kRows][i % kRows] = SplatOutputs(0.0f);
    for (int64_t u = 0; u < units; ++u, unit += panel.layout.bytes) {
      constexpr int kSlices = kGroup / 4;
      const int8_t* codes = UnitActivations<kGroup, kRows>(x, u);
      GroupSum<kForm> isum[kAtOnce][kRows];
      HWY_UNROLL(8)
      for (int i = 0; i < kRows * kAtOnce; ++i) {
        isum[i / kRows][i % kRows] = GroupSum<kForm>(sums.offsets[u * kRows + i % kRows]);
      }
      HWY_UNROLL(8)
      for (int j = 0; j < kSlices; ++j) {
        HWY_UNROLL(2)
        for (int p = 0; p < kAtOnce; ++p) {
          const uint8_t* slice = unit + first * 4 + p * sizeof(Codes);
          Codes w;
          if constexpr (kForm == WeightForm::kU4) {
            const Codes pair = LoadCodes(slice + j / 2 * 64);
            w = j % 2 == 0 ? LowNibbles(pair) : HighNibbles(pair);
          } else {
            w = GroupSum<kForm>::Prepare(LoadCodes(slice + j * 64));
          }
          HWY_UNROLL(8)
          for (int r = 0; r < kRows; ++r) isum[p][r].Add(w, codes + r * kActivationGroup + 4 * j);
        }
      }
      HWY_UNROLL(2)
      for (int p = 0; p < kAtOnce; ++p) {
        AddUnit<kGroup, kRows>(panel, unit, u, first + p * kRegisterOutputs, x, sums, isum[p], acc[p]);
      }
    }
    HWY_UNROLL(8)
    for (int i = 0; i < kRows * kAtOnce; ++i) {
      StoreRow(acc[i / kRows][i % kRows], to, first + i / kRows * kRegisterOutputs, i % kRows);
    }
  }
}

#if LARDER_DOT_X86
// One of several tiles, weights unpacked: one register of outputs after the other.
template <WeightForm kForm, int kGroup, int kRows>
HWY_NOINLINE void UnpackedTile(const Panel& panel, const IntegerActivations& x, const Destination& to) {
  const GroupSums sums = kGroup == 16 ? x.by16 : x.by32;
  const int64_t units = panel.inputs / kGroup;
  for (int first = 0; first < kPanelOutputs; first += kRegisterOutputs) {
    const uint8_t* unit = panel.units;
    const uint8_t* weights = panel.unpacked + first * 4;
    Outputs acc[kRows];
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) acc[r] = SplatOutputs(0.0f);
    for (int64_t u = 0; u < units; ++u, unit += panel.layout.bytes, weights += kGroup * kPanelOutputs) {
      constexpr int kSlices = kGroup / 4;
      const int8_t* codes = UnitActivations<kGroup, kRows>(x, u);
      GroupSum<kForm> isum[kRows];
      HWY_UNROLL(8)
      for (int r = 0; r < kRows; ++r) isum[r] = GroupSum<kForm>(sums.offsets[u * kRows + r]);
      HWY_UNROLL(8)
      for (int j = 0; j < kSlices; ++j) {
        const Codes w = LoadCodes(weights + j * 64);
        HWY_UNROLL(8)
        for (int r = 0; r < kRows; ++r) isum[r].Add(w, codes + r * kActivationGroup + 4 * j);
      }
      AddUnit<kGroup, kRows>(panel, unit, u, first, x, sums, isum, acc);
    }
    HWY_UNROLL(8)
    for (int r = 0; r < kRows; ++r) StoreRow(acc[r], to, first, r);
  }
}

template <WeightForm kForm>
void UnpackPanel(const Panel& panel, int group, uint8_t* to) {
  for (int64_t u = 0; u < panel.inputs / group; ++u) {
    UnpackUnit<kForm>(panel.units + u * panel.layout.bytes, group, to + u * group * kPanelOutputs);
  }
}
#endif

template <WeightForm kForm, int kGroup, int kRows>
HWY_INLINE void IntegerTile(const Panel& panel, const IntegerActivations& x, const Destination& to) {
#if LARDER_DOT_X86
  if constexpr (kRows >= 4 && kUnpacks<kForm>) {
    if (panel.unpacked != nullptr) return UnpackedTile<kForm, kGroup, kRows>(panel, x, to);
  }
#endif
  PackedTile<kForm, kGroup, kRows>(panel, x, to);
}

// One panel times one tile of `rows` rows, 1..kMaxTile.
template <int kRows>
void PanelTimesTile(int rows, const Matrix& m, const Panel& panel, MatMulScratch::Impl& scratch,
                    int64_t first_row, const Destination& to) {
  if (rows != kRows) {
    if constexpr (kRows > 1) PanelTimesTile<kRows - 1>(rows, m, panel, scratch, first_row, to);
    return;
  }
  if (m.form() == WeightForm::kF32) {
    return FloatTile<kRows>(reinterpret_cast<const float*>(panel.units), scratch.floats(first_row),
                            m.inputs(), to);
  }
  const IntegerActivations x = scratch.integers(first_row);
  if (m.form() == WeightForm::kU4) {
    if (m.group() == 32) return IntegerTile<WeightForm::kU4, 32, kRows>(panel, x, to);
    return IntegerTile<WeightForm::kU4, 16, kRows>(panel, x, to);
  }
  if (m.group() == 32) return IntegerTile<WeightForm::kS8, 32, kRows>(panel, x, to);
  IntegerTile<WeightForm::kS8, 16, kRows>(panel, x, to);
}

// QuantizeGroup, and the sums of the first and the last 16 codes.
#if HWY_TARGET != HWY_SCALAR && HWY_TARGET != HWY_EMU128
float QuantizeAndSum(const float* x, int8_t* codes, int32_t* sums) {
  constexpr size_t kVectors = kActivationGroup / kLanes;
  const DF df;
  const DU du;
  const hn::RebindToSigned<DF> di;
  auto largest = hn::Zero(di);
  HWY_UNROLL(8)
  for (size_t i = 0; i < kVectors; ++i) {
    const auto bits = hn::And(hn::BitCast(di, hn::LoadU(df, x + i * kLanes)),
                              hn::Set(di, static_cast<int32_t>(kMagnitudeBits)));
    largest = hn::Max(largest, bits);
  }
  const GroupScale scale = ScaleOfGroup(static_cast<uint32_t>(hn::GetLane(hn::MaxOfLanes(di, largest))));
  if (scale.to_code == 0.0f) {
    hwy::ZeroBytes<kActivationGroup>(codes);
    sums[0] = sums[1] = 0;
    return scale.scale;
  }
  const auto to_code = hn::Set(df, scale.to_code);
  const auto magic = hn::Set(df, kRoundMagic);
  hn::Vec<decltype(di)> integers[kVectors];
  HWY_UNROLL(8)
  for (size_t i = 0; i < kVectors; ++i) {
    const auto shifted = hn::MulAdd(hn::LoadU(df, x + i * kLanes), to_code, magic);
    integers[i] = hn::BitCast(di, hn::Sub(hn::BitCast(du, shifted), hn::Set(du, kRoundMagicBits)));
  }
  StoreBytes(integers, codes, sums);
  return scale.scale;
}
#else
float QuantizeAndSum(const float* x, int8_t* codes, int32_t* sums) {
  const float scale = QuantizeGroup(x, codes);
  SumHalves(codes, sums);
  return scale;
}
#endif

void QuantizeTile(const float* x, int64_t ldx, int64_t inputs, int rows, const IntegerActivations& to) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t g = 0; g < inputs / kActivationGroup; ++g) {
      const int64_t at = g * rows + r;
      int32_t sums[2];
      const float scale =
          QuantizeAndSum(x + r * ldx + g * kActivationGroup, to.codes + at * kActivationGroup, sums);
      to.scales[at] = scale;
      for (int half = 0; half < 2; ++half) {
        to.by16.offsets[(2 * g + half) * rows + r] = -128 * sums[half];
        to.by16.scaled[(2 * g + half) * rows + r] = scale * static_cast<float>(sums[half]);
      }
      to.by32.offsets[at] = -128 * (sums[0] + sums[1]);
      to.by32.scaled[at] = scale * static_cast<float>(sums[0] + sums[1]);
    }
  }
}

void InterleaveTile(const float* x, int64_t ldx, int64_t inputs, int rows, float* to) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < inputs; ++k) to[k * rows + r] = x[r * ldx + k];
  }
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the rows and panels of a call are cut. Nothing here changes a result. The first rows may go to the tile
// unit, in tiles of kAmxRows; the others are shared evenly among tiles of up to kMaxTile.
struct Plan {
  int64_t rows, amx_tiles, tiles;
  int64_t tiles_per_item, row_blocks;
  int64_t panels_per_item;

  int64_t FirstRow(int64_t tile) const {
    if (tile <= amx_tiles) return tile * kAmxRows;
    const int64_t amx_rows = amx_tiles * kAmxRows;
    const int64_t rest = rows - amx_rows, rest_tiles = tiles - amx_tiles, t = tile - amx_tiles;
    return amx_rows + t * (rest / rest_tiles) + HWY_MIN(t, rest % rest_tiles);
  }
};

// How many tiles go to the tile unit.
int64_t AmxTiles(int64_t rows, const MatMulScratch::Impl& scratch, std::span<const MatMulTarget> targets) {
#if HWY_TARGET == HWY_AVX3_DL
  if (!scratch.use_amx) return 0;
  for (const MatMulTarget& t : targets) {
    if (t.weights->form() == WeightForm::kF32) return 0;
  }
  return rows / kAmxRows;
#else
  return 0;
#endif
}

Plan MakePlan(int64_t rows, int64_t amx_tiles, int64_t inputs, std::span<const MatMulTarget> targets,
              int threads) {
  // An item's activations stay in a core's second-level cache beside the panel; its products take long enough
  // (about 10 us) to hide what it costs to fetch an item, and there are enough of them to balance the
  // threads.
  constexpr int64_t kActivationBytes = 128 * 1024;
  constexpr int64_t kLeastProducts = 48 * 1024;
  constexpr int64_t kItemsPerThread = 12;
  const int64_t tile_rows = amx_tiles > 0 ? kAmxRows : kMaxTile;
  Plan plan;
  plan.rows = rows;
  plan.amx_tiles = amx_tiles;
  plan.tiles = amx_tiles + DivideUp(rows - amx_tiles * kAmxRows, kMaxTile);
  plan.tiles_per_item = HWY_MAX(int64_t{1}, HWY_MIN(int64_t{16}, kActivationBytes / inputs / tile_rows));
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  plan.tiles_per_item = DivideUp(plan.tiles, plan.row_blocks);
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  int64_t panels = 0;
  for (const MatMulTarget& target : targets) panels += DivideUp(target.weights->outputs(), kPanelOutputs);
  const int64_t balanced = panels * plan.row_blocks / (kItemsPerThread * threads);
  const int64_t products = kPanelOutputs * inputs * HWY_MIN(rows, plan.tiles_per_item * tile_rows);
  plan.panels_per_item = HWY_MAX(int64_t{1}, HWY_MAX(balanced, kLeastProducts / products));
  return plan;
}

// Fills the scratch with what the targets' forms need.
void PrepareActivations(ThreadPool& pool, MatMulScratch::Impl& scratch, const float* x, int64_t ldx,
                        int64_t inputs, const Plan& plan, std::span<const MatMulTarget> targets) {
  bool floats = false, integers = false;
  for (const MatMulTarget& t : targets) (t.weights->form() == WeightForm::kF32 ? floats : integers) = true;
  scratch.Resize(plan.rows, inputs, pool.threads(), floats, integers);
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

#if HWY_TARGET == HWY_AVX3_DL
// Rows first_row .. end_row of a panel on the tile unit. 4-bit codes have been unpacked, signed ones are
// bytes in the panel already.
void PanelTimesAmxRows(const Matrix& m, const Panel& panel, MatMulScratch::Impl& scratch, int64_t first_row,
                       int64_t end_row, const Destination& to) {
  const IntegerActivations x = scratch.integers(first_row);
  const bool packed = m.form() == WeightForm::kS8;
  const AmxPanel weights{packed ? panel.units : panel.unpacked,
                         packed ? panel.layout.bytes : m.group() * kPanelOutputs,
                         panel.units + panel.layout.codes_bytes,
                         panel.layout.bytes,
                         panel.layout.metadata_bytes,
                         m.inputs(),
                         m.group(),
                         m.half_scales(),
                         m.has_min()};
  const AmxActivations rows{x.codes, x.scales, m.group() == 16 ? x.by16.scaled : x.by32.scaled,
                            end_row - first_row};
  AmxProduct(weights, rows, {to.y, to.ldy, to.bias, to.columns});
}
#endif

// One panel times the tiles first_tile .. end_tile.
void PanelTimesTiles(const MatMulTarget& target, int64_t index, const Plan& plan, int64_t first_tile,
                     int64_t end_tile, MatMulScratch::Impl& scratch, int worker) {
  const Matrix& m = *target.weights;
  Panel panel{reinterpret_cast<const uint8_t*>(m.packed().data()) +
                  index * PanelBytes(m.form(), m.group(), m.has_min(), m.half_scales(), m.inputs()),
              nullptr,
              LayoutOfUnit(m.form(), m.group(), m.has_min(), m.half_scales()),
              m.has_min(),
              m.half_scales(),
              m.inputs()};
  const int64_t output = index * kPanelOutputs;
  const auto destination = [&](int64_t row) {
    return Destination{target.y + row * target.ldy + output, target.ldy,
                       target.bias == nullptr ? nullptr : target.bias + output,
                       static_cast<int>(HWY_MIN(m.outputs() - output, int64_t{kPanelOutputs}))};
  };
  const int64_t amx_end = HWY_MAX(first_tile, HWY_MIN(end_tile, plan.amx_tiles));
#if LARDER_DOT_X86
  uint8_t* unpacked = scratch.unpacked(worker);
  const bool several = end_tile - amx_end > 1;
  if (m.form() == WeightForm::kU4 && (several || first_tile < amx_end)) {
    UnpackPanel<WeightForm::kU4>(panel, m.group(), unpacked);
    panel.unpacked = unpacked;
  } else if (kUnpacks<WeightForm::kS8> && m.form() == WeightForm::kS8 && several) {
    UnpackPanel<WeightForm::kS8>(panel, m.group(), unpacked);
    panel.unpacked = unpacked;
  }
#endif
#if HWY_TARGET == HWY_AVX3_DL
  if (first_tile < amx_end) {
    const int64_t first_row = plan.FirstRow(first_tile);
    PanelTimesAmxRows(m, panel, scratch, first_row, plan.FirstRow(amx_end), destination(first_row));
  }
#endif
  for (int64_t tile = amx_end; tile < end_tile; ++tile) {
    const int64_t row = plan.FirstRow(tile);
    const int rows = static_cast<int>(plan.FirstRow(tile + 1) - row);
    PanelTimesTile<kMaxTile>(rows, m, panel, scratch, row, destination(row));
  }
}

void MatMulOnTarget(ThreadPool& pool, MatMulScratch::Impl& scratch, const float* x, int64_t ldx, int rows,
                    std::span<const MatMulTarget> targets) {
  const int64_t inputs = targets[0].weights->inputs();
  const Plan plan = MakePlan(rows, AmxTiles(rows, scratch, targets), inputs, targets, pool.threads());
  PrepareActivations(pool, scratch, x, ldx, inputs, plan, targets);

  const auto items_of = [&](const MatMulTarget& target) HWY_ATTR {
    return DivideUp(DivideUp(target.weights->outputs(), kPanelOutputs), plan.panels_per_item) *
           plan.row_blocks;
  };
  int64_t items = 0;
  for (const MatMulTarget& target : targets) items += items_of(target);
  pool.Run(items, [&](int64_t item, int worker) HWY_ATTR {
    size_t t = 0;
    for (; item >= items_of(targets[t]); ++t) item -= items_of(targets[t]);
    const MatMulTarget& target = targets[t];
    const int64_t panels = DivideUp(target.weights->outputs(), kPanelOutputs);
    const int64_t first_panel = item / plan.row_blocks * plan.panels_per_item;
    const int64_t end_panel = HWY_MIN(panels, first_panel + plan.panels_per_item);
    const int64_t first_tile = item % plan.row_blocks * plan.tiles_per_item;
    const int64_t end_tile = HWY_MIN(plan.tiles, first_tile + plan.tiles_per_item);
    for (int64_t panel = first_panel; panel < end_panel; ++panel) {
      PanelTimesTiles(target, panel, plan, first_tile, end_tile, scratch, worker);
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

void MatMulScratch::Impl::Resize(int64_t rows, int64_t inputs, int threads, bool floats, bool integers) {
  inputs_ = inputs;
  if (floats) floats_.Resize(rows * inputs);
  if (!integers) return;
  codes_.Resize(rows * inputs);
  scales_.Resize(rows * inputs / 32);
  offsets32_.Resize(rows * inputs / 32);
  scaled32_.Resize(rows * inputs / 32);
  offsets16_.Resize(rows * inputs / 16);
  scaled16_.Resize(rows * inputs / 16);
  unpacked_bytes_ = inputs * kPanelOutputs;
  unpacked_.Resize(threads * unpacked_bytes_);
}

MatMulScratch::MatMulScratch(bool may_use_amx)
    : impl_(std::make_unique<Impl>(may_use_amx && AmxAvailable())) {}
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
