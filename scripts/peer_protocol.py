"""What the peers of `larder bench --peers` have in common: one JSON object a line on standard input, one back.

    {"load": FILE, "threads": N, "reuse": false}   -> {"engine": NAME, "version": TEXT}
    {"prefill": N}                                  -> {"seconds": S, "cpu_seconds": C, "busy_seconds": B, "tokens": N,
                                                       "note": TEXT}
    {"decode": CONTEXT, "tokens": T}                   tokens: T
    {"batch": SEQUENCES, "context": N, "tokens": T}    tokens: SEQUENCES * T

prefill: N new tokens, nothing reused, up to the logits of the last. decode: T greedy tokens, one at a time, behind CONTEXT
tokens that are in the cache already. batch: the same for several sequences in step. What is wrong comes back as
{"error": TEXT}; the end of the input ends the program.
"""
import json
import os
import sys
import time
import traceback

import numpy as np


def filler(count, vocabulary, seed):
    """Tokens without meaning: speed does not depend on them."""
    return np.random.default_rng(seed).integers(0, vocabulary, count, dtype=np.int64)


def machine_busy():
    """Seconds that all cores together have spent on anything, what a hypervisor took away included."""
    with open("/proc/stat") as stat:
        ticks = [int(t) for t in stat.readline().split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class Timer:
    """Wall time, processor time of this process and of the whole machine from here on."""

    def __init__(self):
        self.wall, self.cpu, self.busy = time.perf_counter(), time.process_time(), machine_busy()

    def result(self, tokens, note=""):
        seconds, cpu, busy = time.perf_counter() - self.wall, time.process_time() - self.cpu, machine_busy() - self.busy
        return {"seconds": seconds, "cpu_seconds": cpu, "busy_seconds": busy, "tokens": tokens, "note": note}


def handle(engine, request):
    if "load" in request:
        return engine.load(request["load"], request["threads"], request.get("reuse", False))
    if "prefill" in request:
        return engine.prefill(request["prefill"])
    if "decode" in request:
        return engine.batch(1, request["decode"], request["tokens"])
    if "batch" in request:
        return engine.batch(request["batch"], request["context"], request["tokens"])
    raise ValueError(f"unknown request: {request}")


def serve(engine):
    """Answers until the input ends. Whatever the libraries print goes nowhere: the line is ours."""
    answers = os.fdopen(os.dup(1), "w")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        try:
            answer = handle(engine, json.loads(line))
        except Exception:  # the parent decides what it means
            answer = {"error": traceback.format_exc(limit=-2).strip().splitlines()[-1]}
        print(json.dumps(answer), file=answers, flush=True)
