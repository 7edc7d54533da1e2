#include "larder/calibration.h"

#include <algorithm>
#include <vector>

#include "larder/session.h"

namespace larder {
namespace {

// Sums the keys of every layer.
class KeySums final : public ForwardHooks {
 public:
  explicit KeySums(const KvShape& shape)
      : width_(static_cast<size_t>(shape.kv_heads()) * static_cast<size_t>(shape.head_dim())),
        sums_(static_cast<size_t>(shape.layers()) * width_) {}

  void AfterQkv(int layer, std::span<const Row> rows, float*, float* k, float*) override {
    double* sum = sums_.data() + static_cast<size_t>(layer) * width_;
    for (size_t r = 0; r < rows.size(); ++r) {
      for (size_t i = 0; i < width_; ++i) sum[i] += static_cast<double>(k[r * width_ + i]);
    }
    if (layer == 0) rows_ += static_cast<double>(rows.size());
  }
  std::vector<float> Means() const {
    std::vector<float> means;
    for (const double sum : sums_) means.push_back(static_cast<float>(sum / rows_));
    return means;
  }

 private:
  size_t width_;
  std::vector<double> sums_;
  double rows_ = 0;
};

}  // namespace

Result<KeyMeans> MeanKeys(Model& model, std::span<const int32_t> tokens, int64_t window,
                          const std::function<void(double)>& progress) {
  if (tokens.empty()) return Fail(ErrorKind::kInvalid, "the text has no tokens to calibrate on");
  const Tokenizer& tokenizer = model.tokenizer();
  const bool bos = tokenizer.add_bos() && tokenizer.bos() != kNoToken;
  LARDER_ASSIGN(const auto session, Session::Create(model, window + (bos ? 1 : 0), 1));
  KeySums sums(model.kv_shape());
  for (size_t begin = 0; begin < tokens.size(); begin += static_cast<size_t>(window)) {
    progress(static_cast<double>(begin) / static_cast<double>(tokens.size()));
    std::vector<int32_t> text;
    if (bos) text.push_back(tokenizer.bos());
    const auto part = tokens.subspan(begin, std::min(tokens.size() - begin, static_cast<size_t>(window)));
    text.insert(text.end(), part.begin(), part.end());
    LARDER_ASSIGN(auto sequence, session->Open());
    LARDER_TRY(session->Append(*sequence, text, std::ssize(text), nullptr, &sums));
    session->Close(std::move(sequence));
  }
  const KvShape& shape = model.kv_shape();
  return KeyMeans{.weights = model.weights_digest(),
                  .layers = shape.layers(),
                  .kv_heads = shape.kv_heads(),
                  .head_dim = shape.head_dim(),
                  .values = sums.Means()};
}

}  // namespace larder
