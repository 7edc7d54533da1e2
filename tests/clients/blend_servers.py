#!/usr/bin/env python3
"""Does a server find the chunks of the one before it in a directory or in Redis, and answer with the same bits?

    blend_servers.py --larder PROGRAM --model FILE [--redis]

--redis: in a Redis, which a second server shares while the first still runs. Exit code 77 (skipped) where redis-server is not
installed.
"""
import argparse
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

from run_with_server import SKIPPED
from store_servers import Redis


class Server:
    def __init__(self, arguments, folder, *options):
        self.log = tempfile.TemporaryFile("a+b", dir=folder)
        self.process = subprocess.Popen(
            [arguments.larder, "serve", "--model", arguments.model, "--host", "127.0.0.1", "--port", "0", "--reuse", "blend:ratio=0.2",
             *options], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.url = self.find_url()

    def find_url(self):
        for _ in range(1200):
            assert self.process.poll() is None, self.text()
            found = re.search(r"on (http://127\.0\.0\.1:\d+)", self.text())
            if found:
                return found[1]
            time.sleep(0.05)
        raise AssertionError(self.text())

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace")

    def call(self, path, body=None, method=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.loads(answer.read())

    def ask(self, prompt):
        answer = self.call("/v1/completions", {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 0,
                                               "return_token_ids": True, "larder": {"explain": True}})
        choice = answer["choices"][0]
        return (choice["token_ids"], choice["logprobs"]["token_logprobs"]), answer["larder"]["cache"]

    def wait_until_written(self):
        written = None
        for _ in range(200):
            redis = self.call("/v1/cache/stats")["redis"]
            if redis["pending_bytes"] == 0 and redis["written_records"] == written:
                return
            written = redis["written_records"] or None
            time.sleep(0.2)
        raise AssertionError(redis)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text()
        self.log.close()


CHUNKS = [[5 + (i * i * 7 + 13 * c + i) % 190 for i in range(130)] for c in range(2)]
PROMPT = [9, 8, 7] + CHUNKS[1] + [11, 12] + CHUNKS[0] + [20, 30, 40]


class World:
    """Servers over one folder; those that are left are killed at the end."""

    def __init__(self, arguments, folder):
        self.arguments, self.folder = arguments, folder
        self.servers = []

    def server(self, *options):
        self.servers.append(Server(self.arguments, self.folder, *options))
        return self.servers[-1]

    def end(self):
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def store_and_ask(server):
    stored = server.call("/v1/cache/chunks", {"chunks": CHUNKS})["data"]
    answer, told = server.ask(PROMPT)
    assert told["blend"]["tokens_from_chunks"] == 260, told
    return stored, answer


def expect_found(server, stored, answer):
    again, told = server.ask(PROMPT)
    assert again == answer, (again, answer)
    assert [use["id"] for use in told["blend"]["chunks"]] == [stored[1]["id"], stored[0]["id"]], told
    assert server.call("/v1/cache/stats")["chunks"]["restored"] == 2
    listed = server.call("/v1/cache/chunks")["data"]
    assert sorted(one["id"] for one in listed) == sorted(one["id"] for one in stored), listed
    assert all(one["in_memory"] and one["below"] and one["tokens"] == 130 for one in listed), listed
    assert all(one["state"] == "present" for one in server.call("/v1/cache/chunks", {"chunks": CHUNKS})["data"])


def expect_none(server):
    _, told = server.ask(PROMPT)
    assert "blend" not in told, told
    assert server.call("/v1/cache/chunks")["data"] == []


def expect_removed(server, stored):
    """One of the two, in memory and below."""
    answer = server.call(f"/v1/cache/chunks/{stored[0]['id']}", method="DELETE")
    assert answer == {"id": stored[0]["id"], "object": "cache.chunk", "deleted": True}, answer
    expect_second_alone(server, stored)


def expect_second_alone(server, stored):
    _, told = server.ask(PROMPT)
    assert [use["id"] for use in told["blend"]["chunks"]] == [stored[1]["id"]], told
    assert [one["id"] for one in server.call("/v1/cache/chunks")["data"]] == [stored[1]["id"]]


def on_disk(world):
    options = ("--disk", str(pathlib.Path(world.folder) / "store"))
    server = world.server(*options)
    stored, answer = store_and_ask(server)
    server.stop()
    server = world.server(*options)
    expect_found(server, stored, answer)
    expect_removed(server, stored)
    server.stop()
    server = world.server(*options)
    expect_second_alone(server, stored)
    server.call("/v1/cache/wipe", {})
    expect_none(server)
    server.stop()
    server = world.server(*options)
    expect_none(server)
    server.stop()


def in_redis(world, redis, *options):
    first = world.server("--redis", redis.url, *options)
    expect_none(first)
    stored, answer = store_and_ask(first)
    first.wait_until_written()
    second = world.server("--redis", redis.url, *options)
    expect_found(second, stored, answer)
    first.stop()
    expect_removed(second, stored)
    other = world.server("--redis", redis.url, *options)
    expect_second_alone(other, stored)
    other.stop()
    second.call("/v1/cache/wipe", {})
    expect_none(second)
    second.stop()
    third = world.server("--redis", redis.url, *options)
    expect_none(third)
    store_and_ask(third)
    third.stop()


def in_redis_plain_and_sealed(world):
    key = pathlib.Path(world.folder) / "store-key"
    key.write_bytes(os.urandom(32))
    for options in ((), ("--store-key", str(key))):
        redis = Redis(world.folder)
        try:
            in_redis(world, redis, *options)
        finally:
            redis.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--larder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--redis", action="store_true")
    arguments = parser.parse_args()
    if arguments.redis and not shutil.which("redis-server"):
        print("skipped: no redis-server")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        world = World(arguments, folder)
        try:
            (in_redis_plain_and_sealed if arguments.redis else on_disk)(world)
        finally:
            world.end()
    print("ok")


if __name__ == "__main__":
    main()
