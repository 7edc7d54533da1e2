// The small operations between matrix products. Each has a vector form and, in ops_reference.cc, a plain form
// that it equals bit for bit. Reductions over a row use 16 partial sums (index mod 16) added in one fixed
// tree, so results do not depend on the vector width.
#pragma once

#include <cstdint>
#include <span>

namespace larder {

// out[i] = x[i] / sqrt(mean(x^2) + eps) * weight[i]; out may be x.
void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out);

// Rotates x [heads, head_dim] in place: element i of each head pairs with i + rotary_dim / 2, by the angle
// whose cosine and sine are given per pair, [rotary_dim / 2] each. Models whose pairs lie side by side get
// their Q and K rows permuted at load instead (Matrix::Pack).
void Rotate(float* x, int heads, int head_dim, int rotary_dim, const float* cosines, const float* sines);

// Of the gated feed forward.
enum class Activation : uint8_t { kSilu, kGeluTanh };

// gate[i] = silu(gate[i]) * up[i]
void SiluMul(float* gate, const float* up, int64_t n);
// gate[i] = gelu_tanh(gate[i]) * up[i]
void GeluMul(float* gate, const float* up, int64_t n);

void AddTo(float* x, const float* y, int64_t n);  // x += y
void Scale(float* x, float factor, int64_t n);    // x *= factor

// Largest value's index, ties to the lower index. n >= 1.
int64_t ArgMax(const float* x, int64_t n);
// log(sum(exp(x))), fixed order.
float LogSumExp(const float* x, int64_t n);

namespace reference {
void RmsNorm(const float* x, const float* weight, float eps, int64_t n, float* out);
void Rotate(float* x, int heads, int head_dim, int rotary_dim, const float* cosines, const float* sines);
void SiluMul(float* gate, const float* up, int64_t n);
void GeluMul(float* gate, const float* up, int64_t n);
float LogSumExp(const float* x, int64_t n);
float Exp(float x);  // the exponential all kernels use: one polynomial, same bits on every target
}  // namespace reference

}  // namespace larder
