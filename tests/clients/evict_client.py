#!/usr/bin/env python3
"""Do eviction methods work over HTTP, do they give memory back, and do they leave everybody else's answers alone?

    evict_client.py [--windows]

Takes LARDER_URL from the environment (run_with_server.py). --windows: the model has window layers, which the ladder refuses.
"""
import argparse
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request

URL = os.environ["LARDER_URL"]
RANDOM = random.Random(5)


def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, data, {"Content-Type": "application/json"}), timeout=300) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def complete(prompt, evict=None, tokens=16, fields=None, **more):
    larder = {"explain": True, **(fields or {})}
    if evict is not None:
        larder["evict"] = evict
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "return_token_ids": True, "logprobs": 0, "larder": larder}
    return call("/v1/completions", {**body, **more})


def good(*arguments, **named):
    status, answer = complete(*arguments, **named)
    assert status == 200, (status, answer)
    choice = answer["choices"][0]
    return (choice["token_ids"], choice["logprobs"]["token_logprobs"]), answer["larder"]["cache"], answer["usage"]


def text(tokens):
    return [RANDOM.randrange(5, 200) for _ in range(tokens)]


def stats():
    return call("/v1/cache/stats")[1]["memory"]


def states():
    return call("/v1/cache/stats")[1]["states"]


def until(holds):
    """The figures are those of the engine's last whole step, which may end after the answer has gone out."""
    for _ in range(200):
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(stats())


def readable(method, prompt, windows):
    """Rows that may come from the cache: the method chooses when the last one runs, and a window layer does not hold what
    the observation rows look back at."""
    if method == "h2o":
        return 0
    return len(prompt) - 32 if windows and method == "snapkv" else len(prompt) - 1


def answers_and_memory(prompt, windows):
    full, plain, _ = good(prompt)
    assert plain["held"]["private_bytes"] == 0 and plain["held"]["shared_bytes"] > 0, plain
    assert "evict" not in plain
    for method in ("snapkv", "streaming", "keynorm", "random", "h2o"):
        same, _, _ = good(prompt, f"{method}:budget=100000")
        assert same == full, method
        _, cache, usage = good(prompt, f"{method}:budget=64,last=8")
        held = cache["held"]
        assert held["entries"] <= 72, held
        assert cache["written"] == 0, cache
        assert usage["prompt_tokens_details"]["cached_tokens"] == readable(method, prompt, windows), (method, usage)
        assert cache["evict"].startswith(method)
        read = readable(method, prompt, windows)
        expected = None if read == len(prompt) - 1 else {"reason": "method", "token": read}
        assert cache["miss"] == expected, (method, cache)
    _, cold, _ = good(text(len(prompt)), "snapkv:budget=64")
    assert cold["held"]["private_bytes"] * 2 < cold["held"]["peak_private_bytes"], cold
    until(lambda: stats()["private_bytes"] == 0)
    until(lambda: call("/v1/cache/stats")[1]["misses"].get("method", 0) > 0)
    assert good(prompt)[0] == full


def refusals(prompt, windows):
    for wrong in ("nosuch", "snapkv:budget=x", "snapkv:windw=3", "h2o:budget=0"):
        status, answer = complete(prompt, wrong)
        assert status == 400 and answer["error"]["message"], (wrong, status, answer)
    assert "snapkv" in complete(prompt, "nosuch")[1]["error"]["message"]
    status, _ = complete(prompt, "lacache:budget=64,span=1")
    assert status == (400 if windows else 200), status


def endless_stream(context):
    _, cache, usage = good(text(context + 300), "lacache:budget=64,span=1,chunk=64", tokens=context)
    assert usage["completion_tokens"] == context and usage["prompt_tokens"] == context + 300, usage
    assert cache["held"]["entries"] <= 66, cache


def two_turns(windows):
    keep = {"keep_state": True}
    methods = ["snapkv:budget=64,window=16", "h2o:budget=64", "streaming:budget=64"]
    for method in methods + ([] if windows else ["lacache:budget=64,span=1"]):
        call("/v1/cache/clear", {})
        until(lambda: states()["count"] == 0 and states()["bytes"] == 0)
        before = states()
        first, question = text(200), text(40)
        (reply, _), _, _ = good(first, method, fields=keep)
        now = states()
        rows = len(first) + len(reply) - 1  # the last token has not been run
        assert now["count"] == 1 and now["tokens"] == rows and 0 < now["bytes"] <= now["limit_bytes"], now
        (listed,) = call("/v1/cache/states")[1]["data"]
        assert listed["tokens"] == rows and listed["bytes"] == now["bytes"] and listed["method"].startswith(method.split(":")[0]), listed
        second = first + reply + question
        answer, cache, usage = good(second, method, fields=keep)
        assert cache["read"]["states"] == cache["state"]["tokens"] == rows and cache["read"]["memory"] == 0, cache
        assert cache["recomputed"] == len(second) - rows and cache["state"]["entries"] < rows, cache
        assert usage["prompt_tokens_details"]["cached_tokens"] == rows, usage
        again, _, _ = good(second, method, fields=keep)
        assert again == answer, method
        now = states()
        assert now["hits"] == before["hits"] + 2 and now["hit_tokens"] == before["hit_tokens"] + 2 * rows, (before, now)
        for other, fields in ((method, None), (None, None), (method.replace("64", "65"), keep)):
            _, cache, _ = good(second, other, fields=fields)
            assert "state" not in cache and "states" not in cache["read"], (other, cache)
    assert call("/v1/cache/wipe", {})[0] == 200
    until(lambda: states()["count"] == 0 and states()["bytes"] == 0)
    assert complete(text(10), fields=keep)[0] == 400
    assert complete(text(10), "snapkv", fields={"keep_state": 1})[0] == 400


def neighbours(prompt):
    full, _, _ = good(prompt, tokens=48)
    seen = []

    def ask(evict, own):
        seen.append((evict, good(own, evict, tokens=48)[0]))

    crowd = [("snapkv:budget=32,window=16", prompt), ("h2o:budget=32", prompt), (None, prompt), ("streaming:budget=32", text(150)), (None, prompt)]
    threads = [threading.Thread(target=ask, args=one) for one in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == len(crowd)
    assert all(answer == full for evict, answer in seen if evict is None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", action="store_true")
    arguments = parser.parse_args()
    context = call("/v1/models")[1]["data"][0].get("max_model_len")
    prompt = text(300)
    answers_and_memory(prompt, arguments.windows)
    refusals(prompt, arguments.windows)
    if not arguments.windows:
        endless_stream(context)
    neighbours(prompt)
    two_turns(arguments.windows)
    print("ok")


if __name__ == "__main__":
    main()
