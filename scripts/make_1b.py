#!/usr/bin/env python3
"""Writes a GGUF file of the shape of Llama-3.2-1B with random weights, to measure speed with.

    scripts/make_1b.py OUT.gguf [--embedding q8_0] [--layers 16] [--seed 1]

2048 wide, 32 heads, 8 KV heads of 64, feed forward 8192, vocabulary 128256, head tied to the embedding; matrices are Q4_0,
norms F32, about 0.8 GB. Codes and scales are drawn in their quantised form, with the spread that trained weights have, so
that the file is written in seconds and nothing overflows; what the model says means nothing. The tokenizer is byte-level
BPE with made-up merges: all printable bytes, then pairs, then triples. The same arguments give the same bytes. Needs numpy.
"""
import argparse
import itertools
import pathlib
import struct
import zlib

import numpy as np

WIDTH, HEADS, KV_HEADS, HEAD_DIM, FEED_FORWARD, VOCABULARY = 2048, 32, 8, 64, 8192, 128256
CONTROL = 256  # the last tokens of the vocabulary
ALIGNMENT = 32
F32, Q4_0, Q8_0, Q6_K = 0, 2, 8, 14
BLOCK = {F32: (1, 4), Q4_0: (32, 18), Q8_0: (32, 34), Q6_K: (256, 210)}  # type: elements, bytes
CHUNK_BLOCKS = 1 << 20  # drawn and written at a time

# As the other tests' models: control turns of a chat.
TEMPLATE = ("{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + "
            "message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if add_generation_prompt %}"
            "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}")


# ---- tokenizer

def byte_alphabet():
    """The printable character byte-level BPE writes for each byte: itself where printable, else from U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]


def vocabulary():
    """(tokens, merges, kinds); the merges make every token that is neither a byte nor control."""
    alphabet = byte_alphabet()
    # The most frequent letters of English first, so that text has short encodings.
    order = " etaoinshrdlcumwfgypbvkETAOINSHRDLCUMWFGYPBVK.,-'0123456789"
    order += "".join(chr(b) for b in range(0x21, 0x7F) if chr(b) not in order)
    letters = [alphabet[ord(c)] for c in order]
    pairs = [(a, b) for a, b in itertools.product(letters, letters)]
    triples = ((a + b, c) for (a, b), c in itertools.product(pairs, letters))
    merges = pairs + list(itertools.islice(triples, VOCABULARY - CONTROL - len(alphabet) - len(pairs)))
    named = {0: "<|begin_of_text|>", 1: "<|end_of_text|>", 6: "<|start_header_id|>", 7: "<|end_header_id|>", 8: "<|eom_id|>",
             9: "<|eot_id|>"}
    control = [named.get(i, f"<|reserved_special_token_{i}|>") for i in range(CONTROL)]
    tokens = alphabet + [a + b for a, b in merges] + control
    assert len(tokens) == len(set(tokens)) == VOCABULARY
    normal, special = 1, 3
    return tokens, [f"{a} {b}" for a, b in merges], [normal] * (VOCABULARY - CONTROL) + [special] * CONTROL


# ---- the file's head

def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, value):
    """One metadata entry: a number, a string, a switch, or a list of strings or numbers."""
    head = text(key)
    if isinstance(value, bool):
        return head + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return head + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return head + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return head + struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return head + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    return head + struct.pack("<IIQ", 9, 5, len(value)) + np.asarray(value, np.int32).tobytes()


def metadata(layers):
    tokens, merges, kinds = vocabulary()
    first = VOCABULARY - CONTROL
    return [
        entry("general.architecture", "llama"), entry("general.name", "random 1B"), entry("general.file_type", 2),
        entry("general.quantization_version", 2), entry("llama.context_length", 131072), entry("llama.embedding_length", WIDTH),
        entry("llama.block_count", layers), entry("llama.feed_forward_length", FEED_FORWARD),
        entry("llama.attention.head_count", HEADS), entry("llama.attention.head_count_kv", KV_HEADS),
        entry("llama.attention.key_length", HEAD_DIM), entry("llama.attention.value_length", HEAD_DIM),
        entry("llama.attention.layer_norm_rms_epsilon", 1e-5), entry("llama.rope.freq_base", 500000.0),
        entry("llama.rope.dimension_count", HEAD_DIM), entry("llama.vocab_size", VOCABULARY),
        entry("tokenizer.ggml.model", "gpt2"), entry("tokenizer.ggml.pre", "llama-bpe"), entry("tokenizer.ggml.tokens", tokens),
        entry("tokenizer.ggml.token_type", kinds), entry("tokenizer.ggml.merges", merges),
        entry("tokenizer.ggml.bos_token_id", first), entry("tokenizer.ggml.eos_token_id", first + 9),
        entry("tokenizer.ggml.padding_token_id", first + 4), entry("tokenizer.ggml.add_bos_token", True),
        entry("tokenizer.chat_template", TEMPLATE),
    ]


# ---- tensors

def shapes(layers, embedding):
    """(name, type, outputs, inputs, standard deviation of the elements); outputs 0: a vector."""
    def matrix(name, outputs, inputs, gain):
        return name + ".weight", Q4_0, outputs, inputs, gain / inputs**0.5

    kv_width = KV_HEADS * HEAD_DIM
    yield "token_embd.weight", embedding, VOCABULARY, WIDTH, 2 / WIDTH**0.5
    yield "output_norm.weight", F32, 0, WIDTH, 0.2
    for layer in range(layers):
        b = f"blk.{layer}."
        yield b + "attn_norm.weight", F32, 0, WIDTH, 0.2
        yield matrix(b + "attn_q", HEADS * HEAD_DIM, WIDTH, 1.4)
        yield matrix(b + "attn_k", kv_width, WIDTH, 1.4)
        yield matrix(b + "attn_v", kv_width, WIDTH, 1.5)
        yield matrix(b + "attn_output", WIDTH, HEADS * HEAD_DIM, 1.5)
        yield b + "ffn_norm.weight", F32, 0, WIDTH, 0.2
        yield matrix(b + "ffn_gate", FEED_FORWARD, WIDTH, 1.2)
        yield matrix(b + "ffn_up", FEED_FORWARD, WIDTH, 1.2)
        yield matrix(b + "ffn_down", WIDTH, FEED_FORWARD, 2.0)


def bell(low, high, deviation):
    """256 codes in [low, high] that follow a bell curve: a random byte picks one."""
    codes = np.arange(low, high + 1)
    share = np.cumsum(np.exp(-0.5 * (codes / deviation) ** 2))
    return codes[np.searchsorted(share / share[-1], (np.arange(256) + 0.5) / 256)]


def half_scales(random, blocks, level):
    """Scales of blocks: they differ from each other as those of trained weights do."""
    return (level * np.exp(0.2 * random.standard_normal(blocks))).astype("<f2").view(np.uint8).reshape(blocks, 2)


def draw_bytes(random, *dims):
    return np.frombuffer(random.bytes(int(np.prod(dims))), np.uint8).reshape(dims)


def draw_q4_0(random, blocks, deviation):
    table = bell(-8, 7, 2.8)
    codes = (table + 8).astype(np.uint8)[draw_bytes(random, blocks, 32)]
    packed = codes[:, :16] | codes[:, 16:] << 4
    return np.concatenate([half_scales(random, blocks, deviation / table.std()), packed], axis=1)


def draw_q8_0(random, blocks, deviation):
    table = bell(-127, 127, 42)
    codes = table.astype(np.int8).view(np.uint8)[draw_bytes(random, blocks, 32)]
    return np.concatenate([half_scales(random, blocks, deviation / table.std()), codes], axis=1)


def draw_q6_k(random, blocks, deviation):
    codes = draw_bytes(random, blocks, 192)  # low halves, then high quarters: evenly in -32 .. 31
    scales = (random.integers(40, 128, (blocks, 16)) * random.choice([-1, 1], (blocks, 16))).astype(np.int8).view(np.uint8)
    return np.concatenate([codes, scales, half_scales(random, blocks, deviation / (18.5 * 88))], axis=1)


DRAW = {Q4_0: draw_q4_0, Q8_0: draw_q8_0, Q6_K: draw_q6_k}


def write_tensor(out, seed, name, kind, outputs, inputs, deviation):
    random = np.random.default_rng([seed, zlib.crc32(name.encode())])  # adding a tensor never changes another
    if kind == F32:
        out.write(np.exp(deviation * random.standard_normal(inputs)).astype("<f4").tobytes())
        return
    blocks = outputs * inputs // BLOCK[kind][0]
    for begin in range(0, blocks, CHUNK_BLOCKS):
        out.write(np.ascontiguousarray(DRAW[kind](random, min(CHUNK_BLOCKS, blocks - begin), deviation)).tobytes())


def write(path, layers, embedding, seed):
    tensors = list(shapes(layers, embedding))
    entries = metadata(layers)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries)
    offset = 0
    for name, kind, outputs, inputs, _ in tensors:
        dims = [inputs, outputs] if outputs else [inputs]
        head += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
        elements, size = BLOCK[kind]
        offset += -(-max(outputs, 1) * inputs // elements * size // ALIGNMENT) * ALIGNMENT
    with open(path, "wb") as out:
        out.write(head)
        for tensor in tensors:
            out.write(b"\0" * (-out.tell() % ALIGNMENT))
            write_tensor(out, seed, *tensor)
        out.write(b"\0" * (-out.tell() % ALIGNMENT))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--embedding", choices=["q8_0", "q6_k"], default="q8_0", help="format of the embedding and head")
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write(arguments.out, arguments.layers, {"q8_0": Q8_0, "q6_k": Q6_K}[arguments.embedding], arguments.seed)


if __name__ == "__main__":
    main()
