#!/usr/bin/env python3
"""Does a Redis that stalls, lies or talks nonsense cost a server more than computing, and is a Redis that is well again used again?

    redis_faults.py --larder PROGRAM --model FILE

Every answer is compared to the bit with that of a server without Redis. Exit code 77 (skipped) where redis-server is not installed.
"""
import shutil
import socketserver
import sys
import threading
import time

from run_with_server import SKIPPED
from store_servers import Redis, command_line, run

LONGEST_SECONDS = 15  # of a request that computes for less than one


def quick_check(world, server, prompt):
    begun = time.monotonic()
    cache = world.check(server, prompt)
    took = time.monotonic() - begun
    assert took < LONGEST_SECONDS, f"{took:.1f} s: {cache}"
    return cache


def check_until(world, server, prompt, holds):
    """Asks again and again, without what is in memory, until `holds` is true of what the cache and the stats of Redis say."""
    deadline = time.monotonic() + 90
    while True:
        server.call("/v1/cache/clear", {})
        cache, redis = quick_check(world, server, prompt), server.stats()["redis"]
        if holds(cache, redis):
            return redis
        assert time.monotonic() < deadline, (cache, redis)
        time.sleep(0.1)


def paused(world):
    redis = Redis(str(world.folder))
    try:
        server = world.server("--redis", redis.url)
        known = world.prompt(400)
        world.check(server, known)
        before = server.settled("redis")
        assert before["healthy"], before
        check_until(world, server, known, lambda cache, _: cache["read"]["redis"] == 399)

        redis.pause()
        ill = check_until(world, server, known, lambda cache, stats: cache["read"]["redis"] == 0 and not stats["healthy"])
        assert ill["slow_reads"] > before["slow_reads"] and ill["failures"] > before["failures"], (before, ill)
        assert quick_check(world, server, world.prompt(300))["recomputed"] == 300
        dropped = check_until(world, server, world.prompt(200), lambda _, stats: stats["dropped_writes"] > 0)
        assert dropped["pending_bytes"] <= 256 << 20, dropped

        redis.resume()
        check_until(world, server, known, lambda cache, stats: cache["read"]["redis"] == 399 and stats["healthy"])
        # What is computed now is shared again.
        fresh = world.prompt(300)
        world.check(server, fresh)
        server.settled("redis")
        other = world.server("--redis", redis.url)
        assert world.check(other, fresh)["read"]["redis"] == 299
        other.stop()
        server.stop()
    finally:
        redis.stop()


class NoRedis(socketserver.ThreadingTCPServer):
    """Answers whatever arrives with what `answer` makes of it; nothing: it says nothing."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, answer):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                try:
                    while data := self.request.recv(1 << 16):
                        self.request.sendall(answer(data))
                except OSError:
                    pass  # the other side has had enough

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.server_address[1]}"


def greeted(answer):
    """Like Redis until it is connected to."""
    return lambda data: b"+PONG\r\n" if b"PING" in data else answer


def lying(world):
    nonsense = {
        "another protocol": lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n",
        "silence": lambda _: b"",
        "silence after a greeting": greeted(b""),
        "records of noise": greeted(b"$5000\r\n" + b"x" * 5000 + b"\r\n"),
        "yes to everything": greeted(b":1\r\n" * 64),
    }
    for what, answer in nonsense.items():
        with NoRedis(answer) as wrong:
            server = world.server("--redis", wrong.url)
            quick_check(world, server, world.prompt(400))
            redis = check_until(world, server, world.prompt(200), lambda _, stats: stats["failures"] > 0 and stats["dropped_writes"] > 0)
            assert redis["read_records"] == redis["written_records"] == 0, (what, redis)
            server.stop()
            wrong.shutdown()


def main():
    if not shutil.which("redis-server"):
        print("skipped: no redis-server")
        sys.exit(SKIPPED)
    run(command_line().parse_args(), [paused, lying])


if __name__ == "__main__":
    main()
