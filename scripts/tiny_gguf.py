#!/usr/bin/env python3
"""Makes a small GGUF model with random weights and a real small tokenizer, for tests.

    scripts/tiny_gguf.py llama OUT.gguf [--type q8_0] [--layers 4] [--width 128] [--seed 1] ...
    scripts/tiny_gguf.py --committed DIR          the files kept in tests/data/models

Kinds: llama, llama6 (with more layers), llama3 (llama with rope_freqs and an own output head), qwen2 (biases), qwen3 (q
and k norms, head_dim not width / heads), gemma3 (sliding windows, post norms, head_dim not width / heads). The same
arguments give the same bytes.
Weights are scaled so that logits have a standard deviation of 1 to 3 and attention is far from uniform; a model whose
answers do not depend on its context would let a broken cache pass. Needs the packages numpy and gguf.
"""
import argparse
import dataclasses
import pathlib
import zlib

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFWriter, TokenType
from gguf.quants import quantize

TYPES = {"f32": Type.F32, "f16": Type.F16, "bf16": Type.BF16, "q8_0": Type.Q8_0, "q4_0": Type.Q4_0, "q4_1": Type.Q4_1,
         "q5_0": Type.Q5_0, "q5_1": Type.Q5_1}

CHATML = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
          "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
TURNS = ("{{ bos_token }}{% for message in messages %}{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else "
         "message['role']) + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
         "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}")

# What the merges are learned from.
TEXT = """The larder is the cool room beside the kitchen where food is kept so that it need not be bought again each day.
A good larder is in order: the bread is on the lower shelf, the cheese is under its cover, and each jar has a label that
says what is in it and when it was put there. When the cook asks for something, the answer is either the thing itself or
the reason why it is not there. Nothing is thrown away while there is room for it, and when there is no room, the thing
that will be missed least is the first to go. The user and the assistant and the system are in the kitchen together."""


@dataclasses.dataclass(frozen=True)
class Shape:
    arch: str
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    tied: bool
    pre: str = ""
    rope_base: float = 10000.0
    window: int = 0
    rope_scaling: bool = False


# Small enough to commit, each with another ratio of heads, so that a mix-up of two of these numbers is seen.
SHAPES = {
    "llama": Shape("llama", 2, 64, 4, 2, 16, 64, 320, tied=True, pre="smollm"),
    "llama6": Shape("llama", 6, 64, 4, 2, 16, 64, 320, tied=True, pre="smollm"),
    "llama3": Shape("llama", 2, 64, 2, 1, 32, 128, 320, tied=False, pre="llama-bpe", rope_base=500000.0, rope_scaling=True),
    "qwen2": Shape("qwen2", 2, 64, 4, 1, 16, 128, 320, tied=False, pre="qwen2", rope_base=1000000.0),
    "qwen3": Shape("qwen3", 2, 64, 4, 2, 32, 96, 320, tied=True, pre="qwen2", rope_base=1000000.0),
    "gemma3": Shape("gemma3", 7, 64, 3, 1, 32, 32, 384, tied=True, rope_base=1000000.0, window=32),
}

# name, kind, tensor type
COMMITTED = [("tiny-llama", "llama", "f32"), ("tiny-llama-q4_1", "llama", "q4_1"), ("tiny-llama-q8_0", "llama", "q8_0"),
             ("tiny-llama3", "llama3", "f16"), ("tiny-qwen2", "qwen2", "f16"), ("tiny-qwen3", "qwen3", "f16"),
             ("tiny-gemma3", "gemma3", "f16"), ("tiny-llama6-q8_0", "llama6", "q8_0")]


def learn_merges(words, count):
    """Byte-pair encoding over (symbols, occurrences): the pairs joined, most frequent first, ties in the order of text."""
    words = dict(words)
    merges = []
    for _ in range(count):
        pairs = {}
        for word, occurrences in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] = pairs.get(pair, 0) + occurrences
        if not pairs:
            raise SystemExit("the text has too few pairs for a vocabulary of this size")
        best = max(pairs, key=lambda p: (pairs[p], p))
        merges.append(best)
        joined = {}
        for word, occurrences in words.items():
            out, i = [], 0
            while i < len(word):
                step = 2 if tuple(word[i : i + 2]) == best else 1
                out.append("".join(word[i : i + step]))
                i += step
            joined[tuple(out)] = joined.get(tuple(out), 0) + occurrences
        words = joined
    return merges


def count_words(space):
    """Words of TEXT with the mark of the space before them, as tuples of characters."""
    words = {}
    for word in TEXT.split():
        key = tuple(space + word)
        words[key] = words.get(key, 0) + 1
    return words


def byte_alphabet():
    """The printable character byte-level BPE writes for each byte: itself where printable, else from U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]


def add_byte_level(writer, shape, template):
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = byte_alphabet()
    merges = learn_merges(count_words(alphabet[0x20]), shape.vocabulary - len(control) - 256)
    tokens = control + alphabet + [a + b for a, b in merges]
    assert len(set(tokens)) == shape.vocabulary
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pre)
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(control) + [TokenType.NORMAL] * (len(tokens) - len(control)))
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(False)
    if template:
        writer.add_chat_template(CHATML)
    return len(control)


def add_sentencepiece(writer, shape, template):
    control = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
    pieces = [f"<0x{b:02X}>" for b in range(256)]
    letters = sorted(set(TEXT) - {" ", "\n"}) + ["\n", "\u2581"]
    merges = learn_merges(count_words("\u2581"), shape.vocabulary - len(control) - 256 - len(letters))
    joined = [a + b for a, b in merges]
    tokens = control + pieces + joined + letters
    assert len(set(tokens)) == shape.vocabulary
    kinds = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN] + [TokenType.CONTROL] * 2 + [TokenType.BYTE] * 256
    kinds += [TokenType.NORMAL] * (len(tokens) - len(kinds))
    ranks = [0.0] * (len(control) + 256) + [-float(i) for i in range(len(joined) + len(letters))]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(ranks)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(3)
    writer.add_pad_token_id(0)
    writer.add_eot_token_id(5)
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(False)
    if template:
        writer.add_chat_template(TURNS)
    return len(control)


def rope_factors(shape):
    """Llama 3's divisors of the rotary frequencies, for 8 times a context of 64 (small, so that short tests see them)."""
    factor, low, high, context = 8.0, 1.0, 4.0, 64.0
    frequency = shape.rope_base ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim)
    turns = context * frequency / (2 * np.pi)
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - blend) / factor + blend)).astype(np.float32)


def weights(shape, seed, control):
    """Yields (name, array); matrices as [outputs, inputs]."""

    def draw(name, *dims):
        # One stream per tensor: adding a tensor never changes another.
        return np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(dims)

    def matrix(name, outputs, inputs, gain):
        return name + ".weight", (draw(name, outputs, inputs) * gain / np.sqrt(inputs)).astype(np.float32)

    def norm(name, size, level=1.0):
        return name + ".weight", (level * np.exp(0.2 * draw(name, size))).astype(np.float32)

    gemma = shape.arch == "gemma3"
    q_size, kv_size = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def head(name):
        rows = draw(name, shape.vocabulary, shape.width) * 2 / np.sqrt(shape.width)
        rows[:control] *= 0.25  # end tokens are possible but rare, so that tests can generate more than a few tokens
        return name + ".weight", rows.astype(np.float32)

    yield head("token_embd")
    if not shape.tied:
        yield head("output")
    yield norm("output_norm", shape.width)
    if shape.rope_scaling:
        yield "rope_freqs.weight", rope_factors(shape)
    for layer in range(shape.layers):
        b = f"blk.{layer}."
        yield norm(b + "attn_norm", shape.width)
        for name, size, gain in (("attn_q", q_size, 1.4), ("attn_k", kv_size, 1.4), ("attn_v", kv_size, 1.5)):
            yield matrix(b + name, size, shape.width, gain)
            if shape.arch == "qwen2":
                yield b + name + ".bias", (0.5 * draw(b + name + ".bias", size)).astype(np.float32)
        if shape.arch in ("qwen3", "gemma3"):
            yield norm(b + "attn_q_norm", shape.head_dim, 1.3)
            yield norm(b + "attn_k_norm", shape.head_dim, 1.3)
        yield matrix(b + "attn_output", shape.width, q_size, 1.5)
        yield norm(b + "ffn_norm", shape.width)
        yield matrix(b + "ffn_gate", shape.ffn, shape.width, 1.2)
        yield matrix(b + "ffn_up", shape.ffn, shape.width, 1.2)
        yield matrix(b + "ffn_down", shape.width, shape.ffn, 2.0)
        if gemma:
            yield norm(b + "post_attention_norm", shape.width, 3.0)
            yield norm(b + "post_ffw_norm", shape.width, 3.0)


def write(path, kind, shape, type_name, seed, template=True):
    writer = GGUFWriter(path, shape.arch)
    writer.add_name(f"tiny {kind} {type_name}")
    writer.add_context_length(8192)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.vocabulary)
    if shape.window:
        writer.add_sliding_window(shape.window)
    control = (add_sentencepiece if shape.arch == "gemma3" else add_byte_level)(writer, shape, template)
    kind_of_matrix = TYPES[type_name]
    for name, array in weights(shape, seed, control):
        if array.ndim == 1 or kind_of_matrix == Type.F32:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, quantize(array, kind_of_matrix), raw_dtype=kind_of_matrix)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", choices=SHAPES)
    parser.add_argument("out", nargs="?", type=pathlib.Path)
    parser.add_argument("--committed", type=pathlib.Path, metavar="DIR", help="write the files kept in the tree")
    parser.add_argument("--type", default="f32", choices=TYPES, help="of the matrices; vectors stay f32")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-template", action="store_true", help="leave the chat template out")
    for field in ("layers", "width", "heads", "kv_heads", "head_dim", "ffn", "vocabulary", "window"):
        parser.add_argument("--" + field.replace("_", "-"), type=int)
    arguments = parser.parse_args()
    if arguments.committed:
        for name, kind, type_name in COMMITTED:
            write(arguments.committed / f"{name}.gguf", kind, SHAPES[kind], type_name, seed=1)
        return
    if not arguments.out:
        parser.error("KIND and OUT are needed")
    given = {k: v for k, v in vars(arguments).items() if v is not None and k in Shape.__dataclass_fields__}
    shape = dataclasses.replace(SHAPES[arguments.kind], **given)
    write(arguments.out, arguments.kind, shape, arguments.type, arguments.seed, not arguments.no_template)


if __name__ == "__main__":
    main()
