#!/usr/bin/env python3
"""Makes the logits that the engine is compared with, from a plain float64 forward pass.

    scripts/goldens/logits.py ORACLE.py full   OUT_DIR MODEL.gguf...     small models: whole rows of logits
    scripts/goldens/logits.py ORACLE.py sample OUT_DIR MODEL.gguf...     real models: the last row, at some ids
    scripts/goldens/logits.py ORACLE.py check  MODEL.gguf                the incremental pass below against the oracle

ORACLE.py is a NumPy forward over the dequantised file with a class Model(path, dtype) that has logits(ids, rows), hidden(ids)
and the parts norm, linear and rope. It is not part of this tree, which is why its results are kept in tests/data/logits.
Needs the packages numpy and gguf. The same arguments give the same prompts.

OUT_DIR/<name of the model's file without .gguf>.json:

    model, sha256, architecture, vocabulary
    fixed_ids        64 vocabulary ids drawn once per model
    prompts: [
      name           what it is: text or random ids, and its length
      ids            the token ids, BOS included where there is one
      float32_error  norm(float32 pass - float64 pass) / norm(float64 pass) over the last row: what plain float32
                     arithmetic in the oracle's own order loses, a yardstick for the engine's f32 mode
      rows: [        the logits that follow ids[0..row]
        row          index into ids
        norm         Euclidean norm of all logits of the row
        logsumexp    over all logits of the row
        margin       best logit minus second best
        logits       [vocabulary], "full" files only
        top_ids      64 best ids, best first      } "sample" files only
        top_logits   [64] at top_ids              }
        fixed_logits [64] at fixed_ids            }
      ]
      greedy         absent, or {ids: 64 ids that follow greedily (end tokens are not an end), margins: best minus second
                     best logit at each step}. From the first step whose margin is near 0 another answer may be as good.
    ]

Logits have six significant digits, so a comparison cannot be sharper than about 1e-6 of the norm.
"""
import argparse
import hashlib
import importlib.util
import json
import math
import pathlib
import re
import sys

import numpy as np
from gguf import GGUFReader

TOP = FIXED = 64
GREEDY_STEPS = 64

SAMPLE_LENGTHS = [5, 7, 8, 12, 16, 17, 24, 31, 33, 48, 63, 64, 65, 96, 128, 129, 200, 256, 400, 513, 600, 1024, 1500, 2048]
# Length -> rows kept. Around 32 (the window of the small gemma3) and 64 (a page) each side is kept.
FULL_ROWS = {6: range(6), 16: range(16), 100: [30, 31, 32, 33, 63, 64, 65, 99], 300: [127, 128, 255, 299]}
FULL_ROWS_QUANTISED = {6: range(6), 100: [63, 64, 99]}

TEXT = """The old ferry left the island at a quarter past six, when the harbour was still grey and the gulls had not begun to
quarrel. Maren counted nine passengers, two bicycles and a crate of apples that nobody claimed. She wrote the numbers into the
log, as her mother had done before her, and waited for the engine to find its rhythm.

"You could let a machine count us," said the teacher, who crossed every Monday.

"A machine would count the apples," said Maren.

By seven the fog had lifted. The mainland showed first as a line, then as a line with teeth, and at last as roofs, cranes and
the tall chimney of the cement works. In 1987 the works had employed 412 people; now there were 36, and a museum. The teacher
took her class there every spring: 1) the quarry, 2) the kiln, 3) the café with the bad coffee.

A proof is a conversation in which one side has promised to be difficult. Suppose that there were only finitely many primes,
p1 to pn. Multiply them and add one. The result leaves the remainder one when it is divided by any of them, so either it is
a prime itself or it has a prime divisor that is not in the list. In both cases the list was not complete.

def mean(values):
    total = 0.0
    for value in values:
        total += value
    return total / len(values) if values else None

To store bread: keep it dry, keep it cool, and never in the refrigerator, where it goes stale about six times as fast. A
linen bag is good, a clay pot is better. What has become hard is not lost: crumbs, soup, or a pudding with milk, two eggs
and 80 g of sugar, baked for 35 minutes at 180 °C. Guten Appetit, bon appétit, buen provecho!

{"station": "north pier", "wind_kn": 17.5, "gusts": [22, 24, 31], "visibility": null, "warning": true}

Memory is not a record but a habit. What is asked for often comes quickly, what is asked for never is given away, and what
is asked for once, after many years, comes back in the wrong order and with somebody else's name on it. The librarian knew
this and kept two catalogues: one of the books, and one of the questions."""


class WeakScalars:
    """numpy, except that the root of a plain number is a plain number: a float64 scalar would turn a float32 pass into a
    float64 one."""

    def __getattr__(self, name):
        return getattr(np, name)

    def sqrt(self, x):
        return math.sqrt(x) if isinstance(x, (int, float)) else np.sqrt(x)


def load_oracle(path):
    spec = importlib.util.spec_from_file_location("oracle", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.np = WeakScalars()
    return module


def with_cache(oracle):
    """The oracle's model with keys and values kept between calls, so that a continuation costs one row a token."""

    class Incremental(oracle.Model):
        def restart(self):
            self.past = [None] * self.layers
            self.done = 0

        def extend(self, ids):
            """Logits of the last of these ids, which follow those given since restart()."""
            logits = self.logits(ids, rows=[-1])[0]
            self.done += len(ids)
            return logits

        def attention(self, h, layer, pos):
            n, b, pos = len(pos), f"blk.{layer}.", pos + self.done
            local = self.gemma and (layer + 1) % 6 != 0
            q, k, v = (self.linear(h, b + name).reshape(n, heads, self.head_dim)
                       for name, heads in (("attn_q", self.heads), ("attn_k", self.kv_heads), ("attn_v", self.kv_heads)))
            if b + "attn_q_norm.weight" in self.w:
                q, k = self.norm(q, b + "attn_q_norm.weight"), self.norm(k, b + "attn_k_norm.weight")
            base = 10000.0 if local else self.rope_base
            q, k = self.rope(q, pos, base), self.rope(k, pos, base)
            if self.past[layer] is not None:
                k, v = (np.concatenate(pair) for pair in zip(self.past[layer], (k, v)))
            self.past[layer] = k, v
            keys = np.arange(len(k))
            hidden = keys[None] > pos[:, None]
            if local:
                hidden |= keys[None] <= pos[:, None] - self.window
            group = self.heads // self.kv_heads
            score = np.einsum("qhd,khd->hqk", q, np.repeat(k, group, 1)) / np.sqrt(self.head_dim)
            score[:, hidden] = -np.inf
            weight = np.exp(score - score.max(-1, keepdims=True))
            weight /= weight.sum(-1, keepdims=True)
            out = np.einsum("hqk,khd->qhd", weight, np.repeat(v, group, 1))
            return self.linear(out.reshape(n, -1), b + "attn_output")

    return Incremental


class Vocabulary:
    """Text to ids by the longest token that fits: near to the tokenizer's own answer, and no tokenizer is needed."""

    def __init__(self, path):
        fields = GGUFReader(path).fields
        get = lambda key, default=None: fields[key].contents() if key in fields else default
        self.tokens = get("tokenizer.ggml.tokens")
        kinds = get("tokenizer.ggml.token_type", [1] * len(self.tokens))
        self.normal = [i for i, kind in enumerate(kinds) if kind == 1]
        self.ids = {self.tokens[i]: i for i in self.normal}
        self.longest = max(map(len, self.ids))
        self.byte_level = get("tokenizer.ggml.model") == "gpt2"
        add_bos = get("tokenizer.ggml.add_bos_token", not self.byte_level)
        self.bos = [get("tokenizer.ggml.bos_token_id")] if add_bos else []

    def spell(self, text):
        if not self.byte_level:
            return text.replace(" ", "\u2581")
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = iter(range(0x100, 0x200))
        alphabet = [chr(b) if b in printable else chr(next(others)) for b in range(256)]
        return "".join(alphabet[b] for b in text.encode())

    def encode(self, text):
        spelt, at, out = self.spell(text), 0, []
        while at < len(spelt):
            for size in range(min(self.longest, len(spelt) - at), 0, -1):
                if spelt[at : at + size] in self.ids:
                    out.append(self.ids[spelt[at : at + size]])
                    break
            else:
                size = 1  # a character that a small vocabulary lacks
            at += size
        return out


def make_prompts(vocabulary, lengths):
    """Yields (name, ids): of every three lengths two are text in random order of its sentences, one is random ids."""
    sentences = [s for s in re.split(r"(?<=[.!?\n]) ?", TEXT.replace("\r", "")) if s.strip()]
    for index, length in enumerate(lengths):
        rng = np.random.default_rng([7, length])
        if index % 3 == 2:
            yield f"random ids, {length}", [int(i) for i in rng.choice(vocabulary.normal, length)]
            continue
        ids = list(vocabulary.bos)
        while len(ids) < length:
            ids += vocabulary.encode(" ".join(sentences[i] for i in rng.permutation(len(sentences))))
        yield f"text, {length}", ids[:length]


def rounded(values):
    return [float(f"{v:.6g}") for v in np.asarray(values, np.float64)]


def describe(logits, row):
    best = np.sort(logits)[-2:]
    peak = logits.max()
    return {"row": row, "norm": float(f"{np.linalg.norm(logits):.9g}"),
            "logsumexp": float(f"{peak + np.log(np.exp(logits - peak).sum()):.9g}"), "margin": float(f"{best[1] - best[0]:.6g}")}


def greedy(model, ids):
    model.restart()
    logits = model.extend(ids)
    out, margins = [], []
    for _ in range(GREEDY_STEPS):
        best = np.argsort(-logits)[:2]
        out.append(int(best[0]))
        margins.append(float(f"{logits[best[0]] - logits[best[1]]:.6g}"))
        logits = model.extend(out[-1:])
    return {"ids": out, "margins": margins}


class Maker:
    def __init__(self, oracle, path):
        self.path = path
        self.vocabulary = Vocabulary(path)
        self.exact, self.single = (oracle.Model(path, dtype) for dtype in (np.float64, np.float32))
        self.incremental = with_cache(oracle)(path)
        size = len(self.vocabulary.tokens)
        self.fixed = sorted(int(i) for i in np.random.default_rng(11).choice(size, FIXED, replace=False))

    def file(self, prompts):
        digest = hashlib.sha256(pathlib.Path(self.path).read_bytes()).hexdigest()
        return {"model": pathlib.Path(self.path).name, "sha256": digest, "architecture": self.exact.arch,
                "vocabulary": len(self.vocabulary.tokens), "fixed_ids": self.fixed, "prompts": prompts}

    def prompt(self, name, ids, rows, full, follow):
        logits = self.exact.logits(ids, rows=rows)
        assert np.isfinite(logits).all()
        float32 = self.single.logits(ids, rows=[-1])[0]
        error = np.linalg.norm(float32 - logits[-1]) / np.linalg.norm(logits[-1])
        entry = {"name": name, "ids": ids, "float32_error": float(f"{error:.3g}"), "rows": []}
        for row, values in zip(rows, logits):
            item = describe(values, row)
            if full:
                item["logits"] = rounded(values)
            else:
                top = np.argsort(-values, kind="stable")[:TOP]
                item |= {"top_ids": [int(i) for i in top], "top_logits": rounded(values[top]),
                         "fixed_logits": rounded(values[self.fixed])}
            entry["rows"].append(item)
        if follow:
            entry["greedy"] = greedy(self.incremental, ids)
        print(f"{pathlib.Path(self.path).stem}: {name}, float32 error {error:.2g}", file=sys.stderr, flush=True)
        return entry


def make(oracle, path, out, full):
    maker = Maker(oracle, path)
    if full:
        quantised = re.search(r"-q\d_\d$", pathlib.Path(path).stem)
        kept = FULL_ROWS_QUANTISED if quantised else FULL_ROWS
        wanted = {length: list(rows) for length, rows in kept.items()}
        followed = {16, 100}
    else:
        wanted = {length: [length - 1] for length in SAMPLE_LENGTHS}
        followed = {7, 16, 31, 64}
    prompts = [maker.prompt(name, ids, wanted[len(ids)], full, len(ids) in followed)
               for name, ids in make_prompts(maker.vocabulary, wanted)]
    text = json.dumps(maker.file(prompts), separators=(",", ":")).replace('{"name"', '\n{"name"').replace('{"row"', '\n{"row"')
    (out / f"{pathlib.Path(path).stem}.json").write_text(text + "\n")


def check(oracle, path):
    model, cached = oracle.Model(path), with_cache(oracle)(path)
    ids = next(ids for _, ids in make_prompts(Vocabulary(path), [80]))
    cached.restart()
    worst = 0.0
    for begin, end in ((0, 50), (50, 79), (79, 80)):
        got, want = cached.extend(ids[begin:end]), model.logits(ids[:end], rows=[-1])[0]
        worst = max(worst, np.linalg.norm(got - want) / np.linalg.norm(want))
    print(f"{pathlib.Path(path).stem}: {worst:.3g}")
    return bool(worst < 1e-10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracle", type=pathlib.Path)
    parser.add_argument("kind", choices=["full", "sample", "check"])
    parser.add_argument("paths", nargs="+", metavar="[OUT_DIR] MODEL.gguf")
    arguments = parser.parse_args()
    oracle = load_oracle(arguments.oracle)
    if arguments.kind == "check":
        sys.exit(0 if all([check(oracle, path) for path in arguments.paths]) else 1)
    out, *models = arguments.paths
    for path in models:
        make(oracle, path, pathlib.Path(out), arguments.kind == "full")


if __name__ == "__main__":
    main()
