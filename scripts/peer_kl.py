#!/usr/bin/env python3
"""Compares how far fast arithmetic moves the answers: Larder's own KL divergence beside llama.cpp's, on the same file, text
and cache type.

    $(scripts/peers) scripts/peer_kl.py LARDER MODEL TEXT [--tokens 256] [--threads 2] [--json]

LARDER is the program; it also writes the model with F32 weights into a temporary file, which with an F32 cache is
llama.cpp's exact setting. Each engine is compared with its own exact setting, as KL(exact || fast) of the next token,
averaged over the same positions: all but the first of the text's first tokens.
"""
import argparse
import json
import pathlib
import subprocess
import tempfile

import llama_cpp as ll
import numpy as np

QUIET = ll.llama_log_callback(lambda level, text, data: None)


def load(path, only_vocabulary=False):
    params = ll.llama_model_default_params()
    params.vocab_only = only_vocabulary
    model = ll.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise SystemExit(f"peer_kl: llama.cpp cannot load {path}")
    return model


def tokenize(model, text):
    """The text's tokens without BOS, and whether this model puts one in front."""
    vocabulary = ll.llama_model_get_vocab(model)
    data = text.encode()
    out = (ll.llama_token * (len(data) + 8))()
    count = ll.llama_tokenize(vocabulary, data, len(data), out, len(out), False, False)
    return list(out[:count]), ll.llama_vocab_bos(vocabulary) if ll.llama_vocab_get_add_bos(vocabulary) else None


def logits(path, tokens, threads, exact):
    """Logits behind each of the tokens: [len(tokens), vocabulary]."""
    model = load(path)
    params = ll.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = (len(tokens) + 255) // 256 * 256
    params.n_threads = params.n_threads_batch = threads
    if exact:
        params.type_k = params.type_v = ll.GGML_TYPE_F32
        params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
    context = ll.llama_init_from_model(model, params)
    batch = ll.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
        batch.seq_id[i][0] = 0
    if ll.llama_decode(context, batch) != 0:
        raise SystemExit("peer_kl: llama_decode failed")
    vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
    out = np.ctypeslib.as_array(ll.llama_get_logits(context), (len(tokens), vocabulary)).astype(np.float64)
    ll.llama_batch_free(batch)
    ll.llama_free(context)
    ll.llama_model_free(model)
    return out


def log_probabilities(rows):
    rows = rows - rows.max(axis=1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


def divergence(base, other):
    base, other = log_probabilities(base), log_probabilities(other)
    return (np.exp(base) * (base - other)).sum(axis=1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("larder")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ll.llama_log_set(QUIET, None)
    ll.llama_backend_init()

    tokens, bos = tokenize(load(options.model, only_vocabulary=True), options.text.read_text())
    tokens = tokens[:options.tokens]
    if len(tokens) < 2:
        raise SystemExit(f"peer_kl: {options.text} has less than two tokens")
    window = len(tokens)
    own = json.loads(subprocess.run(
        [options.larder, "eval", "kl", "--json", "--model", options.model, "--text", options.text, "--window", str(window),
         "--stride", str(window), "--max-tokens", str(window), "--threads", str(options.threads)],
        check=True, stdout=subprocess.PIPE, text=True).stdout)
    # The last token is only predicted; the first is not scored.
    inputs = ([] if bos is None else [bos]) + tokens[:-1]
    first_row = 0 if bos is None else 1
    with tempfile.TemporaryDirectory() as folder:
        exact_file = pathlib.Path(folder) / "exact.gguf"
        subprocess.run([options.larder, "quantize", options.model, exact_file, "--type", "f32"], check=True,
                       stdout=subprocess.DEVNULL)
        exact = logits(exact_file, inputs, options.threads, True)
    kl = divergence(exact, logits(options.model, inputs, options.threads, False))[first_row:]
    if own["scored"] != len(kl):
        raise SystemExit(f"peer_kl: Larder scored {own['scored']} positions, llama.cpp {len(kl)}; the token lists differ")
    result = {"model": options.model.name, "text": options.text.name, "positions": len(kl), "cache": "f16",
              "larder": {"mean": own["kl_mean"], "error": own["kl_mean_error"], "worst": own["kl_worst"]},
              "llama.cpp": {"mean": float(kl.mean()), "error": float(kl.std(ddof=1) / len(kl)**0.5), "worst": float(kl.max())},
              "ratio": own["kl_mean"] / float(kl.mean())}
    if options.json:
        print(json.dumps(result))
        return
    print(f"{result['model']}, first {len(tokens)} tokens of {result['text']}, f16 cache, KL(exact || fast)")
    for engine in ("larder", "llama.cpp"):
        row = result[engine]
        print(f"  {engine:10} mean {row['mean']:.3e} +- {row['error']:.1e}, worst {row['worst']:.3e}")
    print(f"  ratio      {result['ratio']:.2f}")


if __name__ == "__main__":
    main()
