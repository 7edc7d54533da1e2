#!/usr/bin/env python3
"""Random concurrent conversations of several tenants, each with a marker of its own: does anything ever cross?

    LARDER_URL=http://127.0.0.1:PORT LARDER_KEYS=tenant=key,... marked_load.py [--seconds 20] [--workers 3] [--seed 1]

Checked after every request:
  - no other conversation's marker is in the answer, no other tenant's marker in the explanation;
  - cached_tokens is not above the longest prefix that this tenant itself has sent or received: nothing came from a stranger;
  - the same prompt with the same sampling gives the same tokens, whoever asks and whatever ran beside it.
At the end nothing runs, nothing waits and no block is held. Prompts go out as token ids, so that what a prefix is can be
known here. A run in which nothing was reused, repeated or sent by two tenants fails too: it would have shown nothing.
"""
import argparse
import collections
import http.client
import json
import os
import random
import re
import sys
import threading
import time
import traceback
import urllib.parse

MARKER = re.compile(r"kx[0-9a-f]{10}")
SYSTEM = "You are the keeper of code words. Each guest tells you one, and you repeat it when asked. Tell nobody else's.\n"
WORDS = ("harbour lantern apple seven orchard quiet copper winter letter bridge garden ninety silver kettle morning basket "
         "thunder pepper velvet island").split()
LONGEST_PROMPT = 420


class Leak(Exception):
    pass


class Ledger:
    """What has been sent and received, by whom; shared by all workers."""

    def __init__(self):
        self.lock = threading.Lock()
        self.prefixes = collections.Counter()  # (tenant, prefix) as a hash -> requests that contain it
        self.answers = {}  # request as a hash -> its longest answer so far
        self.owners = {}  # marker -> (tenant, conversation)
        self.baits = collections.defaultdict(set)  # bait -> tenants that sent it
        self.counts = collections.Counter()

    @staticmethod
    def walk(tenant, ids):
        state = hash(tenant)
        for token in ids:
            state = hash((state, token))
            yield state

    def sent(self, tenant, ids):
        with self.lock:
            self.prefixes.update(self.walk(tenant, ids))

    def received(self, tenant, prompt, output):
        with self.lock:
            self.prefixes.update(list(self.walk(tenant, prompt + output))[len(prompt) :])

    def own_prefix(self, tenant, ids):
        """Tokens at the head of ids that another request of the same tenant contains as well."""
        with self.lock:
            return next((i for i, state in enumerate(self.walk(tenant, ids)) if self.prefixes[state] < 2), len(ids))

    def compare(self, key, ids):
        """Compares an answer with earlier ones to the same request; they may end at different lengths."""
        with self.lock:
            known = self.answers.get(key)
            if known is None or len(known) < len(ids):
                self.answers[key] = ids
            if known is None:
                return
            self.counts["repeated"] += 1
        common = min(len(known), len(ids))
        if known[:common] != ids[:common]:
            raise Leak(f"the same request gave {known[:common]} and then {ids[:common]}")


class Api:
    def __init__(self, url, key):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname, parts.port
        self.headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self.connection = None

    def close(self):
        if self.connection:
            self.connection.close()
        self.connection = None

    def open(self, method, path, body=None):
        """The answer to a request, sent again while the server says that it is busy."""
        while True:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.host, self.port, timeout=300)
            self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
            answer = self.connection.getresponse()
            if answer.status == 200:
                return answer
            text = answer.read().decode(errors="replace")
            if answer.status not in (429, 503):
                raise Leak(f"{method} {path} was answered with {answer.status}: {text}")
            self.busy(answer.status, text)
            time.sleep(0.2)

    def busy(self, status, text):
        """Called before a request is sent again."""

    def call(self, method, path, body=None):
        return json.loads(self.open(method, path, body).read())

    def stream(self, path, body, events_wanted):
        """Yields the events; closes the connection after events_wanted of them (a client that goes away) unless None."""
        answer = self.open("POST", path, body | {"stream": True, "stream_options": {"include_usage": True}})
        seen = 0
        for line in answer:
            if not line.startswith(b"data: ") or line.strip() == b"data: [DONE]":
                continue
            yield json.loads(line[len(b"data: ") :])
            seen += 1
            if seen == events_wanted:
                self.close()
                return


class Answer:
    def __init__(self, n):
        self.texts = [""] * n
        self.ids = [[] for _ in range(n)]
        self.usage, self.explain, self.whole = None, None, False

    def add(self, event):
        if "error" in event:
            raise Leak(f"a stream ended with {event['error']}")
        for choice in event.get("choices", []):
            piece = choice.get("text") or (choice.get("delta") or choice.get("message") or {}).get("content") or ""
            self.texts[choice["index"]] += piece
            self.ids[choice["index"]] += choice.get("token_ids") or []
        self.usage = event.get("usage") or self.usage
        self.explain = event.get("larder") or self.explain
        self.whole = self.usage is not None


class Worker(threading.Thread):
    def __init__(self, number, tenant, key, arguments, ledger, url):
        super().__init__(daemon=True)
        self.tenant, self.arguments, self.ledger = tenant, arguments, ledger
        self.rng = random.Random(f"{arguments.seed}/{number}")
        self.api = Api(url, key)
        self.history = []  # (prompt ids, marker, sampling) to be sent again
        self.conversation = 0
        self.problem = None

    def run(self):
        try:
            self.show_baits()
            while time.monotonic() < self.arguments.end and not self.arguments.stop.is_set():
                self.rng.choices([self.converse, self.chat, self.repeat, self.show_baits], [6, 2, 4, 1])[0]()
        except Leak as leak:
            self.problem = str(leak)
        except Exception:
            self.problem = traceback.format_exc()
        if self.problem:
            self.arguments.stop.set()
        self.api.close()

    # What a worker does.

    def show_baits(self):
        """Prompts that every tenant sends, word for word: shared by content, and never to be shared between tenants."""
        for bait in range(3):
            words = random.Random(f"bait {self.arguments.seed}/{bait}").choices(WORDS, k=60)
            with self.ledger.lock:
                self.ledger.baits[bait].add(self.tenant)
            self.ask(self.tokenize(SYSTEM + " ".join(words)), None, {"temperature": 0, "n": 1, "max_tokens": 4})

    def converse(self):
        marker = self.new_marker()
        prompt = self.tokenize(f"{SYSTEM}Guest: the code word is {marker}. {self.small_talk()} Repeat the code word.\nKeeper: {marker[:4]}")
        for _ in range(self.rng.randint(1, 4)):
            sampling = self.new_sampling()
            self.history = self.history[-20:] + [(prompt, marker, sampling)]
            answer = self.ask(prompt, marker, sampling)
            if not answer.whole or not answer.ids[0]:
                return
            prompt = prompt + answer.ids[0] + self.tokenize(f"\nGuest: {self.small_talk()} What was the code word?\nKeeper:")
            if len(prompt) > LONGEST_PROMPT:
                return

    def repeat(self):
        if self.history:
            self.ask(*self.rng.choice(self.history))

    def chat(self):
        if not self.arguments.chat:
            return
        marker = self.new_marker()
        messages = [{"role": "system", "content": SYSTEM},
                    {"role": "user", "content": f"The code word is {marker}. {self.small_talk()} Repeat the code word."}]
        body = {"messages": messages, **self.new_sampling(), "larder": {"explain": True}}
        self.check_texts(self.send("/v1/chat/completions", body), marker)

    # How it is done.

    def new_marker(self):
        self.conversation += 1
        marker = f"kx{self.rng.getrandbits(40):010x}"
        with self.ledger.lock:
            self.ledger.owners[marker] = (self.tenant, self.conversation)
        return marker

    def new_sampling(self):
        sampling = {"max_tokens": self.rng.randint(1, 16), "n": self.rng.choice([1, 1, 1, 2])}
        if self.rng.random() < 0.5:
            return sampling | {"temperature": 0}
        return sampling | {"temperature": 0.8, "top_p": 0.95, "seed": self.rng.randint(1, 3)}

    def small_talk(self):
        return " ".join(self.rng.choices(WORDS, k=self.rng.randint(3, 60)))

    def tokenize(self, text):
        return self.api.call("POST", "/tokenize", {"content": text, "add_special": False})["tokens"]

    def ask(self, prompt, marker, sampling):
        body = {"prompt": prompt, **sampling, "return_token_ids": True, "larder": {"explain": True}}
        self.ledger.sent(self.tenant, prompt)
        answer = self.send("/v1/completions", body)
        self.check_texts(answer, marker)
        if answer.whole:
            self.check_reuse(answer, prompt)
            counted = sum(map(len, answer.ids)) == answer.usage["completion_tokens"]
            for choice, ids in enumerate(answer.ids if counted else []):
                self.ledger.received(self.tenant, prompt, ids)
                fixed = (tuple(prompt), sampling["temperature"], sampling.get("seed"), choice)
                self.ledger.compare(hash(fixed), ids)
        return answer

    def send(self, path, body):
        answer = Answer(body["n"])
        if self.rng.random() < 0.5:
            answer.add(self.api.call("POST", path, body))
        else:
            leaves = self.rng.randint(1, 6) if self.rng.random() < 0.25 else None
            for event in self.api.stream(path, body, leaves):
                answer.add(event)
        with self.ledger.lock:
            self.ledger.counts["requests"] += 1
            self.ledger.counts["left early"] += not answer.whole
        return answer

    def check_texts(self, answer, marker):
        with self.ledger.lock:
            owners = self.ledger.owners
            for found in MARKER.findall(" ".join(answer.texts)):
                if found in owners and found != marker:
                    raise Leak(f"{self.tenant}: {found} of {owners[found]} is in the answer {answer.texts}")
                self.ledger.counts["markers repeated"] += found == marker
            for found in MARKER.findall(json.dumps(answer.explain)):
                if found in owners and owners[found][0] != self.tenant:
                    raise Leak(f"{self.tenant}: {found} of {owners[found]} is in the explanation {answer.explain}")

    def check_reuse(self, answer, prompt):
        cached = answer.usage["prompt_tokens_details"]["cached_tokens"]
        known = self.ledger.own_prefix(self.tenant, prompt)
        with self.ledger.lock:
            self.ledger.counts["tokens reused"] += cached
            self.ledger.counts["tokens asked"] += len(prompt)
        if answer.usage["prompt_tokens"] != len(prompt):
            raise Leak(f"{len(prompt)} tokens were sent, {answer.usage['prompt_tokens']} counted")
        if cached > known:
            raise Leak(f"{self.tenant}: {cached} tokens were reused, but it had sent only {known} of them before")


def check_end(api):
    """Nothing may be left running, waiting or held; cancelled requests have a moment to notice."""
    for _ in range(300):
        stats = api.call("GET", "/v1/cache/stats")
        left = {"running": stats["requests"]["running"], "waiting": stats["requests"]["waiting"],
                "held blocks": stats["blocks"]["held"]}
        if not any(left.values()):
            print(f"preemptions: {stats['requests']['preemptions']}, evicted blocks: {stats['blocks']['evicted']}")
            return []
        time.sleep(0.1)
    return [f"left at the end: {left}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--workers", type=int, default=3, help="of each tenant")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    url = os.environ["LARDER_URL"]
    keys = dict(pair.split("=") for pair in os.environ.get("LARDER_KEYS", "").split(",") if pair) or {"default": None}
    api = Api(url, next(iter(keys.values())))
    arguments.chat = bool(api.call("GET", "/tokenizer_info").get("chat_template"))
    arguments.end = time.monotonic() + arguments.seconds
    arguments.stop = threading.Event()
    ledger = Ledger()
    workers = [Worker(f"{tenant}/{i}", tenant, key, arguments, ledger, url) for tenant, key in keys.items() for i in range(arguments.workers)]
    api.close()  # else the server closes it during a long run
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    problems = [w.problem for w in workers if w.problem] or check_end(api)
    if not problems:
        crossed = all(tenants == set(keys) for tenants in ledger.baits.values()) and ledger.baits
        shown = [("reused", ledger.counts["tokens reused"]), ("repeated", ledger.counts["repeated"]), ("sent by all tenants", crossed)]
        problems = [f"nothing was {what}: the run has shown nothing" for what, happened in shown if not happened]
    print(", ".join(f"{name}: {count}" for name, count in sorted(ledger.counts.items())))
    print("\n".join(problems))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
