#!/usr/bin/env python3
"""Do stored chunks work over HTTP with the openai package: storing, finding, labels, tenants, errors?

Takes LARDER_URL and LARDER_KEYS from the environment (run_with_server.py). Chats are checked where the
model has a template.
"""
import json
import os
import pathlib
import subprocess
import sys
import urllib.error
import urllib.request

import openai

URL = os.environ["LARDER_URL"]
KEYS = [pair.split("=")[1] for pair in os.environ["LARDER_KEYS"].split(",") if pair] or ["none"]
EXAMPLE = pathlib.Path(__file__).resolve().parents[2] / "examples" / "rag.py"
TEXTS = ["".join(f"The {what} of house {i} has {(7 * i) % 12 + 1} doors. " for i in range(30)) for what in ("kitchen", "cellar")]


def call(path, body=None, key=0):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, {"Content-Type": "application/json", "Authorization": f"Bearer {KEYS[key]}"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def connect(key=0):
    return openai.OpenAI(base_url=URL + "/v1", api_key=KEYS[key], max_retries=0, timeout=300)


def tokens_of(text):
    status, answer = call("/tokenize", {"prompt": text, "add_special_tokens": False})
    assert status == 200, answer
    return answer["tokens"]


def complete(prompt, reuse, key=0, explain=True, **more):
    larder = {"explain": explain} | ({"reuse": reuse} if reuse else {})
    answer = connect(key).completions.create(
        model="any", prompt=prompt, max_tokens=8, temperature=0, logprobs=0,
        extra_body={"ignore_eos": True, "return_token_ids": True, "larder": larder}, **more)
    return answer


def bits(answer):
    choice = answer.choices[0]
    return choice.model_extra["token_ids"], choice.logprobs.token_logprobs


def storing():
    status, answer = call("/v1/cache/chunks", {"model": "any", "chunks": TEXTS})
    assert status == 200, answer
    first, second = answer["data"]
    assert first["state"] == second["state"] == "stored" and first["id"] != second["id"], answer
    assert first["tokens"] == len(tokens_of(TEXTS[0])) and first["bytes"] > 0, answer
    status, again = call("/v1/cache/chunks", {"text": TEXTS[0]})
    assert again["data"] == [first | {"state": "present"}], again
    status, other = call("/v1/cache/chunks", {"tokens": tokens_of(TEXTS[0]), "prefix": "Behind this. "})
    assert status == 200 and other["data"][0]["id"] != first["id"], other
    status, listed = call("/v1/cache/chunks")
    expected = [(one["id"], one["tokens"], one["bytes"]) for one in (first, second, other["data"][0])]
    assert sorted((one["id"], one["tokens"], one["bytes"]) for one in listed["data"]) == sorted(expected), listed
    assert all(one["in_memory"] and not one["below"] for one in listed["data"]) and not listed["pending"], listed
    assert call(f"/v1/cache/chunks?limit=2&after={listed['data'][0]['id']}")[1]["data"] == listed["data"][1:], listed
    stats = call("/v1/cache/stats")[1]["chunks"]
    assert stats["count"] == 3 and 0 < stats["bytes"] <= stats["limit_bytes"], stats
    return first, second


def blending(first, second):
    prompt = tokens_of("Some words before. ") + tokens_of(TEXTS[1]) + tokens_of(TEXTS[0]) + tokens_of("Which house has the most doors?")
    exact = complete(prompt, None)
    cache = exact.model_extra["larder"]["cache"]
    assert "blend" not in cache and "approximate" not in exact.model_extra["larder"], cache
    blended = complete(prompt, "blend:ratio=0.25")
    told = blended.model_extra["larder"]
    cache = told["cache"]
    blend = cache["blend"]
    assert told["approximate"] is True and blend["approximate"] is True, told
    assert blend["tokens_from_chunks"] == first["tokens"] + second["tokens"], blend
    assert [use["tokens"] for use in blend["chunks"]] == [second["tokens"], first["tokens"]], blend
    assert blend["chunks"][0]["id"] == second["id"], blend
    assert blend["recomputed_in_chunks"] == blend["tokens_from_chunks"] // 4, blend
    assert cache["read"]["chunks"] == blend["tokens_from_chunks"] - blend["recomputed_in_chunks"], cache
    assert cache["recomputed"] + cache["read"]["chunks"] + cache["read"]["memory"] == len(prompt), cache
    assert blended.usage.prompt_tokens_details.cached_tokens == cache["read"]["memory"], blended.usage
    assert cache["written"] == 0, cache
    assert bits(complete(prompt, "blend:ratio=0.25")) == bits(blended)
    assert bits(complete(prompt, "blend:ratio=1")) == bits(exact)
    assert bits(complete(prompt, None)) == bits(exact)
    silent = complete(prompt, "blend", explain=False)
    assert silent.model_extra["larder"] == {"approximate": True}, silent.model_extra
    assert (complete(prompt, None, explain=False).model_extra or {}).get("larder") is None
    labels = [chunk.model_extra["larder"] for chunk in complete(prompt, "blend", explain=False, stream=True) if (chunk.model_extra or {}).get("larder")]
    assert labels == [{"approximate": True}], labels


def tenants():
    if len(KEYS) < 2:
        return
    assert call("/v1/cache/chunks", key=1)[1]["data"] == []
    prompt = tokens_of(TEXTS[0]) + tokens_of("And?")
    before = complete(prompt, "blend:ratio=0", key=1)
    assert "blend" not in before.model_extra["larder"]["cache"], before.model_extra
    assert call("/v1/cache/chunks", {"text": TEXTS[0]}, key=1)[1]["data"][0]["state"] == "stored"
    assert complete(prompt, "blend:ratio=0", key=1).model_extra["larder"]["approximate"] is True
    assert call("/v1/cache/wipe", {}, key=1)[0] == 200
    assert bits(complete(prompt, "blend:ratio=0", key=1)) == bits(before)
    assert complete(prompt, "blend:ratio=0").model_extra["larder"]["approximate"] is True


def refusals():
    for body in ({}, {"text": "short"}, {"chunks": []}, {"text": TEXTS[0], "tokens": [1]}, {"tokens": [10**9] * 100}, {"text": 5},
                 {"text": TEXTS[0], "prefix": 5}, {"text": TEXTS[0], "prefix": ["a"]}, {"text": "word " * 100000}):
        status, answer = call("/v1/cache/chunks", body)
        assert status == 400 and answer["error"]["message"], (str(body)[:80], status, answer)
    for larder in ({"reuse": "nosuch"}, {"reuse": "blend:ratio=2"}, {"reuse": "blend:nosuch=1"}, {"reuse": "blend", "evict": "streaming"}):
        status, answer = call("/v1/completions", {"prompt": [1, 2, 3], "larder": larder})
        assert status in (400, 501) and answer["error"]["message"], (larder, status, answer)
    assert call("/v1/cache/chunks?limit=0")[0] == call("/v1/cache/chunks?after=x")[0] == 400


def chats():
    def message(mark):
        parts = [{"type": "text", "text": text} | ({"larder": mark} if mark else {}) for text in TEXTS]
        return [{"role": "user", "content": [*parts, {"type": "text", "text": "Which house has the most doors?"}]}]

    def ask(mark, reuse):
        return connect().chat.completions.create(model="any", messages=message(mark), max_tokens=4, temperature=0,
                                                 extra_body={"larder": {"reuse": reuse, "explain": True}})

    call("/v1/cache/clear", {})
    told = ask({"chunk": True}, "blend:ratio=0.1").model_extra["larder"]["cache"]
    assert len(told["blend"]["chunks"]) == 2 and told["blend"]["stored_for_it"] > 0, told
    again = ask({"chunk": True}, "blend:ratio=0.1").model_extra["larder"]["cache"]
    assert again["blend"]["stored_for_it"] == 0 and again["blend"]["chunks"] == told["blend"]["chunks"], again
    assert "blend" in ask(None, "blend:ratio=0.1").model_extra["larder"]["cache"]
    assert "blend" not in ask({"chunk": True}, "prefix").model_extra["larder"]["cache"]
    for wrong in (5, {"chunk": "yes"}):
        try:
            ask(wrong, "blend")
        except openai.BadRequestError as error:
            assert "larder" in str(error)
        else:
            raise AssertionError(wrong)


def example():
    done = subprocess.run([sys.executable, EXAMPLE, "--base-url", URL + "/v1", "--api-key", KEYS[0], "--rounds", "2"], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    exact, blended = (int(line.split()[1]) for line in done.stdout.splitlines()[-2:])
    assert blended * 2 < exact, done.stdout
    assert "approximate: " in done.stdout and "exact: " in done.stdout, done.stdout


def main():
    first, second = storing()
    blending(first, second)
    tenants()
    refusals()
    if call("/tokenizer_info")[1]["chat_template"] is not None:
        chats()
        example()
    print("ok")


if __name__ == "__main__":
    main()
