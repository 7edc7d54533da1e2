#!/usr/bin/env python3
"""Writes the seeds of the GGUF fuzzer: tiny valid files that together have every value type and tensor type.

    scripts/goldens/gguf_corpus.py fuzz/corpus/gguf

Needs the packages numpy and gguf.
"""
import pathlib
import struct
import sys

import numpy as np
from gguf import GGML_QUANT_SIZES, GGUFValueType, GGUFWriter
from gguf import GGMLQuantizationType as Type

TYPES = [Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q2_K, Type.Q3_K, Type.Q4_K,
         Type.Q5_K, Type.Q6_K, Type.IQ4_NL]


def add_values(writer):
    for name in ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"):
        getattr(writer, "add_" + name)("k." + name, 7)
    writer.add_float32("k.float32", 0.5)
    writer.add_float64("k.float64", 0.25)
    writer.add_bool("k.bool", True)
    writer.add_string("k.string", "text")
    writer.add_array("k.ints", [1, -2, 3])
    writer.add_array("k.floats", [0.5, 1.5])
    writer.add_array("k.bools", [True, False])
    writer.add_array("k.strings", ["a", "bc", "d"])
    writer.add_key_value("k.bytes", [1, 2, 3], GGUFValueType.ARRAY, sub_type=GGUFValueType.UINT8)


def add_tensor(writer, name, kind):
    elements, size = GGML_QUANT_SIZES[kind]
    if elements == 1:
        writer.add_tensor(name, np.ones((2, 3, size), np.uint8), raw_dtype=kind)
    else:
        writer.add_tensor(name, np.full((1, size), 1, np.uint8), raw_dtype=kind)


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    out = pathlib.Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(out / "values.gguf", "llama")
    add_values(writer)
    finish(writer)
    for first in range(0, len(TYPES), 5):
        writer = GGUFWriter(out / f"tensors-{first // 5}.gguf", "llama")
        for kind in TYPES[first : first + 5]:
            add_tensor(writer, f"t.{kind.name.lower()}", kind)
        finish(writer)
    writer = GGUFWriter(out / "aligned.gguf", "llama")
    writer.add_custom_alignment(64)
    add_tensor(writer, "a", Type.F32)
    add_tensor(writer, "b", Type.Q8_0)
    finish(writer)
    data = bytearray((out / "aligned.gguf").read_bytes())
    data[4:8] = struct.pack("<I", 2)
    (out / "version-2.gguf").write_bytes(data)


if __name__ == "__main__":
    main()
