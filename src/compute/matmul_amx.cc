#include "compute/matmul_amx.h"

#include "hwy/base.h"

#if HWY_ARCH_X86_64 && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#if HWY_COMPILER_GCC && !HWY_COMPILER_CLANG  // GCC 12 warns of its own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>

namespace larder {
namespace {

bool ProcessorHasAmx() {
  constexpr uint32_t kTile = 1u << 24, kInt8 = 1u << 25;  // of edx of leaf 7
  uint32_t a, b, c, d;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && (d & (kTile | kInt8)) == (kTile | kInt8);
}

// Linux keeps the tile registers only of processes that have asked for it.
bool AskForTiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

bool AmxAvailable() {
  static const bool available = ProcessorHasAmx() && AskForTiles();
  return available;
}

}  // namespace larder

HWY_PUSH_ATTRIBUTES("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8")
namespace larder {
namespace {

// The operand of the instruction that configures the tile registers.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Two registers of each kind, used in turns: 0, 1 sums [16 rows][16 outputs]; 2, 3 activations [16
// rows][group]; 4, 5 weights [group / 4][64].
void Configure(int group) {
  TileShapes shapes;
  for (int i = 0; i < 6; ++i) {
    shapes.rows[i] = static_cast<uint8_t>(i < 4 ? kAmxRows : group / 4);
    shapes.row_bytes[i] = static_cast<uint16_t>(i / 2 == 1 ? group : 64);
  }
  asm volatile("" : : "m"(shapes));  // GCC 12's intrinsic admits to reading its first eight bytes only
  _tile_loadconfig(&shapes);
}

// Registers have constant numbers, hence the two halves of each.
template <int kTurn>
HWY_INLINE void LoadOperands(const int8_t* x, int64_t x_stride, const uint8_t* w) {
  if constexpr (kTurn == 0) {
    _tile_loadd(2, x, x_stride);
    _tile_loadd(4, w, 64);
  } else {
    _tile_loadd(3, x, x_stride);
    _tile_loadd(5, w, 64);
  }
}
template <int kTurn>
HWY_INLINE void Multiply() {
  if constexpr (kTurn == 0) {
    _tile_zero(0);
    _tile_dpbssd(0, 2, 4);
  } else {
    _tile_zero(1);
    _tile_dpbssd(1, 3, 5);
  }
}
template <int kTurn>
HWY_INLINE void StoreSums(int32_t* to) {
  if constexpr (kTurn == 0) {
    _tile_stored(0, to, 64);
  } else {
    _tile_stored(1, to, 64);
  }
}

HWY_INLINE __m512 LoadMetadata(const uint8_t* p, bool half) {
  return half ? _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))) : _mm512_loadu_ps(p);
}

// All tiles of rows times one panel. The unit works ahead, also into the next tile: while the sums of one
// unit become floats, those of the next are stored and the one after is multiplied.
template <int kGroup, bool kHasMin>
class Product {
 public:
  Product(const AmxPanel& panel, const AmxActivations& x, const AmxResult& to)
      : panel_(panel), x_(x), to_(to), units_(panel.inputs / kGroup) {}

  HWY_INLINE void Run() {
    Configure(kGroup);
    __m512 acc[kAmxRows];
    Clear(acc);
    const int64_t steps = units_ * (x_.rows / kAmxRows);
    for (int64_t i = 0; i < steps + 2; i += 2) {
      Step<0>(i, steps, acc);
      Step<1>(i + 1, steps, acc);
    }
    _tile_release();
  }

 private:
  // A unit of a tile of rows.
  struct Place {
    int64_t row = 0, unit = 0;
    HWY_INLINE void Next(int64_t units) {
      if (++unit < units) return;
      unit = 0;
      row += kAmxRows;
    }
  };

  template <int kTurn>
  HWY_INLINE void Step(int64_t i, int64_t steps, __m512* acc) {
    if (i < steps) {
      const int64_t u = loading_.unit;
      const int8_t* tile = x_.codes + loading_.row * panel_.inputs;
      LoadOperands<kTurn>(tile + u * kGroup / 32 * 32 * kAmxRows + u * kGroup % 32, 32,
                          panel_.codes + u * panel_.codes_stride);
      loading_.Next(units_);
    }
    if (i >= 1 && i <= steps) StoreSums<1 - kTurn>(sums_[1 - kTurn]);
    if (i < steps) Multiply<kTurn>();
    if (i >= 2 && i - 2 < steps) {
      if (adding_.unit == 0) PrefetchRows();
      AddUnit(sums_[kTurn], acc);
      if (adding_.unit == units_ - 1) {
        StoreRows(acc);
        Clear(acc);
      }
      adding_.Next(units_);
    }
  }

  HWY_INLINE void AddUnit(const int32_t* sums, __m512* acc) const {
    const int64_t u = adding_.unit;
    const uint8_t* metadata = panel_.metadata + u * panel_.metadata_stride;
    const __m512 scale_w = LoadMetadata(metadata, panel_.half_scales);
    const __m512 min_w = kHasMin ? LoadMetadata(metadata + panel_.minimums, panel_.half_scales) : scale_w;
    const float* scale_x = x_.scales + adding_.row * (panel_.inputs / 32) + u * kGroup / 32 * kAmxRows;
    const float* scaled_sum = x_.scaled_sums + adding_.row * units_ + u * kAmxRows;
    HWY_UNROLL(16)
    for (int r = 0; r < kAmxRows; ++r) {
      const __m512 isum = _mm512_cvtepi32_ps(_mm512_load_si512(sums + 16 * r));
      acc[r] = _mm512_fmadd_ps(isum, _mm512_mul_ps(scale_w, _mm512_set1_ps(scale_x[r])), acc[r]);
      if constexpr (kHasMin) acc[r] = _mm512_fmadd_ps(min_w, _mm512_set1_ps(scaled_sum[r]), acc[r]);
    }
  }

  // The results' rows lie far apart, where no hardware looks ahead.
  HWY_INLINE void PrefetchRows() const {
    const float* y = to_.y + adding_.row * to_.ldy;
    for (int r = 0; r < kAmxRows; ++r, y += to_.ldy) __builtin_prefetch(y, 1);
  }

  HWY_INLINE void StoreRows(__m512* acc) const {
    const __mmask16 columns = static_cast<__mmask16>((1u << to_.columns) - 1);
    float* y = to_.y + adding_.row * to_.ldy;
    HWY_UNROLL(16)
    for (int r = 0; r < kAmxRows; ++r, y += to_.ldy) {
      if (to_.bias != nullptr) acc[r] = _mm512_add_ps(acc[r], _mm512_maskz_loadu_ps(columns, to_.bias));
      _mm512_mask_storeu_ps(y, columns, acc[r]);
    }
  }

  static HWY_INLINE void Clear(__m512* acc) {
    HWY_UNROLL(16)
    for (int r = 0; r < kAmxRows; ++r) acc[r] = _mm512_setzero_ps();
  }

  const AmxPanel panel_;
  const AmxActivations x_;
  const AmxResult to_;
  const int64_t units_;
  Place loading_, adding_;
  alignas(64) int32_t sums_[2][kAmxRows * 16];
};

template <int kGroup, bool kHasMin>
HWY_NOINLINE void RunProduct(const AmxPanel& panel, const AmxActivations& x, const AmxResult& to) {
  Product<kGroup, kHasMin>(panel, x, to).Run();
}

}  // namespace
}  // namespace larder
HWY_POP_ATTRIBUTES

namespace larder {

void AmxProduct(const AmxPanel& panel, const AmxActivations& x, const AmxResult& to) {
  if (panel.group == 32) {
    return panel.has_min ? RunProduct<32, true>(panel, x, to) : RunProduct<32, false>(panel, x, to);
  }
  return panel.has_min ? RunProduct<16, true>(panel, x, to) : RunProduct<16, false>(panel, x, to);
}

}  // namespace larder

#else  // no such unit

#include "base/result.h"

namespace larder {
bool AmxAvailable() { return false; }
void AmxProduct(const AmxPanel&, const AmxActivations&, const AmxResult&) {
  LARDER_CHECK(false && "no AMX on this machine");
}
}  // namespace larder

#endif
