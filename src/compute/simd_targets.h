// Which instruction sets the kernels are compiled for. Include before any Highway header.
// x86: AVX-512 with and without VNNI, AVX2 (with FMA and F16C), and plain code for everything older. Vectors
// without a fixed size (SVE) would not fit the panels' structs; NEON serves those machines.
#pragma once

#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
