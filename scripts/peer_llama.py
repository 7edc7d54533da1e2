#!/usr/bin/env python3
"""llama.cpp as a peer of `larder bench`; see peer_protocol.py. Batches of 512 rows, f16 cache, flash attention in whichever
setting is the faster one."""
import ctypes

import llama_cpp as ll
import numpy as np

from peer_protocol import Timer, filler, serve

ROWS = 512  # of a batch and of a micro-batch


class Context:
    """A llama_context with its own cache: `sequences` of up to `length` tokens."""

    def __init__(self, model, threads, sequences, length, flash):
        params = ll.llama_context_default_params()
        # The cache of a sequence is a multiple of 256 rows.
        params.n_ctx = sequences * ((length + 255) // 256 * 256)
        params.n_batch = params.n_ubatch = ROWS
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = ll.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash else ll.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = ll.llama_init_from_model(model, params)
        if not self.context:
            raise RuntimeError("llama_init_from_model failed")
        self.memory = ll.llama_get_memory(self.context)
        self.vocabulary = ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(model))
        self.rows = ll.llama_batch_init(ROWS, 0, 1)

    def run(self, entries):
        """entries: (token, position, sequence, wants logits), at most ROWS of them."""
        batch = self.rows
        batch.n_tokens = len(entries)
        for i, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        if ll.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        ll.llama_synchronize(self.context)

    def append(self, tokens, sequence, wants_last):
        last = len(tokens) - 1
        for first in range(0, len(tokens), ROWS):
            self.run([(token, first + i, sequence, wants_last and first + i == last)
                      for i, token in enumerate(tokens[first:first + ROWS])])

    def logits(self, row):
        return np.ctypeslib.as_array(ctypes.cast(ll.llama_get_logits_ith(self.context, row), ctypes.POINTER(ctypes.c_float)),
                                     (self.vocabulary,))

    def greedy(self, row):
        return int(self.logits(row).argmax())

    def truncate(self, sequence, length):
        ll.llama_memory_seq_rm(self.memory, sequence, length, -1)

    def close(self):
        ll.llama_batch_free(self.rows)
        ll.llama_free(self.context)


class Llama:
    def __init__(self):
        self.standing = {}  # (sequences, context length) -> Context whose cache holds that many tokens
        self.flash = {}     # kind of measurement -> the faster setting
        self.seed = 0
        self.quiet = ll.llama_log_callback(lambda level, text, data: None)
        ll.llama_log_set(self.quiet, None)

    def load(self, path, threads, reuse):
        ll.llama_backend_init()
        self.model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.threads = threads
        return {"engine": "llama.cpp", "version": f"llama-cpp-python {ll.__version__}"}

    def tokens(self, count):
        self.seed += 1
        return filler(count, self.vocabulary(), self.seed).tolist()

    def vocabulary(self):
        return ll.llama_vocab_n_tokens(ll.llama_model_get_vocab(self.model))

    def faster(self, kind, measure):
        """The setting of flash attention under which measure(setting) takes less time, asked once for each kind."""
        if kind not in self.flash:
            seconds = {}
            for flash in (False, True):
                measure(flash)  # warm
                seconds[flash] = min(measure(flash)["seconds"] for _ in range(2))
            self.flash[kind] = min(seconds, key=seconds.get)
        return self.flash[kind]

    def note(self, kind):
        return "flash attention " + ("on" if self.flash[kind] else "off")

    def prefill(self, count):
        def once(flash, n):
            key = ("prefill", n, flash)
            if key not in self.standing:
                self.standing[key] = Context(self.model, self.threads, 1, n, flash)
            context = self.standing[key]
            ll.llama_memory_clear(context.memory, True)
            tokens = self.tokens(n)
            timer = Timer()
            context.append(tokens, 0, True)
            context.greedy(-1)
            return timer.result(n)

        flash = self.faster("prefill", lambda setting: once(setting, min(count, 1024)))
        return once(flash, count) | {"note": self.note("prefill")}

    def stand(self, sequences, length, room, flash):
        key = (sequences, length, flash)
        if key not in self.standing:
            context = Context(self.model, self.threads, sequences, length + room, flash)
            for sequence in range(sequences):
                context.append(self.tokens(length), sequence, False)
            self.standing[key] = context
        return self.standing[key]

    def batch(self, sequences, length, count):
        def once(flash, length):
            context = self.stand(sequences, length, count + 1, flash)
            for sequence in range(sequences):
                context.truncate(sequence, length)
            last = self.tokens(sequences)
            for step in range(count + 1):
                if step == 1:
                    timer = Timer()  # the first step is not measured
                context.run([(last[s], length + step, s, True) for s in range(sequences)])
                last = [context.greedy(s) for s in range(sequences)]
            return timer.result(sequences * count)

        kind = ("decode", sequences)
        flash = self.faster(kind, lambda setting: once(setting, min(length, 1024)))
        return once(flash, length) | {"note": self.note(kind)}


if __name__ == "__main__":
    serve(Llama())
