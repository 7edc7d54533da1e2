// A quantised file: the formats it gets, what stays, and whether the model still says nearly the same.
#include "larder/quantization.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <map>

#include "compute/ops.h"
#include "tests/model/gguf_writer.h"
#include "tests/testing/model_session.h"

namespace larder {
namespace {

using testing::DataPath;
using testing::ModelSession;

// The result of quantising a file; gone at the end.
class Quantised {
 public:
  Quantised(const std::string& from, const std::string& type, bool pure = false)
      : path(::testing::TempDir() + "larder-" + std::to_string(getpid()) + "-" + type + ".gguf"),
        source(GgufFile::Open(from).value()) {
    ThreadPool pool(2);
    const Status status = QuantizeFile(*source, path, *FindQuantization(type), pure, pool, {});
    EXPECT_TRUE(status.has_value()) << status.error().message;
    file = GgufFile::Open(path).value();
  }
  ~Quantised() { unlink(path.c_str()); }
  const std::string path;
  std::unique_ptr<GgufFile> source, file;
};

TEST(Quantization, MetadataStaysToTheByte) {
  for (const std::string& type : QuantizationNames()) {
    const Quantised q(DataPath("models/tiny-llama.gguf"), type);
    EXPECT_EQ(q.file->IntOr("general.file_type", -1), FindQuantization(type)->file_type);
    for (size_t i = 0; i < q.source->metadata().size(); ++i) {
      const std::string& key = q.source->metadata()[i].first;
      EXPECT_EQ(q.file->metadata()[i].first, key);
      if (key == "general.file_type" || key == "general.quantization_version") continue;
      EXPECT_TRUE(std::ranges::equal(q.file->RawValue(i), q.source->RawValue(i))) << key;
    }
    ASSERT_EQ(q.file->tensors().size(), q.source->tensors().size());
    for (size_t i = 0; i < q.file->tensors().size(); ++i) {
      const GgufTensor &now = q.file->tensors()[i], &before = q.source->tensors()[i];
      EXPECT_EQ(now.name, before.name);
      EXPECT_EQ(now.shape, before.shape);
      EXPECT_TRUE(now.shape.size() > 1 || now.format->type == TensorType::kF32) << now.name;
    }
  }
}

TEST(Quantization, FullPrecisionIsExactAndTheSameFormatIsACopy) {
  const Quantised exact(DataPath("models/tiny-llama-q4_1.gguf"), "f32");
  for (size_t i = 0; i < exact.file->tensors().size(); ++i) {
    const GgufTensor &now = exact.file->tensors()[i], &before = exact.source->tensors()[i];
    std::vector<float> expected(static_cast<size_t>(before.inner() * before.rows()));
    DequantizeRow(before.format->type, before.data, static_cast<int64_t>(expected.size()), expected.data());
    EXPECT_EQ(std::memcmp(now.data, expected.data(), now.bytes), 0) << now.name;
  }
  const Quantised copy(DataPath("models/tiny-llama-q4_1.gguf"), "q4_1", true);
  for (size_t i = 0; i < copy.file->tensors().size(); ++i) {
    const GgufTensor &now = copy.file->tensors()[i], &before = copy.source->tensors()[i];
    if (before.format->type != TensorType::kQ4_1) continue;
    EXPECT_EQ(std::memcmp(now.data, before.data, now.bytes), 0);
  }
}

// A file of 8 layers with rows of `inner` elements.
std::vector<std::byte> EightLayers(uint64_t inner, bool own_head) {
  GgufWriter writer;
  const auto add = [&](const std::string& name, std::vector<uint64_t> shape) {
    uint64_t n = 1;
    for (const uint64_t size : shape) n *= size;
    writer.Tensor(name, std::move(shape), std::vector<float>(n, 0.5f));
  };
  add("token_embd.weight", {inner, 2});
  if (own_head) add("output.weight", {inner, 2});
  add("output_norm.weight", {inner});
  for (int layer = 0; layer < 8; ++layer) {
    for (const char* name : {"attn_q", "attn_v", "ffn_down"})
      add("blk." + std::to_string(layer) + "." + name + ".weight", {inner, 2});
  }
  return writer.Build();
}

std::string NameOf(const std::vector<TensorType>& formats, const GgufFile& file, std::string_view tensor) {
  for (size_t i = 0; i < formats.size(); ++i)
    if (file.tensors()[i].name == tensor)
      return std::string(FindFormat(static_cast<uint32_t>(formats[i]))->name);
  return "";
}

TEST(Quantization, TheMixGivesSensitiveMatricesMore) {
  const auto bytes = EightLayers(256, true);
  const auto file = GgufFile::Parse(bytes).value();
  const auto formats = PlanFormats(*file, *FindQuantization("q4_k_m"), false);
  std::string v, q;
  for (int layer = 0; layer < 8; ++layer) {
    v += NameOf(formats, *file, "blk." + std::to_string(layer) + ".attn_v.weight") == "Q6_K" ? '6' : '4';
    q += NameOf(formats, *file, "blk." + std::to_string(layer) + ".attn_q.weight") == "Q6_K" ? '6' : '4';
  }
  EXPECT_EQ(v, "64464466");  // first and last eighth, every third of the rest
  EXPECT_EQ(q, "44444444");
  EXPECT_EQ(NameOf(formats, *file, "output.weight"), "Q6_K");
  EXPECT_EQ(NameOf(formats, *file, "token_embd.weight"), "Q4_K");
  EXPECT_EQ(NameOf(formats, *file, "output_norm.weight"), "F32");
}

TEST(Quantization, RowsThatDoNotFitTakeAFinerFormat) {
  const auto of = [](uint64_t inner, bool own_head, const char* type, bool pure, const char* tensor) {
    const auto bytes = EightLayers(inner, own_head);
    const auto file = GgufFile::Parse(bytes).value();
    return NameOf(PlanFormats(*file, *FindQuantization(type), pure), *file, tensor);
  };
  EXPECT_EQ(of(64, true, "q4_k_m", false, "blk.1.attn_q.weight"), "Q5_0");
  EXPECT_EQ(of(64, true, "q4_k_m", false, "blk.0.attn_v.weight"), "Q8_0");
  EXPECT_EQ(of(40, true, "q4_0", false, "blk.1.attn_q.weight"), "F16");
  EXPECT_EQ(of(64, false, "q4_0", false, "token_embd.weight"), "Q8_0") << "a tied head";
  EXPECT_EQ(of(64, false, "q4_0", true, "token_embd.weight"), "Q4_0") << "pure";
  EXPECT_EQ(of(256, false, "q8_0", false, "token_embd.weight"), "Q8_0");
}

std::vector<std::vector<float>> LogitsOf(const std::string& path) {
  const auto model = testing::LoadModel(path, MathMode::kF32, KvType::kF32, 1);
  ModelSession session(model.get());
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 24; ++i) tokens.push_back((i * 37 + 11) % 300);
  auto run = session.Open(tokens);
  session.Finish(run);
  auto logits = run.logits;
  session.Close(run);
  return logits;
}

// Mean KL divergence of the second from the first, over all rows.
double Divergence(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  double sum = 0;
  for (size_t row = 0; row < a.size(); ++row) {
    const auto n = static_cast<int64_t>(a[row].size());
    const double za = LogSumExp(a[row].data(), n), zb = LogSumExp(b[row].data(), n);
    for (size_t i = 0; i < a[row].size(); ++i)
      sum += std::exp(a[row][i] - za) * ((a[row][i] - za) - (b[row][i] - zb));
  }
  return sum / static_cast<double>(a.size());
}

TEST(Quantization, LogitsStayCloseInTheOrderOfTheFormats) {
  const std::string original = DataPath("models/tiny-llama.gguf");
  const auto expected = LogitsOf(original);
  std::map<std::string, double> kl;
  for (const std::string& type : QuantizationNames())
    kl[type] = Divergence(expected, LogitsOf(Quantised(original, type).path));
  EXPECT_LT(kl["f32"], 1e-5);
  EXPECT_LT(kl["f16"], 1e-5);
  EXPECT_LT(kl["q8_0"], 0.005);
  EXPECT_LT(kl["q4_1"], 0.5);
  EXPECT_LT(kl["q4_0"], 0.5);
  EXPECT_LT(kl["q8_0"], kl["q4_k_m"]);
  EXPECT_LT(kl["q4_k_m"], kl["q4_0"]);
  EXPECT_GT(kl["q4_0"], 1e-4) << "nothing was quantised";
}

// An independent reader sees the same numbers.
TEST(Quantization, TheGgufPackageReadsWhatWasWritten) {
  const char* python = std::getenv("LARDER_PYTHON");
  if (python == nullptr) GTEST_SKIP() << "LARDER_PYTHON is not set; scripts/test sets it";
  for (const std::string& type : QuantizationNames()) {
    const Quantised q(DataPath("models/tiny-llama.gguf"), type);
    const std::string exact = q.path + ".f32";
    ThreadPool pool(1);
    ASSERT_TRUE(QuantizeFile(*q.file, exact, *FindQuantization("f32"), false, pool, {}));
    const std::string script =
        "import sys, gguf, numpy as n; a, b = (gguf.GGUFReader(p) for p in sys.argv[1:]); "
        "e = {t.name: t for t in b.tensors}; "
        "assert len(e) == len(a.tensors) > 0; "
        "[n.testing.assert_allclose(gguf.dequantize(t.data, t.tensor_type), gguf.dequantize(e[t.name].data, "
        "e[t.name].tensor_type), rtol=1e-6, atol=1e-9) for t in a.tensors]";
    const std::string command = std::string(python) + " -c '" + script + "' " + q.path + " " + exact;
    EXPECT_EQ(std::system(command.c_str()), 0) << type;
    unlink(exact.c_str());
  }
}

}  // namespace
}  // namespace larder
