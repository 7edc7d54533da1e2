#!/usr/bin/env python3
"""How much each kind of matrix loses by 8-bit activations: mean KL to exact arithmetic, one kind at a time.

    scripts/sensitivity.py ORACLE.py MODEL.gguf IDS.json [GROUP=32]

ORACLE.py is the plain NumPy forward pass that scripts/goldens/logits.py takes as well. The weights stay exact (Larder's forms
are), only the inputs of the named matrices are rounded the way src/compute/packed.h does it: signed bytes, one scale for each
group of GROUP. IDS.json is a list of token ids (the server's /tokenize makes one of a text). Prints a table. Needs numpy and
gguf.
"""
import importlib.util
import json
import sys

import numpy as np

KINDS = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "output"]


def quantised(x, group):
    """x [rows, n] rounded to signed bytes in groups along n."""
    shape = x.shape
    g = x.reshape(shape[0], -1, group)
    scale = np.abs(g).max(-1, keepdims=True) / 127
    codes = np.rint(np.divide(g, scale, out=np.zeros_like(g), where=scale > 0))
    return (codes * scale).reshape(shape)


def main():
    oracle, path, ids_file = sys.argv[1:4]
    group = int(sys.argv[4]) if len(sys.argv) > 4 else 32
    spec = importlib.util.spec_from_file_location("oracle", oracle)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    class Rounded(module.Model):
        kinds = ()

        def linear(self, x, name):
            if any(name.endswith(kind) for kind in self.kinds):
                x = quantised(x, group)
            return super().linear(x, name)

        def logits(self, ids, rows=slice(None)):
            hidden = self.hidden(ids)[rows]
            if "output" in self.kinds:
                hidden = quantised(hidden, group)
            return hidden @ self.w.get("output.weight", self.w["token_embd.weight"]).T

    model = Rounded(path, np.float32)
    with open(ids_file, encoding="utf-8") as file:
        ids = json.load(file)

    def log_probabilities(kinds):
        model.kinds = kinds
        logits = model.logits(ids).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    exact = log_probabilities(())
    print(f"{len(ids)} tokens, activations in groups of {group}")
    for kinds in [(k,) for k in KINDS] + [tuple(KINDS)]:
        rounded = log_probabilities(kinds)
        kl = (np.exp(exact) * (exact - rounded)).sum(-1)
        same = (exact.argmax(-1) == rounded.argmax(-1)).mean()
        print(f"{'all' if len(kinds) > 1 else kinds[0]:12} mean KL {kl.mean():.2e}  worst {kl.max():.2e}  same best {same:.3f}")


if __name__ == "__main__":
    main()
