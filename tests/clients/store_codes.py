#!/usr/bin/env python3
"""Do servers share codes of 4 bits through Redis and a directory, and do they answer with the bits of a server that has computed them?

    store_codes.py --larder PROGRAM --model FILE

Exit code 77 (skipped) where redis-server is not installed.
"""
import shutil
import subprocess
import sys

from run_with_server import SKIPPED
from store_servers import BLOCK, Redis, command_line, run


def readable(prompt, codes):
    """Rows that may come from a store: of a text that ends with a block of codes that block is computed."""
    if codes and len(prompt) % BLOCK == 0:
        return len(prompt) - BLOCK
    return len(prompt) - 1


def shared(world, codes):
    """A server that never saw the prompts gets them from Redis, one after it from its directory; bytes that came from Redis."""
    redis = Redis(str(world.folder))
    try:
        first = world.server("--redis", redis.url)
        prompts = [world.prompt(n) for n in (640, 500, 64, 70)]
        for prompt in prompts:
            world.check(first, prompt)
        first.settled("redis")
        first.stop()
        disk = ("--disk", str(world.folder / "disk"), "--disk-limit", "64M")
        second = world.server("--redis", redis.url, *disk)
        for prompt in prompts:
            cache = world.check(second, prompt)
            assert cache["read"]["redis"] == readable(prompt, codes), (len(prompt), cache)
        second.settled("disk")
        came = second.stats()["redis"]["read_bytes"]
        second.stop()
    finally:
        redis.stop()
    third = world.server(*disk)
    for prompt in prompts:
        assert world.check(third, prompt)["read"]["disk"] == readable(prompt, codes)
    third.stop()
    return came


def rows_and_codes(world):
    rows = shared(world.beside("rows"), False)
    codes = shared(world.beside("codes", "--kv-type", "t4:center=0"), True)
    assert codes < 0.6 * rows, f"{codes} bytes of codes and tails, {rows} of rows"


def centred(world):
    means = str(world.folder / "means")
    subprocess.run([world.program, "calibrate", "--model", world.model, "--text", __file__, "--max-tokens", "1024", "--out", means],
                   check=True, stdout=subprocess.DEVNULL)
    shared(world.beside("centred", "--kv-type", "t4", "--key-means", means), True)


def main():
    if not shutil.which("redis-server"):
        print("skipped: no redis-server")
        sys.exit(SKIPPED)
    run(command_line().parse_args(), [rows_and_codes, centred])


if __name__ == "__main__":
    main()
