#!/usr/bin/env python3
"""Does what a server computed outlive it, and is it right wherever it comes from?

    store_servers.py --larder PROGRAM --model FILE

Starts servers of its own over a directory and, where redis-server is installed, over a Redis, kills them with SIGKILL, damages
what they wrote, and compares every answer to the bit (tokens and log-probabilities) with that of a server without any store.
"""
import argparse
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

from run_with_server import find_model

BLOCK = 64


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    def __init__(self, program, model, log, options):
        self.log_path = log
        self.log_file = open(log, "ab")
        self.process = subprocess.Popen(
            [program, "serve", "--model", model, "--host", "127.0.0.1", "--port", "0", "--always-restore", *options],
            stdout=subprocess.PIPE, stderr=self.log_file)
        line = self.process.stdout.readline().decode()
        if "http://" not in line:
            self.process.wait()
            raise RuntimeError(f"no server: {log.read_text(errors='replace')[-2000:]}")
        self.url = line[line.index("http://"):].strip()

    def call(self, path, body=None, key=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers={"Content-Type": "application/json"})
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.load(answer)

    def ask(self, prompt, key=None):
        answer = self.call("/v1/completions", {
            "prompt": prompt, "max_tokens": 5, "temperature": 0, "logprobs": 3, "return_token_ids": True, "ignore_eos": True,
            "larder": {"explain": True}}, key)
        choice = answer["choices"][0]
        cache = answer["larder"]["cache"]
        return (choice["token_ids"], choice["logprobs"]["token_logprobs"], choice["logprobs"]["top_logprobs"]), cache

    def stats(self):
        return self.call("/v1/cache/stats")

    def settled(self, tier):
        """The tier's figures, when all that was computed has been written to it."""
        written = None
        for _ in range(200):
            now = self.stats()[tier]
            if now["pending_bytes"] == 0 and now["written_records"] == written:
                return now
            written = now["written_records"]
            time.sleep(0.2)
        raise AssertionError(now)

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=120)
        assert code == 0, f"the server ended with {code}"


class Redis:
    def __init__(self, folder):
        self.port = free_port()
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", folder],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    @property
    def url(self):
        return f"redis://127.0.0.1:{self.port}"

    def pause(self):
        """It accepts connections and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)

    def stop(self):
        self.process.kill()
        self.process.wait()


class World:
    """Servers of one model and common options over one folder, and what is right for them: the answers of one without a store."""

    def __init__(self, program, model, folder, *common):
        self.program, self.model, self.common = program, find_model(model), common
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True)
        self.random = random.Random(7)
        self.started = 0
        self.servers, self.others = [], []
        self.reference = self.server()
        self.known = {}

    def beside(self, name, *common, model=None):
        """Another one, which ends with this one."""
        self.others.append(World(self.program, model or self.model, self.folder / name, *common))
        return self.others[-1]

    def server(self, *options):
        self.started += 1
        server = Server(self.program, self.model, self.folder / f"server{self.started}.log", [*self.common, *options])
        self.servers.append(server)
        return server

    def prompt(self, tokens):
        return [self.random.randrange(3, 250) for _ in range(tokens)]

    def right(self, prompt):
        key = tuple(prompt)
        if key not in self.known:
            self.known[key] = self.reference.ask(prompt)[0]
        return self.known[key]

    def check(self, server, prompt, key=None):
        answer, cache = server.ask(prompt, key)
        assert answer == self.right(prompt), f"another answer; the cache said {cache}"
        return cache

    def end(self):
        for other in self.others:
            other.end()
        for server in self.servers:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


def restart_after_kill(world):
    disk = str(world.folder / "kill")
    server = world.server("--disk", disk, "--disk-limit", "256M")
    prompts = [world.prompt(n) for n in (400, 333, 64, 1000)]
    for prompt in prompts:
        world.check(server, prompt)
    time.sleep(1.2)
    # Killed while it writes something else.
    world.check(server, world.prompt(900))
    server.kill()
    server = world.server("--disk", disk, "--disk-limit", "256M")
    for prompt in prompts:
        cache = world.check(server, prompt)
        blocks = len(prompt) // BLOCK
        found = (cache["read"]["disk"] + cache["read"]["memory"] + 1) // BLOCK
        assert found >= 0.95 * blocks, f"{found} of {blocks} blocks came back: {cache}"
    server.call("/v1/cache/clear", {})
    assert world.check(server, prompts[0])["read"]["disk"] == 399
    assert world.check(server, prompts[0])["read"]["memory"] == 399
    stats = server.stats()["disk"]
    assert stats["used_bytes"] <= stats["limit_bytes"] and stats["bad_records"] == 0, stats
    server.stop()


def one_process_a_directory(world):
    disk = str(world.folder / "one")
    first = world.server("--disk", disk, "--disk-limit", "64M")
    try:
        world.server("--disk", disk, "--disk-limit", "64M")
    except RuntimeError as refused:
        assert "is held by process" in str(refused), refused
    else:
        raise AssertionError("two servers share a directory")
    world.check(first, world.prompt(100))
    first.stop()


def damage(world):
    disk = world.folder / "damage"
    options = ("--disk", str(disk), "--disk-limit", "64M")
    server = world.server(*options)
    prompt = world.prompt(1000)
    world.check(server, prompt)
    server.stop()
    segments = sorted(disk.glob("seg*"))
    content = bytearray(segments[0].read_bytes())
    for _ in range(3):
        content[world.random.randrange(len(content) // 4, len(content))] ^= 0x40
    segments[0].write_bytes(content)
    server = world.server(*options)
    world.check(server, prompt)
    server.stop()
    segments[0].write_bytes(content[: len(content) // 2])
    server = world.server(*options)
    world.check(server, prompt)
    world.check(server, prompt)
    server.stop()


def full(world):
    disk = world.folder / "full"
    server = world.server("--disk", str(disk), "--disk-limit", "8M")
    for n in range(30):
        world.check(server, world.prompt(500))
        size = sum(f.stat().st_blocks * 512 for f in disk.rglob("*") if f.is_file())
        assert size <= 8 << 20, f"{size} bytes on disk, 8 MiB allowed"
    server.stop()


def tenants(world):
    disk = str(world.folder / "tenants")
    keys, store_key = world.folder / "keys", world.folder / "store-key"
    keys.write_text("a: key-a\nb: key-b\n")
    store_key.write_bytes(os.urandom(32))
    options = ("--disk", disk, "--disk-limit", "64M", "--api-keys", str(keys), "--store-key", str(store_key))
    server = world.server(*options)
    prompt = world.prompt(300)
    world.check(server, prompt, "key-a")
    assert world.check(server, prompt, "key-b")["recomputed"] == 300
    server.stop()
    server = world.server(*options)
    assert world.check(server, prompt, "key-a")["read"]["disk"] == 299
    server.call("/v1/cache/wipe", {}, "key-a")
    assert world.check(server, prompt, "key-a")["recomputed"] == 300, "wiped"
    assert world.check(server, prompt, "key-b")["read"]["disk"] == 299, "the other tenant keeps what it has"
    server.stop()
    server = world.server(*options)
    assert world.check(server, prompt, "key-b")["read"]["disk"] == 299
    assert world.check(server, prompt, "key-a")["read"]["disk"] == 299, "stored anew after the wipe"
    server.stop()


def shared_redis(world, sealed):
    redis = Redis(str(world.folder))
    options = ["--redis", redis.url]
    if sealed:
        store_key = world.folder / "redis-key"
        store_key.write_bytes(os.urandom(32))
        options += ["--store-key", str(store_key)]
    try:
        first = world.server(*options)
        prompts = [world.prompt(n) for n in (640, 500)]
        for prompt in prompts:
            world.check(first, prompt)
        first.stop()
        disk = str(world.folder / f"redis-disk-{sealed}")
        second = world.server(*options, "--disk", disk, "--disk-limit", "64M")
        for prompt in prompts:
            cache = world.check(second, prompt)
            assert cache["read"]["redis"] + cache["read"]["memory"] == len(prompt) - 1, cache
        # What came from Redis is on the own disk now.
        time.sleep(1)
        second.call("/v1/cache/clear", {})
        assert world.check(second, prompts[0])["read"]["disk"] == 639
        # Without Redis: the right answers, and the disk goes on.
        redis.stop()
        second.call("/v1/cache/clear", {})
        assert world.check(second, prompts[1])["read"]["disk"] == 499
        world.check(second, world.prompt(300))
        second.stop()
        alone = world.server(*options)
        world.check(alone, prompts[0])
        alone.stop()
    finally:
        redis.stop()


def run(arguments, steps):
    with tempfile.TemporaryDirectory(prefix="larder-store-") as folder:
        world = None
        try:
            world = World(arguments.larder, arguments.model, folder)
            for number, step in enumerate(steps):
                step(world)
                print(f"{number + 1} of {len(steps)} passed", flush=True)
        except BaseException:
            for log in sorted(pathlib.Path(folder).rglob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')[-1500:]}", file=sys.stderr)
            raise
        finally:
            if world is not None:
                world.end()


def command_line():
    parser = argparse.ArgumentParser()
    parser.add_argument("--larder", required=True)
    parser.add_argument("--model", required=True)
    return parser


def main():
    steps = [restart_after_kill, one_process_a_directory, damage, full, tenants]
    if shutil.which("redis-server"):
        steps += [lambda w: shared_redis(w, False), lambda w: shared_redis(w, True)]
    run(command_line().parse_args(), steps)


if __name__ == "__main__":
    main()
