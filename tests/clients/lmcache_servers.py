#!/usr/bin/env python3
"""Do the calls of LMCache's controller do to two real servers what their answers say?

    lmcache_servers.py --larder PROGRAM --model FILE

Each server has a directory; where redis-server is installed they share a Redis.
"""
import shutil
import time
import urllib.error

from store_servers import BLOCK, Redis, command_line, run

MEMORY, DISK, REMOTE = "LocalCPUBackend", "LocalDiskBackend", "RemoteBackend"


def call(server, name, **body):
    return server.call(f"/v1/cache/lmcache/{name}", body)


def refused(server, name, **body):
    """The status of a call that is not done."""
    try:
        answer = call(server, name, **body)
    except urllib.error.HTTPError as error:
        return error.code
    raise AssertionError((name, body, answer))


def lookup(server, tokens):
    """Where most of the text is, and how much."""
    return tuple(call(server, "lookup", tokens=tokens)["layout_info"].get("larder", (None, 0)))


def move(server, tokens, old, new, copy=False):
    return call(server, "move", tokens=tokens, old_position=["larder", old], new_position=["larder", new], copy=copy)


def finished(server, answer):
    for _ in range(200):
        status = call(server, "check_finish", event_id=answer["event_id"])["status"]
        if status == "finished":
            return
        assert status == "in_progress", status
        time.sleep(0.05)
    raise AssertionError(answer)


def moved_below(server, tokens):
    """What is still being written stays, and is asked for again."""
    for _ in range(100):
        answer = move(server, tokens, MEMORY, DISK)
        finished(server, answer)
        if answer["num_tokens"] > 0:
            return answer
        assert answer["reason"], answer
        time.sleep(0.1)
    raise AssertionError(answer)


def computed(world, server):
    """A prompt that was answered, and the text whose rows are cached: the last token has not been run."""
    prompt = world.prompt(400)
    assert lookup(server, prompt) == (None, 0)
    world.check(server, prompt)
    return prompt, prompt + world.right(prompt)[0][:-1]


def tiers_of_one(world, server):
    prompt, text = computed(world, server)
    whole = len(text) // BLOCK * BLOCK
    assert lookup(server, text) == (MEMORY, len(text))
    server.settled("disk")
    copied = move(server, text, MEMORY, DISK, copy=True)
    finished(server, copied)
    assert copied["num_tokens"] == whole and lookup(server, text) == (MEMORY, len(text)), copied
    moved_below(server, text)
    assert lookup(server, text) == (DISK, whole)
    finished(server, move(server, text, DISK, MEMORY, copy=True))
    assert lookup(server, text) == (MEMORY, len(text))
    pin = call(server, "pin", tokens=text, instance_id="larder", location=MEMORY)
    finished(server, pin)
    kinds = [lease["kind"] for lease in server.call("/v1/cache/leases")["leases"]]
    assert pin["num_tokens"] == len(text) and "pinned" in kinds, (pin, kinds)
    finished(server, call(server, "clear", tokens=text, instance_id="larder", location=MEMORY))
    assert lookup(server, text) == (DISK, whole), "clearing memory leaves what is below"
    up = move(server, text, DISK, MEMORY, copy=True)
    finished(server, up)
    assert world.check(server, prompt)["read"]["memory"] == len(prompt) - 1
    return text, up


def not_done(server, text):
    for below in (DISK, REMOTE):
        assert refused(server, "pin", tokens=text, instance_id="larder", location=below) == 501
        assert refused(server, "clear", tokens=text, instance_id="larder", location=below) == 501
    for old, new, copy in ((DISK, MEMORY, False), (REMOTE, MEMORY, False), (DISK, REMOTE, True), (REMOTE, DISK, False)):
        positions = {"old_position": ["larder", old], "new_position": ["larder", new]}
        assert refused(server, "move", tokens=text, copy=copy, **positions) == 501, (old, new)
    assert refused(server, "compress", tokens=text, instance_id="larder", location=MEMORY, method="cachegen") == 501
    elsewhere = {"old_position": ["larder", MEMORY], "new_position": ["another", MEMORY]}
    assert refused(server, "move", tokens=text, **elsewhere) == 404


def two_instances(world, shared):
    first, second = (world.server("--disk", str(world.folder / f"disk-{name}-{len(shared)}"), "--disk-limit", "64M", *shared)
                     for name in ("first", "second"))
    for server in (first, second):
        assert call(server, "query_instance", ip="127.0.0.1")["res"] == "larder"
        assert call(server, "health", instance_id="larder")["error_code"] == 0
    text, up = tiers_of_one(world, first)
    not_done(first, text)
    assert refused(second, "check_finish", event_id=up["event_id"]) == 404, "another instance's call"
    if shared:
        first.settled("redis")
        assert lookup(second, text) == (REMOTE, len(text) // BLOCK * BLOCK)
        finished(second, move(second, text, REMOTE, MEMORY, copy=True))
        assert lookup(second, text) == (MEMORY, len(text))
    else:
        assert lookup(second, text) == (None, 0), "each instance answers for itself"
        finished(second, move(second, text, DISK, MEMORY, copy=True))
        assert lookup(second, text) == (None, 0), "finished does not say found"
        tiers_of_one(world, second)
    first.stop()
    second.stop()


def with_redis(world):
    redis = Redis(str(world.folder))
    try:
        two_instances(world, ("--redis", redis.url))
    finally:
        redis.stop()


def main():
    steps = [lambda world: two_instances(world, ())]
    if shutil.which("redis-server"):
        steps.append(with_redis)
    run(command_line().parse_args(), steps)


if __name__ == "__main__":
    main()
