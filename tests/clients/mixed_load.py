#!/usr/bin/env python3
"""Methods, chunks and exact requests of two tenants at once, in too little memory: does anybody's answer change by a bit?

    mixed_load.py --larder PROGRAM --model FILE [--kv-limit 2M] [--seconds 20] [--workers 4] [--windows] [--seed 1]

Two servers run beside each other, one with 16-bit rows, one with 4-bit blocks. First every request is asked alone, with an
empty cache. Then workers of both tenants ask them in a closed loop: exact ones (greedy, sampled, two choices), ones that evict,
ones that blend stored chunks, while chunks are stored again and clients leave early. Checked:
  - tokens and log-probabilities are those of the request alone, to the last bit; what a client got before it left begins them;
  - a blended answer depends on the chunks that were there: with all of them, or none, it is the one taken alone, else that of
    whoever first had the same ones;
  - used_bytes is never above limit_bytes, nor do chunks take more than their share;
  - at the end nothing runs, waits or is held, and what the tenants clear is gone to the last block.
A run without evicted blocks, or without one kind of request, fails too: it would have shown nothing.
--windows: the model has window layers, which methods by rank refuse.
"""
import argparse
import collections
import http.client
import json
import pathlib
import random
import sys
import tempfile
import threading
import time
import traceback

from marked_load import Api, Leak
from run_with_server import Broken, Server

CHUNK_TOKENS = (96, 130, 160)
METHODS = ["snapkv:budget=48,window=16", "adakv:budget=0.3", "h2o:budget=64", "h2o:budget=0.5,sinks=4", "streaming:budget=40",
           "kvmerger:budget=0.5", "streaming:budget=0.4,sinks=2", "keynorm:budget=0.3", "random:budget=64",
           "cake:budget=48,window=16", "mikv:budget=48,window=16"]
# These read keys by their rank, which neither window layers nor a codec allow.
BY_RANK = ["streaming:budget=64,positions=rank,chunk=64", "lacache:budget=64,span=1", "lacache:budget=96,span=1,chunk=64"]


class Case:
    """One request, and its answers by the chunks that stood in for rows of it: () for none."""

    def __init__(self, kind, prompt, larder, chunks=(), **sampling):
        self.kind, self.chunks = kind, chunks
        self.body = {"prompt": prompt, "temperature": 0, "ignore_eos": True, "logprobs": 0, "return_token_ids": True,
                     "larder": larder | {"explain": True}} | sampling
        self.answers = {}


def make_cases(rng, vocabulary, methods):
    def text(tokens):
        return [rng.randrange(5, vocabulary) for _ in range(tokens)]

    beginnings = [text(170) for _ in range(3)]
    prompts = [rng.choice(beginnings)[: rng.randint(60, 170)] + text(rng.randint(3, 90)) for _ in range(12)]
    cases = [Case("exact", prompt, {}, max_tokens=rng.randint(4, 32)) for prompt in prompts]
    cases += [Case("exact", prompt, {}, max_tokens=12, n=2, temperature=0.8, seed=rng.randint(1, 9)) for prompt in prompts[:3]]
    cases += [Case("evicting", rng.choice(prompts), {"evict": method}, max_tokens=rng.randint(4, 32)) for method in methods]
    chunks = [text(rng.choice(CHUNK_TOKENS)) for _ in range(8)]
    for ratio in (0, 0.1, 0.2, 0.2, 0.5, 1):
        wanted = rng.sample(chunks, rng.randint(1, 3))
        prompt = sum(([*text(3), *chunk] for chunk in wanted), []) + text(10)
        cases.append(Case("blended", prompt, {"reuse": f"blend:ratio={ratio}"}, wanted, max_tokens=rng.randint(4, 24)))
    return cases, chunks


class PatientApi(Api):
    """Counts why it had to send a request again."""

    def __init__(self, url, key, count):
        super().__init__(url, key)
        self.count = count

    def busy(self, status, text):
        self.count(f"answered {status}")


class Answer:
    def __init__(self):
        self.choices = collections.defaultdict(lambda: ([], []))
        self.cache = {}

    def add(self, event):
        if "error" in event:
            raise Leak(f"a stream ended with {event['error']}")
        for choice in event.get("choices", []):
            ids, logprobs = self.choices[choice["index"]]
            ids += choice.get("token_ids") or []
            logprobs += (choice.get("logprobs") or {}).get("token_logprobs") or []
        self.cache = (event.get("larder") or {}).get("cache") or self.cache

    def chunks(self):
        return tuple((use["begin"], use["tokens"]) for use in self.cache.get("blend", {}).get("chunks", []))

    def bits(self):
        return {index: (ids, logprobs) for index, (ids, logprobs) in sorted(self.choices.items())}

    def begins(self, whole):
        return all(ids == whole[index][0][: len(ids)] and logprobs == whole[index][1][: len(logprobs)]
                   for index, (ids, logprobs) in self.choices.items())


def ask(api, case, events_wanted=None, stream=False):
    answer = Answer()
    if not stream:
        answer.add(api.call("POST", "/v1/completions", case.body))
        return answer
    for event in api.stream("/v1/completions", case.body, events_wanted):
        answer.add(event)
    return answer


class Load:
    """One server, its requests and what came of them."""

    def __init__(self, arguments, name, folder, kv_type, methods):
        self.name, self.arguments = name, arguments
        folder = pathlib.Path(folder) / name
        folder.mkdir()
        options = [f"--kv-type={kv_type}", f"--kv-limit={arguments.kv_limit}", "--max-running=16"]
        self.server = Server(argparse.Namespace(larder=arguments.larder, model=arguments.model, tenants=2, tls=False, serve=options), folder)
        self.methods = methods
        self.lock = threading.Lock()
        self.counts = collections.Counter()
        self.problems = []
        self.peak = 0
        self.stop = threading.Event()

    def api(self, tenant):
        return PatientApi(self.server.url, self.server.keys[tenant], self.count)

    def stats(self):
        return self.server.get("/v1/cache/stats")

    def clear(self):
        for tenant in self.server.keys:
            self.api(tenant).call("POST", "/v1/cache/clear", {})

    def take_references(self):
        api = self.api("tenant-0")
        self.cases, self.chunks = make_cases(random.Random(self.arguments.seed), self.arguments.vocabulary, self.methods)
        for case in self.cases:
            self.clear()
            if case.chunks:
                case.answers[()] = ask(api, case).bits()
                self.store(api, case.chunks)
            answer = ask(api, case)
            if len(answer.chunks()) != len(case.chunks):
                raise Leak(f"{len(case.chunks)} chunks were stored, {answer.chunks()} used")
            case.answers[answer.chunks()] = answer.bits()
        self.clear()
        self.counts.clear()

    def begin(self):
        self.threads = [threading.Thread(target=self.guard, args=(self.poll,), daemon=True)]
        for tenant in self.server.keys:
            for number in range(self.arguments.workers):
                self.threads.append(threading.Thread(target=self.guard, args=(self.work, tenant, number), daemon=True))
        for thread in self.threads:
            thread.start()

    def guard(self, target, *arguments):
        try:
            target(*arguments)
        except Leak as leak:
            self.problems.append(f"{self.name}: {leak}")
        except Exception:
            self.problems.append(f"{self.name}: {traceback.format_exc()}")
        if self.problems:
            self.stop.set()

    def count(self, what):
        with self.lock:
            self.counts[what] += 1

    # What runs beside each other.

    def poll(self):
        while not self.stop.wait(0.05):
            stats = self.stats()
            memory, chunks = stats["memory"], stats["chunks"]
            self.peak = max(self.peak, memory["used_bytes"])
            self.count("looks at the bytes")
            if memory["used_bytes"] > memory["limit_bytes"] or chunks["bytes"] > chunks["limit_bytes"]:
                raise Leak(f"a limit was not kept: {memory}, {chunks}")

    def work(self, tenant, number):
        rng = random.Random(f"{self.arguments.seed}/{self.name}/{tenant}/{number}")
        api = self.api(tenant)
        while not self.stop.is_set():
            rng.choices([self.whole, self.leave, self.vanish, self.store_any], [12, 2, 1, 2])[0](api, rng)
        api.close()

    def whole(self, api, rng):
        case = rng.choice(self.cases)
        if case.chunks and rng.random() < 0.5:
            self.store(api, case.chunks)
        answer = ask(api, case, stream=rng.random() < 0.5)
        self.compare(case, answer)
        self.count(case.kind)

    def leave(self, api, rng):
        case = rng.choice([case for case in self.cases if not case.chunks])
        answer = ask(api, case, events_wanted=rng.randint(1, 6), stream=True)
        if not answer.begins(case.answers[()]):
            self.differs(case, answer, case.answers[()])
        self.count("left early")

    def vanish(self, api, rng):
        """Leaves before the first byte of an answer: while the request waits, or in the middle of its prompt."""
        connection = http.client.HTTPConnection(api.host, api.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(rng.choice(self.cases).body), api.headers)
        time.sleep(rng.random() * 0.05)
        connection.close()
        self.count("left unanswered")

    def store(self, api, chunks):
        api.call("POST", "/v1/cache/chunks", {"chunks": chunks})
        self.count("chunks stored")

    def store_any(self, api, rng):
        self.store(api, rng.sample(self.chunks, 2))

    def compare(self, case, answer):
        with self.lock:
            used = answer.chunks()
            self.counts["blended, all chunks there"] += bool(used) and len(used) == len(case.chunks)
            self.counts["blended, some chunks gone"] += 0 < len(used) < len(case.chunks)
            known = case.answers.setdefault(used, answer.bits())
        if answer.bits() != known:
            self.differs(case, answer, known)

    def differs(self, case, answer, known):
        raise Leak(f"another answer to {json.dumps(case.body)}\nwith {answer.cache}\nalone: {known}\nnow:   {answer.bits()}")

    # Before and after.

    def end(self):
        """Ends the workers and sees that nothing is left of them."""
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if self.problems:
            return
        self.server.wait_until_idle()
        busy = self.stats()
        self.clear()
        for _ in range(200):  # the figures are those of the engine's last whole step
            stats = self.stats()
            left = {"held blocks": stats["blocks"]["held"], "private bytes": stats["memory"]["private_bytes"],
                    "borrowed bytes": stats["memory"]["borrowed_bytes"], "blocks after clearing": stats["blocks"]["total"],
                    "chunks after clearing": stats["chunks"]["count"], "sequences": stats["blocks"]["sequences"]}
            if not any(left.values()):
                break
            time.sleep(0.05)
        else:
            self.problems.append(f"{self.name}: left at the end: {left}")
        self.shown(busy)
        self.server.stop()

    def shown(self, stats):
        requests, memory = stats["requests"], stats["memory"]
        print(f"{self.name}: {', '.join(f'{name}: {count}' for name, count in sorted(self.counts.items()))}; most bytes seen "
              f"{self.peak} of {memory['limit_bytes']}, blocks evicted {stats['blocks']['evicted']}, chunks evicted "
              f"{stats['chunks']['evicted']}, preemptions {requests['preemptions']}, cancelled {requests['cancelled']}, "
              f"failed {requests['failed']}")
        self.problems += [f"{self.name}: no {kind}: the run has shown nothing" for kind in self.missing(stats)]

    def missing(self, stats):
        wanted = ["exact", "evicting", "blended", "blended, all chunks there", "chunks stored", "left early", "left unanswered"]
        return [kind for kind in wanted if not self.counts[kind]] + ["evicted block"] * (not stats["blocks"]["evicted"])


def run(arguments, loads):
    for load in loads:
        load.server.wait_until_ready()
        load.take_references()
    for load in loads:
        load.begin()
    begin = time.monotonic()
    while not any(load.stop.is_set() for load in loads):
        seconds = time.monotonic() - begin
        # On a slow machine, or under a sanitizer, it takes longer until everything has happened once.
        if seconds > arguments.seconds + 300 or (seconds > arguments.seconds and not any(load.missing(load.stats()) for load in loads)):
            break
        time.sleep(0.1)
    for load in loads:
        load.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--larder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--kv-limit", default="2M", help="of each server")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=4, help="of each tenant and server")
    parser.add_argument("--vocabulary", type=int, default=200, help="prompts are of tokens below it")
    parser.add_argument("--windows", action="store_true", help="the model has window layers")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="larder-mixed-") as folder:
        loads = []
        try:
            loads.append(Load(arguments, "f16", folder, "f16", METHODS + BY_RANK * (not arguments.windows)))
            loads.append(Load(arguments, "t4", folder, "t4:center=0", METHODS))
            run(arguments, loads)
        except (Broken, Leak) as problem:
            loads[-1].problems.append(str(problem))
        finally:
            for load in loads:
                if load.server.process.poll() is None:
                    load.server.process.kill()
                    load.server.process.wait()
        problems = [problem for load in loads for problem in load.problems]
        if problems:
            logs = [f"The end of the log of {load.name}:\n" + "\n".join(load.server.log().splitlines()[-20:]) for load in loads]
            sys.exit("\n".join(problems + logs))
    print("ok")


if __name__ == "__main__":
    main()
