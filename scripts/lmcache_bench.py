"""See scripts/lmcache_bench. A block is that of `larder bench store`: 64 tokens, 30 layers, 3 KV heads of 64, 16 bits."""
import argparse
import asyncio
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import torch
from lmcache.utils import CacheEngineKey
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_allocators.mixed_memory_allocator import MixedMemoryAllocator
from lmcache.v1.memory_management import MemoryFormat
from lmcache.v1.storage_backend.local_cpu_backend import LocalCPUBackend
from lmcache.v1.storage_backend.local_disk_backend import LocalDiskBackend

LAYERS, TOKENS, WIDTH = 30, 64, 3 * 64
SHAPE = torch.Size([2, LAYERS, TOKENS, WIDTH])
BLOCK_MB = 2 * LAYERS * TOKENS * WIDTH * 2 / 1e6
TOGETHER = 128  # blocks of a get, as in `larder bench store`
PAUSE_S = 0.001
PATIENCE_S = 120  # for LMCache's threads, which do not say that a write has failed


class LmCache:
    """Both back-ends without an engine. What is put is written by LMCache's own threads past the page cache."""

    def __init__(self, folder, blocks):
        config = LMCacheEngineConfig.from_defaults(
            chunk_size=TOKENS, local_cpu=True, max_local_cpu_size=1, local_disk=str(folder),
            max_local_disk_size=1 + blocks * BLOCK_MB / 1000, extra_config={"use_odirect": True})
        allocator = MixedMemoryAllocator(int((blocks + TOGETHER + 8) * BLOCK_MB * 1e6))
        self.cpu = LocalCPUBackend(config, None, dst_device="cpu", memory_allocator=allocator)
        loop = asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        self.disk = LocalDiskBackend(config, loop, self.cpu, "cpu")
        self.rows = [torch.randn(SHAPE).to(torch.float16) for _ in range(blocks)]
        self.out = torch.zeros(SHAPE, dtype=torch.float16)
        self.round = 0

    def measure(self):
        """Seconds of each operation on all blocks, by name."""
        self.round += 1
        keys = [CacheEngineKey("bench", 1, 0, self.round << 32 | i, torch.float16) for i in range(len(self.rows))]
        seconds = {}

        def timed(name, work):
            begin = time.perf_counter()
            result = work()
            seconds[name] = time.perf_counter() - begin
            return result

        objects = timed("LMCache, memory: put", lambda: self.put_memory(keys))
        timed("LMCache, memory: get", lambda: self.get_memory(keys))
        timed("LMCache, disk: put", lambda: self.put_disk(keys, objects))
        for key, one in zip(keys, objects):
            self.cpu.remove(key)
            one.ref_count_down()
        timed("LMCache, disk: get", lambda: self.get_disk(keys))
        for key in keys:
            self.disk.remove(key)
        return seconds

    def put_memory(self, keys):
        objects = []
        for key, rows in zip(keys, self.rows):
            one = self.cpu.allocate(SHAPE, torch.float16, MemoryFormat.KV_2LTD)
            one.tensor.copy_(rows)
            self.cpu.submit_put_task(key, one)
            objects.append(one)
        return objects

    def get_memory(self, keys):
        for key in keys:
            one = self.cpu.get_blocking(key)
            self.out.copy_(one.tensor)
            one.ref_count_down()

    def put_disk(self, keys, objects):
        self.disk.batched_submit_put_task(keys, objects)
        until = time.monotonic() + PATIENCE_S
        while any(self.disk.exists_in_put_tasks(key) for key in keys[-1:]) or not all(map(self.disk.contains, keys)):
            if time.monotonic() > until:
                sys.exit(f"LMCache has not written {len(keys)} blocks within {PATIENCE_S} s; is there room on the disk?")
            time.sleep(PAUSE_S)

    def get_disk(self, keys):
        for first in range(0, len(keys), TOGETHER):
            part = keys[first:first + TOGETHER]
            for place, one in enumerate(self.disk.batched_get_blocking(part), first):
                if self.round == 1 and not torch.equal(one.tensor, self.rows[place]):
                    sys.exit("LMCache gave other bytes than it was given")
                one.ref_count_down()


def measure_larder(program, folder, blocks):
    """MB/s by name, of one round."""
    command = [program, "bench", "store", "--json", "--disk", str(folder), "--blocks", str(blocks), "--rounds", "1",
               "--records", "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{ran.stderr}")
    rows = {row["what"]: row for row in map(json.loads, ran.stdout.splitlines()) if row["bench"] == "store"}
    return {"Larder, disk: put": rows["puts"]["mb_per_s"]["median"],
            "Larder, disk: get": rows["restore"]["mb_per_s"]["median"],
            "the bare disk: reads": rows["bare reads"]["mb_per_s"]["median"],
            "the bare disk: writes": rows["bare writes"]["mb_per_s"]["median"]}


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(prog="scripts/lmcache_bench")
    parser.add_argument("--disk", required=True)
    parser.add_argument("--blocks", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--larder", default=str(root / "build/release/larder"))
    options = parser.parse_args()
    torch.set_num_threads(1)  # copies of a block are too short to share
    folder = pathlib.Path(tempfile.mkdtemp(prefix="lmcache-bench-", dir=options.disk))
    try:
        cache = LmCache(folder, options.blocks)
        speeds = {}
        for number in range(options.rounds + 1):
            megabytes = options.blocks * BLOCK_MB
            figures = {name: megabytes / seconds for name, seconds in cache.measure().items()}
            if number == 0:
                continue  # files and memory are made for the first time
            figures |= measure_larder(options.larder, options.disk, options.blocks)
            for name, figure in figures.items():
                speeds.setdefault(name, []).append(figure)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{options.blocks} blocks of {BLOCK_MB:.2f} MB, medians of {options.rounds} interleaved rounds, MB/s\n")
    for name, values in speeds.items():
        print(f"{name:24} {statistics.median(values):8.0f}  ({min(values):.0f} to {max(values):.0f})")
    print("\nLMCache: a file per block, direct I/O, 4 threads; it syncs no write and verifies no read. Memory: into and out "
          "of its\nbuffers. Larder syncs what it puts and verifies what it gets.")
    sys.stdout.flush()
    os._exit(0)  # LMCache's threads do not end


if __name__ == "__main__":
    main()
