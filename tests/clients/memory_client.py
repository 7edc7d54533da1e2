#!/usr/bin/env python3
"""Does the process stay within its limit, by the operating system's count, and does bad input leave nothing behind?

    memory_client.py --limit BYTES [--requests N]

Takes LARDER_URL and LARDER_PID from the environment (run_with_server.py). BYTES is the --kv-limit the server was given.
First many different prompts, several times what the limit holds: resident memory may grow by the limit and a fixed overhead
(buffers of the largest step, connections, the allocator's slack). Then hundreds of malformed requests: each is refused, and
afterwards resident memory is where it was.
"""
import argparse
import json
import os
import random
import urllib.error
import urllib.request

OVERHEAD = 64 << 20
URL = os.environ["LARDER_URL"]


def resident():
    with open(f"/proc/{os.environ['LARDER_PID']}/status", encoding="ascii") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise SystemExit("no VmRSS")


def post(path, body):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def used():
    with urllib.request.urlopen(URL + "/v1/cache/stats", timeout=60) as answer:
        return json.loads(answer.read())["memory"]["used_bytes"]


def fill(randomness, tokens, vocabulary):
    prompt = [randomness.randrange(vocabulary) for _ in range(tokens)]
    status, answer = post("/v1/completions", {"prompt": prompt, "max_tokens": 2, "temperature": 0})
    assert status == 200, answer


def malformed(randomness):
    good = {"prompt": "a", "max_tokens": 1}
    fields = ["prompt", "max_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs", "stream", "logit_bias", "echo"]
    wrong = [{"a": 1}, [[["deep"]]], "\u0000text", -(10**30), 1e300, [None], {"x": {"y": []}}]
    kind = randomness.randrange(4)
    if kind == 0:
        text = json.dumps(good).encode()
        return text[: randomness.randrange(1, len(text) - 1)]
    if kind == 1:
        return bytes(randomness.randrange(256) for _ in range(randomness.randrange(1, 4000)))
    if kind == 2:
        return b"[" * randomness.randrange(1, 50000)
    field = randomness.choice(fields[1:5])
    return {**good, field: randomness.choice(wrong)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int, required=True)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--tokens", type=int, default=600)
    parser.add_argument("--vocabulary", type=int, default=300)
    arguments = parser.parse_args()
    randomness = random.Random(5)

    fill(randomness, arguments.tokens, arguments.vocabulary)  # what a first request takes for good
    start, start_used = resident(), used()
    highest = start
    for _ in range(arguments.requests):
        fill(randomness, arguments.tokens, arguments.vocabulary)
        highest = max(highest, resident())
        assert used() <= arguments.limit, f"{used()} bytes used, {arguments.limit} allowed"
    print(f"resident {start >> 20} MiB after the first prompt, {highest >> 20} MiB at most; limit {arguments.limit >> 20} MiB")
    assert highest - start <= arguments.limit - start_used + OVERHEAD, "more memory than the limit and the stated overhead"
    assert used() > arguments.limit // 2, "the prompts should have filled the cache"

    before = resident()
    refused = 0
    for _ in range(400):
        status, answer = post("/v1/completions", malformed(randomness))
        if status != 200:
            assert 400 <= status < 500 and answer["error"]["message"], (status, answer)
            refused += 1
    after = resident()
    print(f"{refused} malformed requests refused; resident {before >> 20} MiB before, {after >> 20} MiB after")
    assert refused >= 300
    assert after - before <= 8 << 20, "malformed requests left memory behind"
    fill(randomness, arguments.tokens, arguments.vocabulary)


if __name__ == "__main__":
    main()
