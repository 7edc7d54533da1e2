#!/usr/bin/env python3
"""Writes retr-tiny, a llama model that looks things up in its context. It is constructed by hand, not trained.

    scripts/make_retrieval.py OUT.gguf        the file kept as tests/data/models/retr-tiny.gguf

A language model of 135 M parameters hardly solves key-value lookup over a thousand tokens, so with it a cache method that
loses the looked-up entry cannot be told from one that keeps it. This model does nothing else. It reads the "symbols"
language of larder eval tasks (apps/larder/task_text.cc):

    filler   " ek ot um"       vowel and consonant
    fact     " kan Ri."        a key and its value; value in capitals
    link     " lo kan."        a key and the next key of its chain
    question "? kan Ri."       the answer follows the key: a value, or the rest of its chain

Two layers, the circuit that trained models have for this (an induction head):

    layer 0  every token looks one token back, by the rotary embedding's fast pairs, and learns its predecessor's code
    layer 1  every token looks for entries whose predecessor is what it is itself, and predicts what stands there; by the
             slow pairs, which hardly turn over a few thousand tokens. "." never answers. Who finds nothing looks at the
             first token, as in trained models: a sink.

Codes are 44 signs, at least 14 of them different between any two tokens. The same bytes each time. Needs numpy and gguf.
"""
import argparse
import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, TokenType

from tiny_gguf import byte_alphabet

LAYERS, WIDTH, HEADS, KV_HEADS, HEAD_DIM, FFN = 2, 160, 2, 1, 64, 32
ROPE_BASE, EPS = 1e12, 1e-6

CONSONANTS, VOWELS, ENDINGS = "bdfgklmnprstvwxz", "aeiou", ("", "l", "n", "r", "s")
KEYS = [c + v + e for c in CONSONANTS for v in VOWELS for e in ENDINGS]
VALUES = [c.upper() + v for c in CONSONANTS for v in VOWELS]
FILLERS = [v + c for v in VOWELS for c in CONSONANTS]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
BOS = 0

# The residual stream: codes of the token itself, of its predecessor and of the prediction; and three single numbers.
CODE = 44
OWN, BEFORE, OUT = (slice(i * CODE, (i + 1) * CODE) for i in range(3))
ONE, IS_DOT, IS_BOS = 3 * CODE, 3 * CODE + 1, 3 * CODE + 2
ALWAYS = 4.0  # x[ONE] of every token

# Pairs of a head's dimensions: those that tell neighbours apart, and those that hardly turn.
FAST_PAIRS, FIRST_SLOW = 6, 10
FLAG_DIM = 2 * (FIRST_SLOW - 1)  # one dimension of a slow pair
SLOW = slice(2 * FIRST_SLOW, 2 * FIRST_SLOW + CODE)
# Scores before the softmax: of an entry that matches in all signs, of the sink, of a full stop.
MATCH, SINK, DOT, LOOK_BACK, LOGIT = 30.0, 18.0, -30.0, 24.0, 22.0


def vocabulary():
    """Tokens and merges of a byte-level BPE in which every word with the space before it is one token."""
    alphabet = byte_alphabet()
    tokens, merges = CONTROL + alphabet, []
    for word in KEYS + VALUES + FILLERS:
        have = alphabet[0x20]
        for letter in word:
            if have + letter not in tokens:
                tokens.append(have + letter)
                merges.append(f"{have} {letter}")
            have += letter
    return tokens, merges


def codes(count):
    """Signs, far from each other, the first that fit of a fixed sequence."""
    random = np.random.Generator(np.random.PCG64(1))
    chosen = np.zeros((0, CODE))
    while len(chosen) < count:
        candidate = np.where(random.integers(0, 2, CODE) == 1, 1.0, -1.0)
        if len(chosen) == 0 or np.max(chosen @ candidate) <= CODE - 2 * 14:
            chosen = np.vstack([chosen, candidate])
    return chosen


def look_back(q, k, scale):
    """Scores are sum over pairs of scale * cos(theta * (distance - 1)): highest for the token before."""
    for i in range(FAST_PAIRS):
        theta = ROPE_BASE ** (-2 * i / HEAD_DIM)
        q[2 * i, ONE], q[2 * i + 1, ONE] = scale * np.cos(theta), -scale * np.sin(theta)
        k[2 * i, ONE] = 1


def weights(tokens):
    space = byte_alphabet()[0x20]
    words = [tokens.index(space + w) for w in KEYS + VALUES + FILLERS] + [tokens.index("."), tokens.index("?"), BOS]
    code = np.zeros((len(tokens), CODE))
    code[words] = codes(len(words))
    embedding = np.zeros((len(tokens), WIDTH))
    embedding[:, OWN], embedding[:, ONE] = code, ALWAYS
    embedding[tokens.index("."), IS_DOT] = embedding[BOS, IS_BOS] = 1
    output = np.zeros((len(tokens), WIDTH))

    # What the norms divide by: tokens have the same length but for the one or two numbers of "." and BOS.
    first = np.sqrt((CODE + ALWAYS**2) / WIDTH)
    second = np.sqrt((2 * CODE + ALWAYS**2) / WIDTH)
    last = np.sqrt((3 * CODE + ALWAYS**2) / WIDTH)
    root = np.sqrt(HEAD_DIM)  # attention divides by it
    q0, k0, v0, o0 = (np.zeros(s) for s in ((HEAD_DIM, WIDTH), (HEAD_DIM, WIDTH), (HEAD_DIM, WIDTH), (WIDTH, HEAD_DIM)))
    look_back(q0, k0, LOOK_BACK * root * (first / ALWAYS) ** 2)
    v0[SLOW, OWN] = np.eye(CODE) * first
    o0[BEFORE, SLOW] = np.eye(CODE)

    q1, k1, v1, o1 = (np.zeros_like(a) for a in (q0, k0, v0, o0))
    q1[SLOW, OWN] = np.eye(CODE) * second * MATCH * root / CODE
    k1[SLOW, BEFORE] = np.eye(CODE) * second
    q1[FLAG_DIM, ONE] = second / ALWAYS * root
    k1[FLAG_DIM, IS_BOS], k1[FLAG_DIM, IS_DOT] = SINK * second, DOT * second
    v1[SLOW, OWN] = np.eye(CODE) * second
    o1[OUT, SLOW] = np.eye(CODE)
    output[:, OUT] = code * last * LOGIT / CODE

    yield "token_embd.weight", embedding
    yield "output.weight", output
    yield "output_norm.weight", np.ones(WIDTH)
    for layer, (q, k, v, o) in enumerate([(q0, k0, v0, o0), (q1, k1, v1, o1)]):
        b = f"blk.{layer}."
        yield b + "attn_norm.weight", np.ones(WIDTH)
        yield b + "attn_q.weight", np.vstack([q] * HEADS)  # all heads do the same
        yield b + "attn_k.weight", k
        yield b + "attn_v.weight", v
        yield b + "attn_output.weight", np.hstack([o / HEADS] * HEADS)
        yield b + "ffn_norm.weight", np.ones(WIDTH)
        for name, shape in (("ffn_gate", (FFN, WIDTH)), ("ffn_up", (FFN, WIDTH)), ("ffn_down", (WIDTH, FFN))):
            yield f"{b}{name}.weight", np.zeros(shape)


def write(path, name, shape, tensors):
    """shape: a module or an object with the sizes of this one. tensors: names and arrays; matrices are kept in 16 bits."""
    tokens, merges = vocabulary()
    writer = GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_context_length(4096)
    writer.add_embedding_length(shape.WIDTH)
    writer.add_block_count(shape.LAYERS)
    writer.add_feed_forward_length(shape.FFN)
    writer.add_head_count(shape.HEADS)
    writer.add_head_count_kv(shape.KV_HEADS)
    writer.add_key_length(shape.HEAD_DIM)
    writer.add_value_length(shape.HEAD_DIM)
    writer.add_layer_norm_rms_eps(shape.EPS)
    writer.add_rope_freq_base(shape.ROPE_BASE)
    writer.add_rope_dimension_count(shape.HEAD_DIM)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(CONTROL) + [TokenType.NORMAL] * (len(tokens) - len(CONTROL)))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_add_bos_token(True)
    for tensor, array in tensors:
        if array.ndim == 1:
            writer.add_tensor(tensor, array.astype(np.float32))
        else:
            writer.add_tensor(tensor, array.astype(np.float16), raw_dtype=GGMLQuantizationType.F16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    write(parser.parse_args().out, "retr-tiny", sys.modules[__name__], weights(vocabulary()[0]))


if __name__ == "__main__":
    main()
