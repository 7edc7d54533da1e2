#!/usr/bin/env python3
"""Writes tests/data/formats/*.bin: random blocks of every weight format and what they stand for.

    scripts/goldens/formats.py DIR

A file is: uint32 tensor type, uint32 elements, uint32 bytes of blocks, the blocks, float32 values [elements]; little
endian. Bytes are random, but for f16 and bf16 factors, which are drawn as numbers of the size weights have. Values are
those of the Python package gguf. Needs the packages numpy and gguf.
"""
import pathlib
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

# Where a block holds f16 factors.
FACTORS = {Type.Q4_0: [0], Type.Q4_1: [0, 2], Type.Q5_0: [0], Type.Q5_1: [0, 2], Type.Q8_0: [0], Type.Q2_K: [80, 82],
           Type.Q3_K: [108], Type.Q4_K: [0, 2], Type.Q5_K: [0, 2], Type.Q6_K: [208], Type.IQ4_NL: [0]}


def random_blocks(kind, rng):
    if kind == Type.F32:
        return (rng.standard_normal(64) * 0.05).astype("<f4").view(np.uint8)
    if kind == Type.F16:  # every class of value: ordinary, subnormal, zeros, the largest
        special = np.array([0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00], "<u2")
        return np.concatenate([(rng.standard_normal(64) * 0.05).astype("<f2").view("<u2"), special]).view(np.uint8)
    if kind == Type.BF16:
        return (rng.standard_normal(64).astype("<f4").view("<u4") >> 16).astype("<u2").view(np.uint8)
    elements, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (4 if elements == 256 else 12, size), dtype=np.uint8)
    for offset in FACTORS[kind]:
        numbers = (rng.standard_normal(len(blocks)) * 0.02).astype("<f2")
        numbers[1] = np.float16(3e-7)  # a subnormal factor
        blocks[:, offset : offset + 2] = numbers.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(-1)


def main():
    out = pathlib.Path(sys.argv[1])
    for kind in (Type.F32, Type.F16, Type.BF16, *FACTORS):
        data = random_blocks(kind, np.random.default_rng(int(kind)))
        values = dequantize(data, kind).astype("<f4").reshape(-1)
        head = struct.pack("<III", int(kind), values.size, data.size)
        (out / f"{kind.name.lower()}.bin").write_bytes(head + data.tobytes() + values.tobytes())


if __name__ == "__main__":
    main()
