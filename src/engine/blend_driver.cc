#include "engine/blend_driver.h"

#include <algorithm>

#include "compute/ops.h"

namespace larder {
namespace {

// Runs body(i) for i in [0, rows), neighbours together.
template <class Body>
void ForRows(ThreadPool& pool, int64_t rows, Body&& body) {
  constexpr int64_t kEach = 16;
  pool.Run((rows + kEach - 1) / kEach, [&](int64_t item, int) {
    for (int64_t i = item * kEach; i < std::min(rows, (item + 1) * kEach); ++i) body(i);
  });
}

}  // namespace

BlendResources::BlendResources(Model& m, PageSource& page_source) : model(m), pages(page_source) {
  for (const RopeSpec& rope : m.spec().ropes) ropes.emplace_back(rope, m.spec().rotary_dim);
}

void ChunkCapture::BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) {
  const int heads = model_.spec().kv_heads, dim = model_.spec().head_dim;
  ForRows(model_.pool(), std::ssize(rows), [&](int64_t r) {
    const Row& row = rows[static_cast<size_t>(r)];
    if (row.kv != store_ || row.position < first_) return;
    for (int head = 0; head < heads; ++head) {
      const int64_t at = (r * heads + head) * dim;
      chunk_->Write(layer, head, row.position - first_, k + at, v + at);
    }
  });
}

class BlendDriver::Hooks final : public ForwardHooks {
 public:
  explicit Hooks(BlendDriver& driver) : driver_(driver) {}
  void BeforeLayer(int layer, std::span<const Row>, float*) override {
    if (driver_.Chooses(layer)) driver_.WaitForLayer(layer);
    driver_.FillLayers(layer + 1);
  }
  void BeforeRotation(int layer, std::span<const Row> rows, const float* k, const float* v) override {
    if (driver_.Chooses(layer)) driver_.Measure(layer, rows, k, v);
  }
  void AfterQkv(int, std::span<const Row>, float* q, float*, float*) override { q_ = q; }
  bool MayDismiss(int layer) const override { return driver_.Chooses(layer); }
  void Dismiss(int layer, std::span<const Row>, std::span<uint8_t> leaves) override {
    driver_.Dismiss(layer, leaves);
  }
  bool WantsLse(int layer) const override {
    return driver_.needs_.attention && layer == driver_.needs_.check_layer - 1;
  }
  void AfterAttention(int layer, std::span<const Row> rows, const float* lse) override {
    driver_.SumAttention(layer, rows, q_, lse);
  }

 private:
  BlendDriver& driver_;
  const float* q_ = nullptr;
};

BlendDriver::BlendDriver(BlendResources& resources, const ReuseMethod& method, std::vector<ChunkSpan> spans,
                         int64_t prompt_rows)
    : PrivateRows(resources.model, resources.pages, PositionMode::kKeep, {}),
      resources_(resources),
      method_(method),
      needs_(method.needs()),
      spans_(std::move(spans)),
      prompt_rows_(prompt_rows),
      hooks_(std::make_unique<Hooks>(*this)) {
  LARDER_CHECK(!spans_.empty());
  int64_t positions = prompt_rows;
  for (const ChunkSpan& span : spans_) {
    positions = std::max(positions, span.chunk->prefix_rows() + span.chunk->rows());
    for (int64_t row = span.begin; row < span.begin + span.rows;) {
      const int64_t window_end = (row / kBlendPiece + 1) * kBlendPiece;
      const int64_t end = std::min(window_end, span.begin + span.rows);
      if (pieces_.empty() || pieces_.back().begin / kBlendPiece != row / kBlendPiece) {
        pieces_.push_back({row, end});
      }
      pieces_.back().end = end;
      row = end;
    }
  }
  for (RopeTable& rope : resources_.ropes) rope.Grow(positions);
}

BlendDriver::~BlendDriver() = default;

int64_t BlendDriver::ReadableRows(const KvShape& shape, std::span<const ChunkSpan> spans) {
  // Private pages hold rows, and codes are not turned back into rows.
  return shape.codec() != nullptr ? 0 : spans.front().begin;
}

const BlendDriver::Piece* BlendDriver::PieceAt(int64_t begin) const {
  const auto it = std::ranges::find(pieces_, begin, &Piece::begin);
  return it == pieces_.end() ? nullptr : &*it;
}

int64_t BlendDriver::ChunkEnd(int64_t computed) const {
  for (const Piece& piece : pieces_) {
    if (computed < piece.begin) return piece.begin;
    if (computed == piece.begin) return piece.end;
  }
  return computed < prompt_rows_ ? prompt_rows_ : 0;
}

int64_t BlendDriver::WholeRows(int64_t computed) const {
  const Piece* piece = PieceAt(computed);
  return piece == nullptr ? 0 : piece->end - piece->begin;
}

ForwardHooks* BlendDriver::HooksFor(int64_t computed) {
  const Piece* piece = PieceAt(computed);
  if (piece == nullptr) return nullptr;
  BeginPiece(*piece);
  return hooks_.get();
}

void BlendDriver::BeginPiece(const Piece& piece) {
  piece_ = &piece;
  covered_.clear();
  positions_.clear();
  for (const ChunkSpan& span : spans_) {
    const int64_t begin = std::max(span.begin, piece.begin),
                  end = std::min(span.begin + span.rows, piece.end);
    for (int64_t position = begin; position < end; ++position) {
      covered_.push_back({&span, span.first + position - span.begin});
      positions_.push_back(static_cast<int32_t>(position));
    }
  }
  again_.assign(covered_.size(), 1);
  received_.clear();
  filled_ = needs_.check_layer + 1;
  failed_ = false;
}

// Those of the covered rows that take part in a step, which have the order of its rows.
void BlendDriver::FindGoing(std::span<const Row> rows) {
  going_.clear();
  step_at_.clear();
  going_positions_.clear();
  in_span_.clear();
  size_t covered = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].kv != &lanes_) continue;
    while (covered < positions_.size() && positions_[covered] < rows[r].position) ++covered;
    if (covered == positions_.size() || positions_[covered] != rows[r].position) continue;
    going_.push_back(covered);
    step_at_.push_back(r);
    going_positions_.push_back(positions_[covered]);
    in_span_.push_back(positions_[covered] - covered_[covered].span->begin);
  }
  LARDER_CHECK(std::ssize(going_) == std::ranges::count(again_, 1));
}

// How far stored rows are from true ones. Keys are compared before they are rotated, which changes no
// distance.
void BlendDriver::Measure(int layer, std::span<const Row> rows, const float* k, const float* v) {
  FindGoing(rows);
  deviations_.assign(going_.size(), 0);
  if (failed_) return;
  const int heads = model_.spec().kv_heads, dim = model_.spec().head_dim;
  ForRows(model_.pool(), std::ssize(going_), [&](int64_t i) {
    const size_t at = static_cast<size_t>(i);
    const Covered& covered = covered_[going_[at]];
    float stored_k[kMaxHeadDim], stored_v[kMaxHeadDim], sum = 0;
    for (int head = 0; head < heads; ++head) {
      covered.span->chunk->Read(layer, head, covered.row, stored_k, stored_v);
      const size_t base =
          (step_at_[at] * static_cast<size_t>(heads) + static_cast<size_t>(head)) * static_cast<size_t>(dim);
      for (int j = 0; j < dim; ++j) {
        const float dk = k[base + static_cast<size_t>(j)] - stored_k[j];
        const float dv = v[base + static_cast<size_t>(j)] - stored_v[j];
        if (needs_.keys) sum += dk * dk;
        if (needs_.values) sum += dv * dv;
      }
    }
    deviations_[at] = sum;
  });
}

// What attention of the piece's rows gives to each of them.
void BlendDriver::SumAttention(int layer, std::span<const Row> rows, const float* q, const float* lse) {
  const ModelSpec& spec = model_.spec();
  std::vector<TapRow> taps;
  for (size_t r = 0; r < rows.size(); ++r) {
    if (rows[r].kv != &lanes_) continue;
    taps.push_back({q + r * static_cast<size_t>(spec.heads * spec.head_dim),
                    lse + r * static_cast<size_t>(spec.heads), rows[r].position});
  }
  std::vector<float*> sums;
  for (int head = 0; head < spec.kv_heads; ++head) sums.push_back(lanes_.Scores(layer, head).data());
  ColumnSums(model_.pool(), resources_.scratch, ShapeOf(layer), lanes_, taps, {sums, {}});
  received_.assign(taps.size(), 0);
  for (int head = 0; head < spec.kv_heads; ++head) {
    const float* of_step = sums[static_cast<size_t>(head)] + lanes_.Length(layer, head);
    for (size_t i = 0; i < received_.size(); ++i) received_[i] += of_step[i];
  }
}

void BlendDriver::Dismiss(int layer, std::span<uint8_t> leaves) {
  attention_.assign(going_.size(), 0);
  for (size_t i = 0; i < going_.size() && !received_.empty(); ++i)
    attention_[i] = received_[static_cast<size_t>(going_positions_[i] - piece_->begin)];
  goes_on_.assign(going_.size(), 0);
  method_.Choose({layer, covered_.size(), going_positions_, in_span_, deviations_, attention_}, goes_on_);
  for (size_t i = 0; i < going_.size(); ++i) {
    if (goes_on_[i] != 0 || going_positions_[i] == prompt_rows_ - 1) continue;  // the last gives the logits
    again_[going_[i]] = 0;
    leaves[step_at_[i]] = 1;
  }
}

// A row that left: the chunk's, with the key where the row stands.
void BlendDriver::FillRow(int layer, size_t covered) {
  const ModelSpec& spec = model_.spec();
  const int heads = spec.kv_heads, dim = spec.head_dim;
  const Covered& from = covered_[covered];
  const int64_t position = positions_[covered];
  const int64_t angle = needs_.reposition ? position : from.span->chunk->prefix_rows() + from.row;
  const RopeTable& rope = resources_.ropes[static_cast<size_t>(spec.layers[static_cast<size_t>(layer)].rope)];
  float k[kMaxHeadDim], v[kMaxHeadDim];
  for (int head = 0; head < heads; ++head) {
    from.span->chunk->Read(layer, head, from.row, k, v);
    Rotate(k, 1, dim, spec.rotary_dim, rope.Cosines(angle), rope.Sines(angle));
    TransformKey(model_.key_transform(), (int64_t{layer} * heads + head) * dim, dim, k);
    StoreKvRow(model_.kv_shape().type(), dim, k, v, lanes_.WritablePage(layer, head, position),
               lanes_.WritableSlot(layer, head, position));
  }
}

// Of all chunks of the piece.
void BlendDriver::WaitForLayer(int layer) {
  for (const ChunkSpan& span : spans_) {
    if (span.begin < piece_->end && span.begin + span.rows > piece_->begin)
      failed_ = failed_ || !span.chunk->WaitForLayer(layer);
  }
}

void BlendDriver::FillLayers(int end) {
  for (; filled_ < end; ++filled_) {
    WaitForLayer(filled_);
    if (failed_) return;
    ForRows(model_.pool(), std::ssize(covered_), [&](int64_t i) {
      if (again_[static_cast<size_t>(i)] == 0) FillRow(filled_, static_cast<size_t>(i));
    });
  }
}

bool BlendDriver::AllCame() {
  if (piece_ != nullptr) WaitForLayer(model_.kv_shape().layers() - 1);
  return !failed_;
}

Status BlendDriver::AfterRows(int64_t end, std::span<const int32_t>) {
  if (piece_ != nullptr) {
    FillLayers(model_.kv_shape().layers());  // those that no row went through
    spared_rows_ += std::ranges::count(again_, 0);
    piece_ = nullptr;
  }
  TakeRows(end);
  DropWindows(end, 0);
  return {};
}

}  // namespace larder
