// Do rows that enter at a layer, with the state that was stored there, compute the bits of a whole pass? In
// one batch with rows that enter at the first layer and read what they write, and with rows that leave on the
// way.
#include <gtest/gtest.h>

#include <string>

#include "kv/lanes.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::LoadModel;
using testing::ModelSession;

constexpr int64_t kRows = 200, kBegin = 70, kEnd = 150;  // of a text, and of the span whose states are stored
constexpr int64_t kOther = 90, kOtherLeave = 80;         // of a neighbour, whose last rows leave on the way

std::vector<int32_t> SomeTokens(int64_t n, int32_t seed) {
  std::vector<int32_t> out;
  for (int64_t i = 0; i < n; ++i) out.push_back(static_cast<int32_t>((i * 37 + seed * 101 + 11) % 250));
  return out;
}

// A text with room for its rows, in a sequence of the cache or in private lanes. Nothing is published, so
// that all rows stay as they were written.
class Text {
 public:
  Text(Model& model, bool lanes, int64_t rows, int32_t seed)
      : model_(model), session_(&model), tokens_(SomeTokens(rows, seed)) {
    if (lanes) {
      pages_ = session_.cache().MakePageSource();
      lanes_ = std::make_unique<LaneTable>(&model.kv_shape(), pages_.get(), PositionMode::kKeep,
                                           LaneTable::RopeTables{});
      EXPECT_TRUE(lanes_->Reserve(rows, 0));
    } else {
      sequence_ = session_.Open(tokens_, /*read_cache=*/false).kv;
      EXPECT_TRUE(session_.cache().Reserve(*sequence_, rows));
    }
  }
  RowStore* store() { return lanes_ != nullptr ? static_cast<RowStore*>(lanes_.get()) : sequence_.get(); }
  void Add(int64_t begin, int64_t end, std::vector<Row>& rows, bool wants_hidden = true) {
    for (int64_t at = begin; at < end; ++at) {
      Row row;
      row.token = tokens_[static_cast<size_t>(at)];
      row.position = static_cast<int32_t>(at);
      row.kv = store();
      row.wants_hidden = wants_hidden;
      rows.push_back(row);
    }
  }
  // Keys and values of a row, of all heads.
  std::vector<float> Stored(int layer, int64_t row) {
    const KvShape& shape = model_.kv_shape();
    const auto dim = static_cast<size_t>(shape.head_dim());
    std::vector<float> out(2 * dim * static_cast<size_t>(shape.kv_heads()));
    for (int head = 0; head < shape.kv_heads(); ++head) {
      float* k = out.data() + 2 * dim * static_cast<size_t>(head);
      LoadKvRow(shape.type(), shape.head_dim(), store()->WritablePage(layer, head, row),
                store()->WritableSlot(layer, head, row), k, k + dim);
    }
    return out;
  }
  void CopyRow(Text& from, int layer, int64_t row) {
    const KvShape& shape = model_.kv_shape();
    for (int head = 0; head < shape.kv_heads(); ++head) {
      CopyKvRows(shape.type(), shape.head_dim(), from.store()->WritablePage(layer, head, row),
                 from.store()->WritableSlot(layer, head, row), store()->WritablePage(layer, head, row),
                 store()->WritableSlot(layer, head, row), 1);
    }
  }

 private:
  Model& model_;
  ModelSession session_;
  std::vector<int32_t> tokens_;
  std::unique_ptr<PageSource> pages_;
  std::unique_ptr<LaneTable> lanes_;
  std::unique_ptr<KvSequence> sequence_;
};

using States = std::vector<std::vector<float>>;  // of the rows that want them

States Forward(Model& model, const std::vector<Row>& rows, ForwardHooks* hooks = nullptr) {
  const auto width = static_cast<size_t>(model.spec().width);
  const auto wanted = static_cast<size_t>(std::ranges::count(rows, true, &Row::wants_hidden));
  std::vector<float> hidden(wanted * width);
  model.Forward(rows, hidden.data(), hooks);
  States out;
  for (size_t i = 0; i < wanted; ++i)
    out.emplace_back(hidden.begin() + static_cast<ptrdiff_t>(i * width),
                     hidden.begin() + static_cast<ptrdiff_t>((i + 1) * width));
  return out;
}

// The state of every row before every layer.
struct Capture final : ForwardHooks {
  explicit Capture(int state_width) : width(state_width) {}
  void BeforeLayer(int, std::span<const Row> rows, float* x) override {
    layers.emplace_back();
    for (size_t i = 0; i < rows.size(); ++i) layers.back().emplace_back(x + i * width, x + (i + 1) * width);
  }
  const size_t width;
  std::vector<States> layers;
};

// Every second row of the span leaves when its keys and values of a layer are stored; those of later layers
// come from the whole pass. None of them is the last of a page, which makes codes of the page in every layer.
struct LeaveOnTheWay final : ForwardHooks {
  LeaveOnTheWay(Text& t, Text& w, int layer) : text(t), whole(w), at(layer) {}
  static bool Leaves(int64_t row) { return row >= kBegin && row < kEnd && row % 2 == 0; }
  void BeforeLayer(int layer, std::span<const Row>, float*) override {
    if (layer <= at) return;
    for (int64_t row = kBegin; row < kEnd; ++row)
      if (Leaves(row)) text.CopyRow(whole, layer, row);
  }
  bool MayDismiss(int layer) const override { return layer == at; }
  void Dismiss(int, std::span<const Row> rows, std::span<uint8_t> leaves) override {
    for (size_t i = 0; i < rows.size(); ++i)
      leaves[i] = rows[i].kv == text.store() && Leaves(rows[i].position) ? 1 : 0;
  }
  Text &text, &whole;
  const int at;
};

struct Case {
  const char* model;
  KvType type;
  const char* codec;
  bool lanes;
};

class EnteringRows : public ::testing::TestWithParam<Case> {};

TEST_P(EnteringRows, ComputeTheBitsOfAWholePass) {
  const Case& c = GetParam();
  const auto model =
      LoadModel(DataPath(std::string("models/") + c.model), MathMode::kFast, c.type, 2, c.codec);
  const int layers = static_cast<int>(model->spec().layers.size());
  Text whole(*model, c.lanes, kRows, 1), other_whole(*model, c.lanes, kOther, 2);
  Capture states(static_cast<size_t>(model->spec().width));
  std::vector<Row> rows;
  whole.Add(0, kRows, rows);
  const States expected = Forward(*model, rows, &states);
  rows.clear();
  other_whole.Add(0, kOther, rows);
  const States other_expected = Forward(*model, rows);

  for (const int enter : {1, layers / 2, layers - 1}) {
    for (const bool leave : {false, true}) {
      const std::string what = fmt::format("from layer {}{}", enter, leave ? ", some leave" : "");
      Text text(*model, c.lanes, kRows, 1), other(*model, c.lanes, kOther, 2);
      rows.clear();
      text.Add(0, kBegin, rows, false);
      Forward(*model, rows);
      // What of the span lies below that layer, as if it had been read from somewhere.
      rows.clear();
      text.Add(kBegin, kEnd, rows, false);
      for (Row& row : rows) row.leave_layer = static_cast<int16_t>(enter - 1);
      Forward(*model, rows);

      rows.clear();
      other.Add(0, kOther, rows);
      for (int64_t row = kOtherLeave; row < kOther; ++row) {
        rows[static_cast<size_t>(row)].leave_layer = static_cast<int16_t>(enter - 1);
        rows[static_cast<size_t>(row)].wants_hidden = false;
      }
      text.Add(kBegin, kRows, rows);
      for (Row& row : rows) {
        if (row.kv != text.store() || row.position >= kEnd) continue;
        row.token = -1;
        row.input = states.layers[static_cast<size_t>(enter)][static_cast<size_t>(row.position)].data();
        row.enter_layer = static_cast<int16_t>(enter);
        row.wants_hidden = !leave || !LeaveOnTheWay::Leaves(row.position);
      }
      LeaveOnTheWay hooks(text, whole, enter);
      const States got = Forward(*model, rows, leave ? &hooks : nullptr);

      size_t next = 0;
      for (const Row& row : rows) {
        if (!row.wants_hidden) continue;
        const States& of = row.kv == text.store() ? expected : other_expected;
        ASSERT_EQ(got[next++], of[static_cast<size_t>(row.position)]) << what << ", row " << row.position;
      }
      for (int layer = 0; layer < layers; ++layer) {
        for (int64_t row = 0; row < kRows; ++row)
          ASSERT_EQ(text.Stored(layer, row), whole.Stored(layer, row))
              << what << ", layer " << layer << " row " << row;
        for (int64_t row = 0; row < (layer < enter ? kOther : kOtherLeave); ++row)
          ASSERT_EQ(other.Stored(layer, row), other_whole.Stored(layer, row)) << what << ", layer " << layer;
      }
    }
  }
}

std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const bool lanes : {false, true}) {
    for (const char* model : {"tiny-llama.gguf", "tiny-gemma3.gguf", "tiny-qwen3.gguf"}) {
      cases.push_back({model, KvType::kF32, "", lanes});
      cases.push_back({model, KvType::kI16, "", lanes});
    }
    for (const char* codec : {"q8_0", "t4:center=0"})
      cases.push_back({"tiny-llama.gguf", KvType::kI16, codec, lanes});
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(, EnteringRows, ::testing::ValuesIn(Cases()));

}  // namespace
}  // namespace larder
