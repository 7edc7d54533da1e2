// Every kernel equals the plain reference to the last bit: all formats, shapes, rows, threads and instruction
// sets.
#include "compute/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/hash.h"
#include "compute/matmul_amx.h"
#include "compute/ops.h"
#include "compute/packed.h"
#include "simd_targets_for_test.h"

namespace larder {
namespace {

// Random bytes that are valid in every format: no half or float among them is an infinity or NaN.
std::vector<uint8_t> RandomWeights(const FormatInfo& format, int64_t outputs, int64_t inputs,
                                   std::mt19937& random) {
  const uint64_t row_bytes = RowBytes(format, static_cast<uint64_t>(inputs)).value();
  std::vector<uint8_t> bytes(static_cast<size_t>(outputs) * row_bytes);
  if (format.type == TensorType::kF32) {
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < bytes.size(); i += 4) {
      const float value = normal(random);
      std::memcpy(&bytes[i], &value, 4);
    }
    return bytes;
  }
  for (uint8_t& b : bytes)
    b = static_cast<uint8_t>(random() & 0xBB);  // an exponent bit of every half stays 0
  return bytes;
}

std::vector<float> RandomActivations(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(static_cast<size_t>(count));
  for (float& value : x) value = normal(random);
  return x;
}

struct Problem {
  TensorType type;
  MathMode mode;
  int64_t outputs, inputs;
  int rows;
  bool bias, permute;
};

class MatMulCase {
 public:
  MatMulCase(const Problem& problem, uint32_t seed) : problem_(problem), random_(seed) {
    const FormatInfo* format = FindFormat(static_cast<uint32_t>(problem.type));
    bytes_ = RandomWeights(*format, problem.outputs, problem.inputs, random_);
    x_ = RandomActivations(problem.rows * ldx(), random_);
    for (float& value : x_) {
      if (random_() % 50 == 0) value *= 30;
    }
    if (problem.bias) bias_ = RandomActivations(problem.outputs, random_);
    if (problem.permute) {
      for (int32_t i = 0; i < problem.outputs; ++i) permutation_.push_back(i);
      std::shuffle(permutation_.begin(), permutation_.end(), random_);
    }
    expected_.assign(static_cast<size_t>(problem.rows * ldy()), 0.5f);
    MatMulReference(x_.data(), ldx(), problem.rows, source(), problem.mode, permutation_, bias(),
                    expected_.data(), ldy());
  }

  MatrixSource source() const { return {problem_.type, bytes_.data(), problem_.outputs, problem_.inputs}; }
  int64_t ldx() const { return problem_.inputs + 3; }
  int64_t ldy() const { return problem_.outputs + 5; }
  const float* bias() const { return problem_.bias ? bias_.data() : nullptr; }

  void ExpectEqual(ThreadPool& pool, bool amx = true) {
    Result<Matrix> matrix = Matrix::Pack(source(), problem_.mode, pool, permutation_);
    ASSERT_TRUE(matrix.has_value()) << matrix.error().message;
    MatMulScratch scratch(amx);
    std::vector<float> y(expected_.size(), 0.5f);
    const MatMulTarget target{&*matrix, y.data(), ldy(), bias()};
    MatMul(pool, scratch, x_.data(), ldx(), problem_.rows, {&target, 1});
    ASSERT_EQ(std::memcmp(y.data(), expected_.data(), y.size() * sizeof(float)), 0)
        << "rows " << problem_.rows << " outputs " << problem_.outputs << " inputs " << problem_.inputs;
    // Rows on their own.
    std::vector<float> alone(expected_.size(), 0.5f);
    for (int row = 0; row < problem_.rows; ++row) {
      const MatMulTarget one{&*matrix, alone.data() + row * ldy(), ldy(), bias()};
      MatMul(pool, scratch, x_.data() + row * ldx(), ldx(), 1, {&one, 1});
    }
    ASSERT_EQ(std::memcmp(alone.data(), expected_.data(), y.size() * sizeof(float)), 0);
  }

 private:
  Problem problem_;
  std::mt19937 random_;
  std::vector<uint8_t> bytes_;
  std::vector<float> x_, bias_, expected_;
  std::vector<int32_t> permutation_;
};

TEST(MatMul, EqualsReferenceInEveryFormatOnEveryTarget) {
  for (const FormatInfo& format : AllFormats()) {
    SCOPED_TRACE(format.name);
    for (MathMode mode : {MathMode::kFast, MathMode::kF32}) {
      const int64_t inputs = format.block_elements <= 32 ? 96 : format.block_elements;
      MatMulCase fixed({format.type, mode, 37, inputs, 11, true, true}, 7);
      ForEachSimdTarget([&] {
        ThreadPool pool(2);
        fixed.ExpectEqual(pool);
      });
    }
  }
}

// On the tile unit, if this machine has one, and on the same rows without it: one full tile, and some with
// rows behind them.
TEST(MatMul, EqualsReferenceInEveryFormatWithAndWithoutAmx) {
  for (const FormatInfo& format : AllFormats()) {
    SCOPED_TRACE(format.name);
    const int64_t inputs = format.block_elements <= 32 ? 96 : format.block_elements;
    for (const int rows : {kAmxRows, kAmxRows + 5, 3 * kAmxRows - 1}) {
      MatMulCase fixed({format.type, MathMode::kFast, 37, inputs, rows, rows != kAmxRows, false}, 17);
      for (const bool amx : {true, false}) {
        SCOPED_TRACE(amx);
        ThreadPool pool(2);
        fixed.ExpectEqual(pool, amx);
      }
    }
  }
}

TEST(MatMul, EqualsReferenceForRandomShapesRowsAndThreads) {
  std::mt19937 random(1);
  const TensorType types[] = {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ8_0, TensorType::kF32,
                              TensorType::kF16};
  for (int trial = 0; trial < 30; ++trial) {
    Problem problem{types[trial % 5],
                    MathMode::kFast,
                    1 + static_cast<int64_t>(random() % 150),
                    32 * (1 + static_cast<int64_t>(random() % 12)),
                    1 + static_cast<int>(random() % 40),
                    random() % 2 == 0,
                    random() % 2 == 0};
    const bool floats =
        problem.type == TensorType::kF32 || (problem.type == TensorType::kF16 && trial % 2 == 0);
    if (floats) problem.inputs -= static_cast<int64_t>(random() % 31);
    MatMulCase fixed(problem, static_cast<uint32_t>(random()));
    ForEachSimdTarget([&] {
      ThreadPool pool(1 + trial % 4);
      fixed.ExpectEqual(pool);
    });
  }
}

TEST(MatMul, ManyRowsAndOutputsCrossEveryBlockBoundary) {
  for (const TensorType type : {TensorType::kQ4_1, TensorType::kQ8_0, TensorType::kBF16}) {
    MatMulCase fixed({type, MathMode::kFast, 400, 1056, 150, false, false}, 3);
    ThreadPool pool(4);
    for (const bool amx : {true, false}) fixed.ExpectEqual(pool, amx);
  }
}

TEST(MatMul, SeveralTargetsShareOneCall) {
  std::mt19937 random(5);
  const int64_t inputs = 256;
  const int rows = 9;
  ThreadPool pool(3);
  const auto x = RandomActivations(rows * inputs, random);
  const TensorType types[] = {TensorType::kQ4_1, TensorType::kF32, TensorType::kQ8_0, TensorType::kQ6_K,
                              TensorType::kF16};
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<Matrix> matrices;
  std::vector<std::vector<float>> results, expected;
  for (int i = 0; i < 5; ++i) {
    const int64_t outputs = 20 + 33 * i;
    const FormatInfo* format = FindFormat(static_cast<uint32_t>(types[i]));
    bytes.push_back(RandomWeights(*format, outputs, inputs, random));
    const MatrixSource source{types[i], bytes.back().data(), outputs, inputs};
    matrices.push_back(Matrix::Pack(source, MathMode::kFast, pool).value());
    results.emplace_back(static_cast<size_t>(rows * outputs));
    expected.emplace_back(static_cast<size_t>(rows * outputs));
    MatMulReference(x.data(), inputs, rows, source, MathMode::kFast, {}, nullptr, expected.back().data(),
                    outputs);
  }
  std::vector<MatMulTarget> targets;
  for (size_t i = 0; i < 5; ++i) targets.push_back({&matrices[i], results[i].data(), matrices[i].outputs()});
  MatMulScratch scratch;
  MatMul(pool, scratch, x.data(), inputs, rows, targets);
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(std::memcmp(results[i].data(), expected[i].data(), expected[i].size() * sizeof(float)), 0) << i;
  }
}

// A feed forward of random weights: the fused product, and its steps one after the other.
void ExpectGatedEqualsItsSteps(std::span<const TensorType, 3> types, int64_t width, int64_t inner, int rows,
                               MathMode mode, Activation activation, uint32_t seed) {
  std::mt19937 random(seed);
  const auto x = RandomActivations(rows * width, random);
  const auto make = [&](int64_t row, float* to) {
    std::copy_n(x.data() + row * width, static_cast<size_t>(width), to);
  };
  const int64_t shapes[3][2] = {{inner, width}, {inner, width}, {width, inner}};
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<MatrixSource> sources;
  for (size_t i = 0; i < 3; ++i) {
    const FormatInfo* format = FindFormat(static_cast<uint32_t>(types[i]));
    bytes.push_back(RandomWeights(*format, shapes[i][0], shapes[i][1], random));
    sources.push_back({types[i], bytes.back().data(), shapes[i][0], shapes[i][1]});
  }
  std::vector<float> gate(static_cast<size_t>(rows * inner)), up(gate.size()), expected(x.size());
  MatMulReference(x.data(), width, rows, sources[0], mode, {}, nullptr, gate.data(), inner);
  MatMulReference(x.data(), width, rows, sources[1], mode, {}, nullptr, up.data(), inner);
  const auto apply = activation == Activation::kSilu ? reference::SiluMul : reference::GeluMul;
  apply(gate.data(), up.data(), rows * inner);
  MatMulReference(gate.data(), inner, rows, sources[2], mode, {}, nullptr, expected.data(), width);
  ForEachSimdTarget([&] {
    for (const bool amx : {true, false}) {
      ThreadPool pool(2);
      std::vector<Matrix> matrices;
      for (const MatrixSource& source : sources) matrices.push_back(Matrix::Pack(source, mode, pool).value());
      MatMulScratch scratch(amx), between(amx);
      std::vector<float> y(expected.size(), 0.5f);
      GatedMatMul(pool, scratch, between, RowMaker(make), rows,
                  {&matrices[0], &matrices[1], &matrices[2], activation}, y.data(), width);
      ASSERT_EQ(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)), 0)
          << "rows " << rows << " width " << width << " inner " << inner;
    }
  });
}

TEST(MatMul, GatedEqualsItsStepsForRandomShapes) {
  std::mt19937 random(23);
  const TensorType types[] = {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ8_0,
                              TensorType::kQ6_K, TensorType::kF32,  TensorType::kF16};
  for (int trial = 0; trial < 30; ++trial) {
    TensorType chosen[3];
    for (TensorType& type : chosen) type = types[random() % std::size(types)];
    ExpectGatedEqualsItsSteps(
        chosen, 256 * (1 + static_cast<int64_t>(random() % 2)),
        256 * (1 + static_cast<int64_t>(random() % 2)), 1 + static_cast<int>(random() % 60), MathMode::kFast,
        random() % 2 == 0 ? Activation::kSilu : Activation::kGeluTanh, static_cast<uint32_t>(random()));
  }
}

// Many rows, which are cut into blocks; and an inner size that is no multiple of a group or a panel.
TEST(MatMul, GatedEqualsItsStepsAtTheEdges) {
  const TensorType quantised[] = {TensorType::kQ4_1, TensorType::kQ4_1, TensorType::kQ4_1};
  ExpectGatedEqualsItsSteps(quantised, 544, 96, 500, MathMode::kFast, Activation::kSilu, 29);
  const TensorType floats[] = {TensorType::kF32, TensorType::kF32, TensorType::kF32};
  ExpectGatedEqualsItsSteps(floats, 40, 77, 19, MathMode::kF32, Activation::kSilu, 31);
  const TensorType mixed[] = {TensorType::kF32, TensorType::kQ8_0, TensorType::kF32};
  ExpectGatedEqualsItsSteps(mixed, 64, 71, 40, MathMode::kFast, Activation::kGeluTanh, 37);
  const TensorType halves[] = {TensorType::kF16, TensorType::kQ8_0, TensorType::kF16};
  ExpectGatedEqualsItsSteps(halves, 64, 71, 40, MathMode::kFast, Activation::kSilu, 41);  // down: floats
  ExpectGatedEqualsItsSteps(halves, 544, 96, 500, MathMode::kFast, Activation::kSilu, 43);
}

// Integer sums at their extremes: all codes and activations as large as they can be, for every number of rows
// that takes another kernel.
void ExpectExactSums(TensorType type, uint8_t code_bytes, float code, float activation, int rows) {
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(type));
  const int64_t outputs = 16, inputs = 64;
  std::vector<uint8_t> bytes(outputs * RowBytes(*format, inputs).value(), code_bytes);
  for (size_t block = 0; block < bytes.size(); block += static_cast<size_t>(format->block_bytes)) {
    bytes[block] = 0;
    bytes[block + 1] = 0x3C;  // scale 1
  }
  const size_t results = static_cast<size_t>(rows * outputs);
  const std::vector<float> x(static_cast<size_t>(rows * inputs), activation);
  ForEachSimdTarget([&] {
    for (const bool amx : {true, false}) {
      ThreadPool pool(1);
      const Matrix matrix =
          Matrix::Pack({type, bytes.data(), outputs, inputs}, MathMode::kFast, pool).value();
      MatMulScratch scratch(amx);
      std::vector<float> y(results);
      const MatMulTarget target{&matrix, y.data(), outputs};
      MatMul(pool, scratch, x.data(), inputs, rows, {&target, 1});
      EXPECT_EQ(y, std::vector<float>(results, code * activation * 64)) << "rows " << rows;
    }
  });
}

TEST(MatMul, LargestCodesDoNotOverflow) {
  for (const float activation : {127.0f, -127.0f}) {
    for (const int rows : {1, 5, 16}) {
      ExpectExactSums(TensorType::kQ8_0, 0x80, -128, activation, rows);
      ExpectExactSums(TensorType::kQ8_0, 0x7F, 127, activation, rows);
      ExpectExactSums(TensorType::kQ4_0, 0xFF, 7, activation, rows);  // 15, and a minimum of -8
      ExpectExactSums(TensorType::kQ4_0, 0x00, -8, activation, rows);
    }
  }
}

// Of two bytes: weights of 16376 (the largest half below 2) and activations whose magnitudes sum to 131040.
TEST(MatMul, LargestWordsDoNotOverflow) {
  constexpr int64_t kOutputs = 16, kInputs = 64;
  for (const uint16_t weight : {uint16_t{0x3FFF}, uint16_t{0xBFFF}}) {  // +-(2 - 2^-10)
    const std::vector<uint16_t> halves(kOutputs * kInputs, weight);
    const double exact = (weight == 0x3FFF ? 1 : -1) * (2 - 0x1p-10) * 8191 * kInputs;
    for (const int rows : {1, 5, 16}) {
      const std::vector<float> x(static_cast<size_t>(rows * kInputs), 8191.0f);
      ForEachSimdTarget([&] {
        ThreadPool pool(1);
        const Matrix matrix =
            Matrix::Pack({TensorType::kF16, halves.data(), kOutputs, kInputs}, MathMode::kFast, pool).value();
        MatMulScratch scratch;
        std::vector<float> y(static_cast<size_t>(rows * kOutputs));
        const MatMulTarget target{&matrix, y.data(), kOutputs};
        MatMul(pool, scratch, x.data(), kInputs, rows, {&target, 1});
        for (const float value : y) ASSERT_NEAR(value, exact, 1e-6 * std::abs(exact));
      });
    }
  }
}

class StrangeActivations : public testing::TestWithParam<TensorType> {};
INSTANTIATE_TEST_SUITE_P(Codes, StrangeActivations, testing::Values(TensorType::kQ8_0, TensorType::kF16));

TEST_P(StrangeActivations, StayInTheirRow) {
  std::mt19937 random(9);
  const int64_t outputs = 32, inputs = 64;
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(GetParam()));
  const auto bytes = RandomWeights(*format, outputs, inputs, random);
  const MatrixSource source{GetParam(), bytes.data(), outputs, inputs};
  auto x = RandomActivations(5 * inputs, random);
  for (int64_t k = 0; k < inputs; ++k) x[static_cast<size_t>(0 * inputs + k)] = 0.0f;
  x[static_cast<size_t>(1 * inputs + 7)] = INFINITY;
  x[static_cast<size_t>(2 * inputs + 7)] = NAN;
  for (int64_t k = 0; k < inputs; ++k) x[static_cast<size_t>(3 * inputs + k)] = 1e-40f;
  std::vector<float> clean(outputs);
  MatMulReference(x.data() + 4 * inputs, inputs, 1, source, MathMode::kFast, {}, nullptr, clean.data(),
                  outputs);
  ForEachSimdTarget([&] {
    ThreadPool pool(1);
    const Matrix matrix = Matrix::Pack(source, MathMode::kFast, pool).value();
    MatMulScratch scratch;
    std::vector<float> y(5 * outputs);
    const MatMulTarget target{&matrix, y.data(), outputs};
    MatMul(pool, scratch, x.data(), inputs, 5, {&target, 1});
    for (int64_t o = 0; o < outputs; ++o) {
      EXPECT_EQ(y[static_cast<size_t>(o)], 0.0f);
      EXPECT_FALSE(std::isfinite(y[static_cast<size_t>(outputs + o)]));
      EXPECT_TRUE(std::isnan(y[static_cast<size_t>(2 * outputs + o)]));
      EXPECT_EQ(y[static_cast<size_t>(3 * outputs + o)], 0.0f);
      EXPECT_EQ(y[static_cast<size_t>(4 * outputs + o)], clean[static_cast<size_t>(o)]);
    }
  });
}

// Norm of what fast mode makes of random weights, minus the exact product, over the norm of that.
double ErrorOfFastMode(TensorType type) {
  std::mt19937 random(11);
  const int64_t outputs = 64, inputs = 576;
  const FormatInfo* format = FindFormat(static_cast<uint32_t>(type));
  const auto bytes = RandomWeights(*format, outputs, inputs, random);
  const auto x = RandomActivations(inputs, random);
  const MatrixSource source{type, bytes.data(), outputs, inputs};
  std::vector<float> fast(outputs), exact(outputs);
  MatMulReference(x.data(), inputs, 1, source, MathMode::kFast, {}, nullptr, fast.data(), outputs);
  MatMulReference(x.data(), inputs, 1, source, MathMode::kF32, {}, nullptr, exact.data(), outputs);
  double error = 0, norm = 0;
  for (size_t i = 0; i < fast.size(); ++i) {
    error += std::pow(fast[i] - exact[i], 2);
    norm += std::pow(exact[i], 2);
  }
  return std::sqrt(error / norm);
}

TEST(MatMul, CodesOfActivationsAreCloseToExact) {
  EXPECT_LT(ErrorOfFastMode(TensorType::kQ8_0), 0.02);
  EXPECT_GT(ErrorOfFastMode(TensorType::kQ8_0), 0);
  // Closer than activations rounded to halves (about 2e-4).
  EXPECT_LT(ErrorOfFastMode(TensorType::kF16), 1e-4);
  EXPECT_LT(ErrorOfFastMode(TensorType::kBF16), 1e-4);
}

TEST(MatrixPack, KeepsTheFilesBitsPerWeight) {
  ThreadPool pool(1);
  std::mt19937 random(13);
  for (TensorType type : {TensorType::kQ4_0, TensorType::kQ4_1, TensorType::kQ8_0}) {
    const FormatInfo* format = FindFormat(static_cast<uint32_t>(type));
    const auto bytes = RandomWeights(*format, 64, 64, random);
    const Matrix matrix = Matrix::Pack({type, bytes.data(), 64, 64}, MathMode::kFast, pool).value();
    EXPECT_TRUE(matrix.half_scales());
    EXPECT_LE(matrix.bytes(), 64u * 64 * (type == TensorType::kQ8_0 ? 8.5 : 5.0) / 8);
  }
}

TEST(MatrixPack, AViewOfThePackedBytesIsTheSameMatrix) {
  ThreadPool pool(1);
  std::mt19937 random(17);
  for (const FormatInfo& format : AllFormats()) {
    SCOPED_TRACE(format.name);
    const auto bytes = RandomWeights(format, 37, 256, random);
    const Matrix matrix = Matrix::Pack({format.type, bytes.data(), 37, 256}, MathMode::kFast, pool).value();
    const auto view =
        Matrix::View(format.type, 37, 256, MathMode::kFast, matrix.half_scales(), matrix.packed());
    ASSERT_TRUE(view.has_value());
    const auto x = RandomActivations(3 * 256, random);
    std::vector<float> expected(3 * 37), y(3 * 37);
    MatMulScratch scratch;
    const MatMulTarget packed{&matrix, expected.data(), 37}, viewed{&*view, y.data(), 37};
    MatMul(pool, scratch, x.data(), 256, 3, {&packed, 1});
    MatMul(pool, scratch, x.data(), 256, 3, {&viewed, 1});
    EXPECT_EQ(y, expected);
    for (const auto other :
         {matrix.packed().first(matrix.packed().size() - 64), matrix.packed().subspan(1)}) {
      const auto bad = Matrix::View(format.type, 37, 256, MathMode::kFast, matrix.half_scales(), other);
      ASSERT_FALSE(bad.has_value());
      EXPECT_EQ(bad.error().kind, ErrorKind::kCorrupt);
    }
  }
}

// Packed weights are kept in files. A change of these bytes needs another kPackedLayout, and then another
// number here.
TEST(MatrixPack, TheLayoutIsTheOneThatItsNumberNames) {
  ThreadPool pool(1);
  std::vector<uint64_t> checksums;
  for (const FormatInfo& format : AllFormats()) {
    std::mt19937 random(19);
    const auto bytes = RandomWeights(format, 37, 256, random);
    if (format.type == TensorType::kF32) continue;  // its numbers are the standard library's
    const Matrix matrix = Matrix::Pack({format.type, bytes.data(), 37, 256}, MathMode::kFast, pool).value();
    checksums.push_back(Checksum64(matrix.packed()));
  }
  EXPECT_EQ(kPackedLayout, 2u);
  EXPECT_EQ(Checksum64(std::as_bytes(std::span(checksums))), 0x557ac352167688eu);
}

TEST(MatrixPack, RefusesWhatDoesNotFit) {
  ThreadPool pool(1);
  const std::vector<uint8_t> bytes(4096);
  const auto kind = [&](MatrixSource source, std::vector<int32_t> permutation = {}) {
    const auto result = Matrix::Pack(source, MathMode::kFast, pool, permutation);
    EXPECT_FALSE(result.has_value());
    return result.has_value() ? ErrorKind::kIo : result.error().kind;
  };
  EXPECT_EQ(kind({static_cast<TensorType>(99), bytes.data(), 2, 32}), ErrorKind::kUnsupported);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), 0, 32}), ErrorKind::kInvalid);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), int64_t{1} << 60, 32}), ErrorKind::kInvalid);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), 2, 33}), ErrorKind::kInvalid);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), 2, 32}, {0}), ErrorKind::kInvalid);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), 2, 32}, {0, 2}), ErrorKind::kInvalid);
  EXPECT_EQ(kind({TensorType::kQ8_0, bytes.data(), 2, 32}, {-1, 0}), ErrorKind::kInvalid);
}

}  // namespace
}  // namespace larder
