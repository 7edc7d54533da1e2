#!/usr/bin/env python3
"""Do hints work for the openai package against a real server, and do they leave the answers alone?

Takes LARDER_URL and OPENAI_API_KEY from the environment (run_with_server.py). The server must have so small a cache
(--kv-limit) that the flood below evicts what nothing protects.
"""
import json
import os
import random
import urllib.error
import urllib.request

import openai

URL = os.environ["LARDER_URL"]
KEY = os.environ.get("OPENAI_API_KEY", "none")
CLIENT = openai.OpenAI(base_url=URL + "/v1", api_key=KEY, max_retries=0, timeout=120)
MODEL = CLIENT.models.list().data[0].id
RANDOM = random.Random(11)


def call(path, body=None):
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(URL + path, data, headers), timeout=120) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def good(path, body=None):
    status, answer = call(path, body)
    assert status == 200, (path, status, answer)
    return answer


def text(tokens=200):
    return [RANDOM.randrange(200) for _ in range(tokens)]


def complete(prompt, larder=None, **fields):
    extra = {"larder": {"explain": True} | (larder or {})} | fields
    return CLIENT.completions.create(model=MODEL, prompt=prompt, max_tokens=4, temperature=0, extra_body=extra)


def cached(prompt):
    """Tokens in memory, asked without touching them."""
    found = good("/v1/cache/lmcache/lookup", {"tokens": prompt})["layout_info"]
    return found["larder"][1] if found else 0


def flood():
    """Other texts, until more was evicted than memory holds."""
    stats = good("/v1/cache/stats")
    enough = stats["blocks"]["evicted"] + 2 * stats["blocks"]["total"] + 60
    limit = stats["memory"]["limit_bytes"]
    for _ in range(1000):
        complete(text(400))
        stats = good("/v1/cache/stats")
        assert stats["memory"]["used_bytes"] <= limit
        if stats["blocks"]["evicted"] > enough:
            return
    raise AssertionError("the flood evicts nothing")


def check_hints_change_no_answer():
    prompt = text()
    plain = complete(prompt)
    hinted = complete(prompt, {"program_id": "p", "step": 1, "this_tool": "search",
                               "cache_control": {"ttl_ms": 60_000, "priority": 90, "ranges": [{"start": 0, "end": 64}]}},
                      prompt_cache_key="k", prompt_cache_retention="24h", cache_control={"type": "ephemeral"})
    assert hinted.choices[0].text == plain.choices[0].text
    leases = hinted.larder["lease"]
    assert len(leases) == 4 and all(lease["status"] == "accepted" for lease in leases), leases
    assert {lease["ttl_ms"] for lease in leases} == {60_000, 86_400_000, 300_000}
    done = complete(prompt, {"program_id": "p", "is_last_step": True})
    assert done.choices[0].text == plain.choices[0].text and "lease" not in done.larder
    held = good("/v1/cache/leases")["leases"]
    assert not [lease for lease in held if lease["kind"] == "turn"], held
    good("/v1/cache/clear", {})
    assert good("/v1/cache/leases")["leases"] == []


def check_pins_survive_a_flood():
    pinned, plain = text(), text()
    complete(pinned)
    complete(plain)
    answer = good("/v1/cache/hints", {"action": "pin", "target": {"tokens": pinned}, "ttl_ms": 600_000, "program_id": "me"})
    assert answer == {"status": "accepted", "tokens": len(pinned), "reason": None}, answer
    flood()
    assert cached(pinned) == len(pinned) and cached(plain) < 64, "a few first tokens may agree with another text"
    again = complete(pinned)
    assert again.usage.prompt_tokens_details.cached_tokens >= len(pinned) - 1
    assert good("/v1/cache/hints", {"action": "unpin", "target": {"program_id": "me"}})["status"] == "accepted"
    assert good("/v1/cache/hints", {"action": "evict", "target": {"tokens": pinned}})["tokens"] >= 0
    flood()
    assert cached(pinned) < 64


def check_a_program_keeps_its_turn():
    turn, other = text(), text()
    complete(turn, {"program_id": "agent"})
    complete(other)
    flood()
    assert cached(turn) == len(turn) and cached(other) < 64, "the turn has a lease, the other text has none"
    # The next turn does not continue the old one: its protection is gone.
    complete(turn[:64] + text(), {"program_id": "agent"})
    flood()
    assert cached(turn) < len(turn)
    complete(turn[:64], {"program_id": "agent", "is_last_step": True})


def check_events_mirror_the_cache():
    known, after = {}, ""
    for _ in range(3):
        complete(text(300))
        while True:
            page = good(f"/v1/cache/events?limit=5&after={after}")
            if page["reset"]:
                known.clear()
            for event in page["events"]:
                if event["type"] == "stored":
                    known.setdefault(event["block"], set()).update(event["kinds"])
                    assert len(event["tokens"]) == event["rows"]
                elif event["type"] == "removed":
                    left = known.get(event["block"], set())
                    left -= set(event["kinds"])
                    if not left:
                        known.pop(event["block"], None)
                else:
                    known.clear()
            if page["next"] == after:
                break
            after = page["next"]
        blocks = {block["name"]: set(block["kinds"]) for block in good("/v1/cache/blocks?limit=10000")["blocks"] if block["sealed"]}
        assert known == blocks, (len(known), len(blocks))


def check_malformed():
    wrong = [{}, {"action": "pin"}, {"action": "x", "target": {"prompt": "a"}}, {"action": "pin", "target": {"tokens": [10**9]}},
             {"action": "pin", "target": {"block": "00"}}, {"action": "pin", "target": {"prompt": "a"}, "ttl_ms": -1}, b"[", b"\xff"]
    for body in wrong:
        status, answer = call("/v1/cache/hints", body)
        assert status == 400 and answer["error"]["message"], (body, status, answer)
    assert call("/v1/cache/events?after=nonsense")[0] == 400
    for extra in ({"cache_control": {"type": "x"}}, {"larder": {"cache_control": {"priority": 900}}}, {"prompt_cache_retention": "ever"}):
        try:
            CLIENT.completions.create(model=MODEL, prompt=[1], max_tokens=1, extra_body=extra)
        except openai.BadRequestError as error:
            assert error.param, error
        else:
            raise AssertionError(f"{extra} was accepted")
    assert good("/v1/cache/hints", {"action": "prefetch", "target": {"tokens": text()}})["status"] in ("rejected", "deferred")
    assert call("/v1/cache/lmcache/compress", {"instance_id": "larder", "method": "x", "location": "LocalCPUBackend"})[0] == 501


def main():
    checks = [(name, check) for name, check in globals().items() if name.startswith("check_")]
    for name, check in checks:
        check()
        print(name, "ok")


if __name__ == "__main__":
    main()
