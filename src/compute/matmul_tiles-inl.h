// The kernels of the matrix product (matmul.cc): one tile of rows times one panel of outputs.
//
// No include guard in the usual sense: compiled once per target.
#if defined(LARDER_COMPUTE_MATMUL_TILES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LARDER_COMPUTE_MATMUL_TILES_INL_H_
#undef LARDER_COMPUTE_MATMUL_TILES_INL_H_
#else
#define LARDER_COMPUTE_MATMUL_TILES_INL_H_
#endif

#include "compute/matmul.h"
#include "compute/matmul_scratch.h"
#include "compute/packed.h"
#include "compute/simd_dot-inl.h"
#include "compute/simd_ops-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {

// Rows whose integer and float sums fit the registers: 2 * 12 of 32 with 512 bits (2 * 8 where a product
// needs registers of its own), 2 * 6 of 16 with 256. Plain code has no registers to fill.
#if HWY_TARGET == HWY_AVX3_DL
inline constexpr int kMaxTile = 12;
#elif HWY_TARGET == HWY_AVX3
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
  HWY_UNROLL(12)
  for (int i = 0; i < kRows * kRegisters; ++i) acc[i / kRegisters][i % kRegisters] = SplatOutputs(0.0f);
  for (int64_t k = 0; k < inputs; ++k) {
    HWY_UNROLL(2)
    for (int p = 0; p < kRegisters; ++p) {
      const Outputs weights = LoadOutputs(w + k * kPanelOutputs + p * kRegisterOutputs);
      HWY_UNROLL(12)
      for (int r = 0; r < kRows; ++r) acc[r][p] = Fma(weights, SplatOutputs(x[k * kRows + r]), acc[r][p]);
    }
  }
  HWY_UNROLL(12)
  for (int i = 0; i < kRows * kRegisters; ++i) {
    StoreRow(acc[i / kRegisters][i % kRegisters], to, i % kRegisters * kRegisterOutputs, i / kRegisters);
  }
}

// A panel of integer weights.
struct Panel {
  const uint8_t* units;
  const uint8_t* unpacked;  // UnpackUnit of all units, or null where nothing needs it
  int64_t unpacked_stride;  // bytes of a unit there
  const float* metadata;    // with `unpacked`: [unit][scale, minimum][16 outputs]
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

// Of a unit, for a register of outputs.
struct UnitScales {
  Outputs scale, min;  // min: 0 where there is none

  HWY_INLINE UnitScales(const Panel& panel, const uint8_t* unit, int first)
      : scale(panel.Metadata(unit, 0, first)),
        min(panel.has_min ? panel.Metadata(unit, 1, first) : SplatOutputs(0.0f)) {}
  // From the panel's unpacked metadata.
  HWY_INLINE UnitScales(const Panel& panel, int64_t u, int first)
      : scale(LoadOutputs(panel.metadata + 2 * u * kPanelOutputs + first)),
        min(panel.has_min ? LoadOutputs(panel.metadata + (2 * u + 1) * kPanelOutputs + first)
                          : SplatOutputs(0.0f)) {}
};

// What a tile's kernel reads of its activations.
struct TileActivations {
  const int8_t* codes;  // [inputs / 32][row][32], of one or two bytes
  const float* scales;  // [inputs / 32][row]
  GroupSums sums;       // not for kS16
};
template <WeightForm kForm, int kGroup>
HWY_INLINE TileActivations ActivationsOf(MatMulScratch::Impl& scratch, int64_t first_row) {
  if constexpr (kForm == WeightForm::kS16) {
    const WordActivations x = scratch.words(first_row);
    return {reinterpret_cast<const int8_t*>(x.codes), x.scales, {}};
  } else {
    const IntegerActivations x = scratch.integers(first_row);
    return {x.codes, x.scales, kGroup == 16 ? x.by16 : x.by32};
  }
}

// The beginning of the sum of unit u of row r.
template <WeightForm kForm, int kRows>
HWY_INLINE GroupSum<kForm> BeginSum(const TileActivations& x, int64_t u, int r) {
  if constexpr (kForm == WeightForm::kS16) return GroupSum<kForm>(0);
  return GroupSum<kForm>(x.sums.offsets[u * kRows + r]);
}

// Slices of a unit: what meets four bytes of activations.
template <WeightForm kForm, int kGroup>
inline constexpr int kSlices = kGroup * ActivationBytes(kForm) / 4;
// From a row's activations of a group to the next row's.
template <WeightForm kForm>
inline constexpr int kRowBytes = kActivationGroup * ActivationBytes(kForm);

// What follows a unit's integer sums, for one register of outputs of all rows.
template <int kGroup, int kRows, class Sum>
HWY_INLINE void AddUnit(bool has_min, const UnitScales& w, int64_t u, const TileActivations& x,
                        const Sum* isum, Outputs* acc) {
  const float* scale_x = x.scales + u * kGroup / kActivationGroup * kRows;
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r) {
    acc[r] = Fma(isum[r].ToFloat(), Mul(w.scale, SplatOutputs(scale_x[r])), acc[r]);
  }
  if (!has_min) return;
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r) acc[r] = Fma(w.min, SplatOutputs(x.sums.scaled[u * kRows + r]), acc[r]);
}

// The activations of a unit's first row.
template <WeightForm kForm, int kGroup, int kRows>
HWY_INLINE const int8_t* UnitActivations(const TileActivations& x, int64_t u) {
  static_assert(kForm != WeightForm::kS16 || kGroup == kActivationGroup);
  return x.codes + u * kGroup / kActivationGroup * kRowBytes<kForm> * kRows + u * kGroup % kActivationGroup;
}

// A slice of a packed unit times all rows, for one register of outputs.
template <WeightForm kForm, int kRows>
HWY_INLINE void AddSlice(const uint8_t* unit, int j, const int8_t* codes, GroupSum<kForm>* isum) {
  Codes w;
  if constexpr (kForm == WeightForm::kU4) {
    const Codes pair = LoadCodes(unit + j / 2 * 64);
    w = j % 2 == 0 ? LowNibbles(pair) : HighNibbles(pair);
  } else {
    w = GroupSum<kForm>::Prepare(LoadCodes(unit + j * 64));
  }
  HWY_UNROLL(12)
  for (int r = 0; r < kRows; ++r) isum[r].Add(w, codes + r * kRowBytes<kForm> + 4 * j);
}

// A single tile reads its weights once, from memory, in which the processor by itself looks ahead too little
// for the speed of the products: measured with AVX-512, 1 to 16 KiB ahead and into either cache, this was
// best (1.6 times the speed at one row, 1.8 at eight).
template <WeightForm kForm, int kGroup>
HWY_INLINE void PrefetchUnit(const uint8_t* unit) {
  constexpr int kAhead = 4096, kLine = 64;
  constexpr int kCodes = static_cast<int>(LayoutOfUnit(kForm, kGroup, false, false).codes_bytes);
  HWY_UNROLL(17)
  for (int at = 0; at <= kCodes; at += kLine) __builtin_prefetch(unit + kAhead + at, 0, 2);  // to level 2
}

// One tile, for which unpacking would not pay. A few rows take all outputs of the panel at once, more fill
// the registers with one register of outputs. A unit's scales come first and its sums are flat: with a branch
// behind the products, or loops of loops, GCC keeps the sums in memory, a store for every product.
template <WeightForm kForm, int kGroup, int kRows>
HWY_NOINLINE void PackedTile(const Panel& panel, const TileActivations& x, const Destination& to) {
  constexpr int kAtOnce = kRows < 4 ? kRegisters : 1, kSums = kAtOnce * kRows;
  static_assert(kAtOnce <= 2);
  constexpr int kSecond =
      kRegisterOutputs % kPanelOutputs;  // where the other register begins, if there is one
  const int64_t units = panel.inputs / kGroup;
  for (int first = 0; first < kPanelOutputs; first += kAtOnce * kRegisterOutputs) {
    const uint8_t* unit = panel.units;
    Outputs acc[kSums];
    HWY_UNROLL(12)
    for (int i = 0; i < kSums; ++i) acc[i] = SplatOutputs(0.0f);
    for (int64_t u = 0; u < units; ++u, unit += panel.layout.bytes) {
      PrefetchUnit<kForm, kGroup>(unit);
      const int8_t* codes = UnitActivations<kForm, kGroup, kRows>(x, u);
      const UnitScales scales(panel, unit, first), second(panel, unit, kSecond);
      GroupSum<kForm> isum[kSums];
      HWY_UNROLL(12)
      for (int i = 0; i < kSums; ++i) isum[i] = BeginSum<kForm, kRows>(x, u, i % kRows);
      HWY_UNROLL(16)
      for (int j = 0; j < kSlices<kForm, kGroup>; ++j) {
        AddSlice<kForm, kRows>(unit + first * 4, j, codes, isum);
        if constexpr (kAtOnce == 2) AddSlice<kForm, kRows>(unit + kSecond * 4, j, codes, isum + kRows);
      }
      AddUnit<kGroup, kRows>(panel.has_min, scales, u, x, isum, acc);
      if constexpr (kAtOnce == 2)
        AddUnit<kGroup, kRows>(panel.has_min, second, u, x, isum + kRows, acc + kRows);
    }
    HWY_UNROLL(12)
    for (int i = 0; i < kSums; ++i) StoreRow(acc[i], to, first + i / kRows * kRegisterOutputs, i % kRows);
  }
}

#if LARDER_DOT_X86
// One of several tiles, weights unpacked: one register of outputs after the other.
template <WeightForm kForm, int kGroup, int kRows>
HWY_NOINLINE void UnpackedTile(const Panel& panel, const TileActivations& x, const Destination& to) {
  const int64_t units = panel.inputs / kGroup;
  for (int first = 0; first < kPanelOutputs; first += kRegisterOutputs) {
    const uint8_t* weights = panel.unpacked + first * 4;
    Outputs acc[kRows];
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) acc[r] = SplatOutputs(0.0f);
    for (int64_t u = 0; u < units; ++u, weights += panel.unpacked_stride) {
      const int8_t* codes = UnitActivations<kForm, kGroup, kRows>(x, u);
      GroupSum<kForm> isum[kRows];
      HWY_UNROLL(12)
      for (int r = 0; r < kRows; ++r) isum[r] = BeginSum<kForm, kRows>(x, u, r);
      HWY_UNROLL(16)
      for (int j = 0; j < kSlices<kForm, kGroup>; ++j) {
        const Codes w = LoadCodes(weights + j * 64);
        HWY_UNROLL(12)
        for (int r = 0; r < kRows; ++r) isum[r].Add(w, codes + r * kRowBytes<kForm> + 4 * j);
      }
      AddUnit<kGroup, kRows>(panel.has_min, UnitScales(panel, u, first), u, x, isum, acc);
    }
    HWY_UNROLL(12)
    for (int r = 0; r < kRows; ++r) StoreRow(acc[r], to, first, r);
  }
}

template <WeightForm kForm>
void UnpackPanel(const Panel& panel, int group, uint8_t* codes, float* metadata) {
  for (int64_t u = 0; u < panel.inputs / group; ++u) {
    const uint8_t* unit = panel.units + u * panel.layout.bytes;
    if constexpr (kForm != WeightForm::kS16)
      UnpackUnit<kForm>(unit, group, codes + u * group * kPanelOutputs);
    for (int which = 0; which < (panel.has_min ? 2 : 1); ++which) {
      for (int first = 0; first < kPanelOutputs; first += kRegisterOutputs) {
        StoreOutputs(panel.Metadata(unit, which, first), metadata + (2 * u + which) * kPanelOutputs + first);
      }
    }
  }
}

// Makes the panel ready for several tiles, where that pays.
void Unpack(const Matrix& m, uint8_t* codes, float* metadata, Panel& panel) {
  if (m.form() == WeightForm::kU4) {
    UnpackPanel<WeightForm::kU4>(panel, m.group(), codes, metadata);
  } else if (kUnpacks<WeightForm::kS8> && m.form() == WeightForm::kS8) {
    UnpackPanel<WeightForm::kS8>(panel, m.group(), codes, metadata);
  } else if (m.form() == WeightForm::kS16) {
    UnpackPanel<WeightForm::kS16>(panel, m.group(), codes, metadata);
  } else {
    return;
  }
  const bool in_place = m.form() == WeightForm::kS16;
  panel.unpacked = in_place ? panel.units : codes;
  panel.unpacked_stride = in_place ? panel.layout.bytes : m.group() * kPanelOutputs;
  panel.metadata = metadata;
}
#endif

template <WeightForm kForm, int kGroup, int kRows>
HWY_INLINE void IntegerTile(const Panel& panel, MatMulScratch::Impl& scratch, int64_t first_row,
                            const Destination& to) {
  const TileActivations x = ActivationsOf<kForm, kGroup>(scratch, first_row);
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
  const auto tile = [&]<WeightForm kForm, int kGroup>()
                        HWY_ATTR { IntegerTile<kForm, kGroup, kRows>(panel, scratch, first_row, to); };
  if (m.form() == WeightForm::kS16) return tile.template operator()<WeightForm::kS16, 32>();
  if (m.form() == WeightForm::kU4) {
    if (m.group() == 32) return tile.template operator()<WeightForm::kU4, 32>();
    return tile.template operator()<WeightForm::kU4, 16>();
  }
  if (m.group() == 32) return tile.template operator()<WeightForm::kS8, 32>();
  tile.template operator()<WeightForm::kS8, 16>();
}

}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#endif
