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

#include "compute/matmul_tiles-inl.h"
#include "compute/quantize_rows-inl.h"

HWY_BEFORE_NAMESPACE();
namespace larder {
namespace HWY_NAMESPACE {
namespace {

static_assert(kMaxTile <= kMaxTileRows && kAmxRows <= kMaxTileRows);

void InterleaveTile(const float* x, int64_t ldx, int64_t inputs, int rows, float* to) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t k = 0; k < inputs; ++k) to[k * rows + r] = x[r * ldx + k];
  }
}

int64_t DivideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How the rows and panels of a call are cut. Items go through the weights first, so that a worker, whose
// items are neighbours, keeps its activations in its cache and reads weights in the order in which they lie.
// Nothing here changes a result. The first rows may go to the tile unit, in tiles of kAmxRows; the others are
// shared evenly among tiles of up to kMaxTile.
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

// How many tiles go to the tile unit, which takes bytes alone.
int64_t AmxTiles(int64_t rows, const MatMulScratch::Impl& scratch, bool only_bytes) {
#if HWY_TARGET == HWY_AVX3_DL
  return scratch.use_amx && only_bytes ? rows / kAmxRows : 0;
#else
  return 0;
#endif
}

int64_t PanelsOf(std::span<const MatMulTarget> targets) {
  int64_t panels = 0;
  for (const MatMulTarget& target : targets) panels += DivideUp(target.weights->outputs(), kPanelOutputs);
  return panels;
}

Plan MakePlan(int64_t rows, int64_t amx_tiles, int64_t inputs, int64_t panels, int threads) {
  // An item's activations stay in a core's second-level cache beside the panel; its products take long enough
  // (about 10 us) to hide what it costs to fetch an item, and there are enough of them to balance the
  // threads.
  constexpr int64_t kActivationBytes = 256 * 1024;
  constexpr int64_t kLeastProducts = 48 * 1024;
  constexpr int64_t kItemsPerThread = 12;
  const int64_t tile_rows = amx_tiles > 0 ? kAmxRows : kMaxTile;
  Plan plan;
  plan.rows = rows;
  plan.amx_tiles = amx_tiles;
  plan.tiles = amx_tiles + DivideUp(rows - amx_tiles * kAmxRows, kMaxTile);
  plan.tiles_per_item = HWY_MAX(int64_t{1}, HWY_MIN(int64_t{32}, kActivationBytes / inputs / tile_rows));
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  plan.tiles_per_item = DivideUp(plan.tiles, plan.row_blocks);
  plan.row_blocks = DivideUp(plan.tiles, plan.tiles_per_item);
  const int64_t balanced = panels * plan.row_blocks / (kItemsPerThread * threads);
  const int64_t products = kPanelOutputs * inputs * HWY_MIN(rows, plan.tiles_per_item * tile_rows);
  plan.panels_per_item = HWY_MAX(int64_t{1}, HWY_MAX(balanced, kLeastProducts / products));
  return plan;
}

void PrepareTile(MatMulScratch::Impl& scratch, const MatMulSource& source, int64_t inputs, int64_t first,
                 int rows, const WantedForms& wanted, int worker) {
  const float* x = source.x + first * source.ldx;
  int64_t ldx = source.ldx;
  if (source.maker != nullptr) {
    float* made = scratch.made(worker);
    for (int r = 0; r < rows; ++r) source.maker->Make(first + r, made + r * inputs);
    x = made;
    ldx = inputs;
  }
  if (wanted.floats) InterleaveTile(x, ldx, inputs, rows, scratch.floats(first));
  if (wanted.words) WordTile(x, ldx, inputs, rows, scratch.words(first));
  if (wanted.bytes()) QuantizeTile(x, ldx, inputs, rows, wanted, scratch.integers(first));
}

// Fills the scratch.
void PrepareActivations(ThreadPool& pool, MatMulScratch::Impl& scratch, const MatMulSource& source,
                        int64_t inputs, const Plan& plan, const WantedForms& wanted) {
  scratch.Resize(plan.rows, inputs, pool.threads(), wanted);
  if (source.maker != nullptr) scratch.ResizeMade(pool.threads());
  const auto prepare = [&](int64_t tile, int worker) HWY_ATTR {
    const int64_t first = plan.FirstRow(tile);
    PrepareTile(scratch, source, inputs, first, static_cast<int>(plan.FirstRow(tile + 1) - first), wanted,
                worker);
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

// How many panels meet the same rows together: what is unpacked of them stays in a core's first-level cache
// beside a tile's activations, which are then fetched once for all.
int64_t PanelsTogether(int64_t inputs) {
  constexpr int64_t kUnpackedBytes = 24 * 1024;
  return HWY_MAX(int64_t{1}, HWY_MIN(int64_t{kMaxPanels}, kUnpackedBytes / (inputs * kPanelOutputs)));
}

// Where the results of some panels go: y is that of row `first_row` and output `first_output`.
struct Sink {
  float* y;
  int64_t ldy;
  const float* bias;  // of output 0, or null
  int64_t first_row, first_output;

  Destination Of(const Matrix& m, int64_t row, int64_t panel) const {
    const int64_t output = panel * kPanelOutputs;
    return {y + (row - first_row) * ldy + output - first_output, ldy,
            bias == nullptr ? nullptr : bias + output,
            static_cast<int>(HWY_MIN(m.outputs() - output, int64_t{kPanelOutputs}))};
  }
};

// `count` panels from `first_panel` on times the tiles first_tile .. end_tile.
void PanelsTimesTiles(const Matrix& m, int64_t first_panel, int64_t count, const Plan& plan,
                      int64_t first_tile, int64_t end_tile, MatMulScratch::Impl& scratch, int worker,
                      const Sink& sink) {
  const int64_t amx_end = HWY_MAX(first_tile, HWY_MIN(end_tile, plan.amx_tiles));
  const int64_t panel_bytes = PanelBytes(m.form(), m.group(), m.has_min(), m.half_scales(), m.inputs());
  Panel panels[kMaxPanels];
  for (int64_t p = 0; p < count; ++p) {
    panels[p] = {reinterpret_cast<const uint8_t*>(m.packed().data()) + (first_panel + p) * panel_bytes,
                 nullptr,
                 0,
                 nullptr,
                 LayoutOfUnit(m.form(), m.group(), m.has_min(), m.half_scales()),
                 m.has_min(),
                 m.half_scales(),
                 m.inputs()};
#if LARDER_DOT_X86
    // The tile unit takes signed codes as they lie, and floats have no codes.
    const bool for_amx = first_tile < amx_end && m.form() == WeightForm::kU4;
    if (m.form() != WeightForm::kF32 && (end_tile - amx_end > 1 || for_amx)) {
      Unpack(m, scratch.unpacked(worker, p), scratch.metadata(worker, p), panels[p]);
    }
#endif
  }
#if HWY_TARGET == HWY_AVX3_DL
  for (int64_t p = 0; p < count && first_tile < amx_end; ++p) {
    const int64_t first_row = plan.FirstRow(first_tile);
    PanelTimesAmxRows(m, panels[p], scratch, first_row, plan.FirstRow(amx_end),
                      sink.Of(m, first_row, first_panel + p));
  }
#endif
  for (int64_t tile = amx_end; tile < end_tile; ++tile) {
    const int64_t row = plan.FirstRow(tile);
    const int rows = static_cast<int>(plan.FirstRow(tile + 1) - row);
    for (int64_t p = 0; p < count; ++p) {
      PanelTimesTile<kMaxTile>(rows, m, panels[p], scratch, row, sink.Of(m, row, first_panel + p));
    }
  }
}

// Panels first_panel .. end_panel, some at a time.
void PanelRange(const Matrix& m, int64_t first_panel, int64_t end_panel, const Plan& plan, int64_t first_tile,
                int64_t end_tile, MatMulScratch::Impl& scratch, int worker, const Sink& sink) {
  const int64_t together = PanelsTogether(m.inputs());
  for (int64_t panel = first_panel; panel < end_panel; panel += together) {
    PanelsTimesTiles(m, panel, HWY_MIN(together, end_panel - panel), plan, first_tile, end_tile, scratch,
                     worker, sink);
  }
}

// The product of what the scratch was filled with.
void Multiply(ThreadPool& pool, MatMulScratch::Impl& scratch, const Plan& plan,
              std::span<const MatMulTarget> targets) {
  const auto pieces_of = [&](const MatMulTarget& target) HWY_ATTR {
    return DivideUp(DivideUp(target.weights->outputs(), kPanelOutputs), plan.panels_per_item);
  };
  int64_t pieces = 0;
  for (const MatMulTarget& target : targets) pieces += pieces_of(target);
  pool.Run(pieces * plan.row_blocks, [&](int64_t item, int worker) HWY_ATTR {
    const int64_t first_tile = item / pieces * plan.tiles_per_item;
    int64_t piece = item % pieces;
    size_t t = 0;
    for (; piece >= pieces_of(targets[t]); ++t) piece -= pieces_of(targets[t]);
    const MatMulTarget& target = targets[t];
    const int64_t panels = DivideUp(target.weights->outputs(), kPanelOutputs);
    const int64_t first_panel = piece * plan.panels_per_item;
    PanelRange(*target.weights, first_panel, HWY_MIN(panels, first_panel + plan.panels_per_item), plan,
               first_tile, HWY_MIN(plan.tiles, first_tile + plan.tiles_per_item), scratch, worker,
               {target.y, target.ldy, target.bias, 0, 0});
  });
}

void MatMulOnTarget(ThreadPool& pool, MatMulScratch::Impl& scratch, const MatMulSource& source, int rows,
                    std::span<const MatMulTarget> targets) {
  const int64_t inputs = targets[0].weights->inputs();
  WantedForms wanted;
  for (const MatMulTarget& target : targets) wanted.Add(*target.weights);
  const Plan plan =
      MakePlan(rows, AmxTiles(rows, scratch, wanted.OnlyBytes()), inputs, PanelsOf(targets), pool.threads());
  PrepareActivations(pool, scratch, source, inputs, plan, wanted);
  Multiply(pool, scratch, plan, targets);
}

// Two panels of the gate and the same two of `up`: a group of inputs of `down`.
constexpr int64_t kGatedPanels = kActivationGroup / kPanelOutputs;

// One such group for the tiles first_tile .. end_tile.
void GatedItem(const GatedFeedForward& layer, int64_t group, const Plan& plan, int64_t first_tile,
               int64_t end_tile, MatMulScratch::Impl& scratch, MatMulScratch::Impl& between,
               const WantedForms& wanted, int worker) {
  const int64_t first_panel = group * kGatedPanels, first_output = group * kActivationGroup;
  const int64_t first_row = plan.FirstRow(first_tile), rows = plan.FirstRow(end_tile) - first_row;
  const int64_t columns = HWY_MIN(int64_t{kActivationGroup}, layer.gate->outputs() - first_output);
  const int64_t end_panel = first_panel + DivideUp(columns, kPanelOutputs);
  float* gate = scratch.gated(worker);
  float* up = gate + rows * kActivationGroup;
  for (const auto& [matrix, y] : {std::pair(layer.gate, gate), std::pair(layer.up, up)}) {
    PanelRange(*matrix, first_panel, end_panel, plan, first_tile, end_tile, scratch, worker,
               {y, columns, nullptr, first_row, first_output});
  }
  if (layer.activation == Activation::kSilu) {
    SiluMul(gate, up, rows * columns);
  } else {
    GeluMul(gate, up, rows * columns);
  }
  for (int64_t tile = first_tile; tile < end_tile; ++tile) {
    const int64_t row = plan.FirstRow(tile);
    const int count = static_cast<int>(plan.FirstRow(tile + 1) - row);
    const float* x = gate + (row - first_row) * columns;
    if (wanted.words) {
      WordsOfRows(x, columns, group, count, between.words(row));
    } else if (wanted.bytes()) {
      QuantizeGroupOfRows(x, columns, group, count, wanted, between.integers(row));
    } else {
      InterleaveTile(x, columns, columns, count, between.floats(row) + first_output * count);
    }
  }
}

void GatedOnTarget(ThreadPool& pool, MatMulScratch::Impl& scratch, MatMulScratch::Impl& between,
                   const RowMaker& x, int rows, const GatedFeedForward& layer, float* y, int64_t ldy) {
  const int64_t inputs = layer.gate->inputs(), inner = layer.down->inputs();
  WantedForms wanted, wanted_between;
  wanted.Add(*layer.gate);
  wanted.Add(*layer.up);
  wanted_between.Add(*layer.down);
  // All three products cut the rows alike.
  const int64_t amx_tiles = AmxTiles(rows, scratch, wanted.OnlyBytes() && wanted_between.OnlyBytes());
  const int64_t panels = DivideUp(inner, kPanelOutputs);
  const Plan plan = MakePlan(rows, amx_tiles, inputs, 2 * panels, pool.threads());
  PrepareActivations(pool, scratch, {nullptr, 0, &x}, inputs, plan, wanted);
  between.Resize(rows, inner, pool.threads(), wanted_between);
  scratch.ResizeGated(pool.threads(), plan.FirstRow(HWY_MIN(plan.tiles, plan.tiles_per_item)));

  const int64_t groups = DivideUp(inner, kActivationGroup);
  const int64_t groups_per_item = DivideUp(plan.panels_per_item, 2 * kGatedPanels);
  const int64_t pieces = DivideUp(groups, groups_per_item);
  pool.Run(pieces * plan.row_blocks, [&](int64_t item, int worker) HWY_ATTR {
    const int64_t first_group = item % pieces * groups_per_item;
    const int64_t first_tile = item / pieces * plan.tiles_per_item;
    const int64_t end_tile = HWY_MIN(plan.tiles, first_tile + plan.tiles_per_item);
    for (int64_t g = first_group; g < HWY_MIN(groups, first_group + groups_per_item); ++g) {
      GatedItem(layer, g, plan, first_tile, end_tile, scratch, between, wanted_between, worker);
    }
  });
  const MatMulTarget target{layer.down, y, ldy};
  Multiply(pool, between, MakePlan(rows, amx_tiles, inner, PanelsOf({&target, 1}), pool.threads()),
           {&target, 1});
}

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace larder
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace larder {

HWY_EXPORT(MatMulOnTarget);
HWY_EXPORT(GatedOnTarget);

void MatMulScratch::Impl::Resize(int64_t rows, int64_t inputs, int threads, const WantedForms& wanted) {
  inputs_ = inputs;
  if (wanted.floats) floats_.Resize(rows * inputs);
  if (wanted.words) {
    words_.Resize(rows * inputs);
    word_scales_.Resize(rows * inputs / kActivationGroup);
  }
  if (wanted.words || wanted.bytes()) metadata_.Resize(threads * kMaxPanels * MetadataFloats());
  if (!wanted.bytes()) return;
  codes_.Resize(rows * inputs);
  scales_.Resize(rows * inputs / 32);
  offsets32_.Resize(rows * inputs / 32);
  scaled32_.Resize(rows * inputs / 32);
  offsets16_.Resize(rows * inputs / 16);
  scaled16_.Resize(rows * inputs / 16);
  unpacked_bytes_ = inputs * kPanelOutputs;
  unpacked_.Resize(threads * kMaxPanels * unpacked_bytes_);
}

MatMulScratch::MatMulScratch(bool may_use_amx)
    : impl_(std::make_unique<Impl>(may_use_amx && AmxAvailable())) {}
MatMulScratch::~MatMulScratch() = default;

namespace {

void CheckedMatMul(ThreadPool& pool, MatMulScratch& scratch, const MatMulSource& source, int rows,
                   std::span<const MatMulTarget> targets) {
  if (rows <= 0 || targets.empty()) return;
  for (const MatMulTarget& target : targets)
    LARDER_CHECK(target.weights->inputs() == targets[0].weights->inputs());
  HWY_DYNAMIC_DISPATCH(MatMulOnTarget)(pool, scratch.impl(), source, rows, targets);
}

}  // namespace

void MatMul(ThreadPool& pool, MatMulScratch& scratch, const float* x, int64_t ldx, int rows,
            std::span<const MatMulTarget> targets) {
  CheckedMatMul(pool, scratch, {x, ldx, nullptr}, rows, targets);
}

void MatMul(ThreadPool& pool, MatMulScratch& scratch, const RowMaker& x, int rows,
            std::span<const MatMulTarget> targets) {
  CheckedMatMul(pool, scratch, {nullptr, 0, &x}, rows, targets);
}

void GatedMatMul(ThreadPool& pool, MatMulScratch& scratch, MatMulScratch& between, const RowMaker& x,
                 int rows, const GatedFeedForward& layer, float* y, int64_t ldy) {
  if (rows <= 0) return;
  LARDER_CHECK(layer.gate->inputs() == layer.up->inputs() && layer.gate->outputs() == layer.up->outputs() &&
               layer.down->inputs() == layer.gate->outputs());
  HWY_DYNAMIC_DISPATCH(GatedOnTarget)(pool, scratch.impl(), between.impl(), x, rows, layer, y, ldy);
}

}  // namespace larder
#endif
