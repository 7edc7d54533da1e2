"""Does larder.store do from Python what the C interface does, with any buffer, and without harm to the interpreter?"""

import array
import gc
import hashlib
import mmap
import os
import pathlib
import subprocess
import sys
import tempfile
import threading
import unittest

from larder.store import Priority, Read, Status, Store, StoreError, Tier

try:
    import numpy
except ImportError:
    numpy = None

LIMIT = 32 << 20


def name_of(text):
    return hashlib.sha256(text.encode()).digest()


def bytes_of(text, count):
    return hashlib.shake_128(text.encode()).digest(count)


class StoreTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def open(self, name="store", **options):
        store = Store(self.folder / name, limit=LIMIT, **options)
        self.addCleanup(store.close)
        return store


class WhatWorks(StoreTest):
    def test_what_was_put_comes_back_also_another_day(self):
        chain = [name_of(f"block {i}") for i in range(4)]
        groups = {n: [bytes_of(f"{i} keys", 70000), bytes_of(f"{i} values", 5)] for i, n in enumerate(chain)}
        with self.open() as store:
            for i, name in enumerate(chain[:3]):
                parent = chain[i - 1] if i else None
                store.put(name, groups[name], parent=parent, kind=i, metadata=f"tokens {i}".encode())
            store.flush()
            self.assertEqual(store.match(chain), [Tier.DISK] * 3)
        with self.open() as store:
            self.assertEqual(store.match(chain), [Tier.DISK] * 3)
            self.assertEqual(store.match([]), [])
            self.assertEqual(store.match(chain[3:]), [])
            for i, found in enumerate(store.get_many(chain)):
                if i == 3:
                    self.assertIsNone(found)
                    continue
                self.assertEqual([bytes(group) for group in found.groups], groups[chain[i]])
                self.assertEqual((found.kind, found.metadata), (i, f"tokens {i}".encode()))
                self.assertEqual(found.parent, chain[i - 1] if i else None)
                self.assertEqual(found.payload_bytes, 70005)
            self.assertEqual([child.name for child in store.children(chain[0])], [chain[1]])
            self.assertEqual([record and record.kind for record in store.describe(chain)], [0, 1, 2, None])

    def test_any_buffer_goes_in_and_out(self):
        store = self.open()
        plain = bytes_of("plain", 8192)
        mapped = mmap.mmap(-1, 8192)
        mapped[:] = plain
        sources = [plain, bytearray(plain), memoryview(plain), memoryview(bytearray(plain)), array.array("d", plain), mapped]
        destinations = [bytearray(8192), memoryview(bytearray(8192)), array.array("d", bytes(8192)), mmap.mmap(-1, 8192)]
        if numpy is not None:
            sources += [numpy.frombuffer(plain, numpy.float32).reshape(2, 32, 32), numpy.frombuffer(plain, numpy.float16)]
            destinations += [numpy.zeros((2, 32, 64), numpy.float16), numpy.zeros(1024)]
        for copy in (True, False):
            for i, source in enumerate(sources):
                self.assertEqual(store.put(name_of(f"{copy} {i}"), [source], copy=copy).wait(60), Status.OK)
                for destination in destinations:
                    read = Read(name_of(f"{copy} {i}"), destination)
                    self.assertEqual(store.get_into([read]), [Status.OK])
                    self.assertEqual(memoryview(destination).tobytes(), plain)
                    memoryview(destination).cast("B")[:] = bytes(8192)

    def test_a_copied_buffer_is_free_and_a_kept_one_is_held(self):
        store = self.open()
        copied, kept = bytearray(b"x" * 5000), bytearray(b"y" * 5000)
        puts = [store.put(name_of("copied"), [copied]), store.put(name_of("kept"), [kept], copy=False)]
        copied[:] = bytes(5000)
        copied.clear()
        with self.assertRaises(BufferError):
            kept.clear()  # Python itself refuses to move it
        self.assertEqual([put.wait(60) for put in puts], [Status.OK, Status.OK])
        kept.clear()
        self.assertEqual(bytes(store.get(name_of("copied")).payload), b"x" * 5000)
        self.assertEqual(bytes(store.get(name_of("kept")).payload), b"y" * 5000)

    def test_large_payloads_are_read_without_a_copy(self):
        store = self.open()
        payload = bytes_of("large", 1 << 20)
        store.put(name_of("large"), [payload])
        store.flush()
        found = store.get(name_of("large"))
        self.assertEqual(found.payload, payload)
        self.assertIs(type(found.payload.obj), mmap.mmap)  # memory from the system, which direct I/O takes as it is

    def test_groups_one_by_one(self):
        store = self.open()
        groups = [bytes_of(f"group {i}", 4096) for i in range(4)]
        store.put(name_of("here"), groups).wait(60)
        seen, accepted = [], []
        buffers = [bytearray(4 * 4096), bytearray(4096)]
        reads = [Read(name_of("here"), buffers[0], 1, 3), Read(name_of("gone"), buffers[1], 1, 2)]

        def accept(item, record):
            accepted.append((item, record.name))
            return True

        options = {"on_group": lambda *told: seen.append(told), "accept": accept, "timeout": 60}
        get = store.start_get(reads, priority=Priority.PREFETCH, **options)
        self.assertEqual(get.wait(60), [Status.OK, Status.NOT_FOUND])
        self.assertEqual(seen, [(1, [Status.OK, Status.NOT_FOUND]), (2, [Status.OK, Status.OK])])
        self.assertEqual(accepted, [(0, name_of("here"))])
        self.assertEqual(bytes(buffers[0]), bytes(4096) + groups[1] + groups[2] + bytes(4096))
        store.cancel(get)  # too late, and no error
        self.assertEqual(store.get_into(reads, **options), [Status.OK, Status.NOT_FOUND])
        refused = store.get_into(reads, accept=lambda item, record: False)
        self.assertEqual(refused, [Status.INVALID, Status.NOT_FOUND])
        started = store.start_get(reads)
        store.cancel(started)
        self.assertIn(started.wait(60)[0], (Status.OK, Status.CANCELLED))

    def test_tenants_pins_removals_and_counters(self):
        store = self.open()
        store.put(name_of("a"), [b"1"], tenant="anna")
        store.put(name_of("b"), [b"2"], tenant="bert")
        store.put(name_of("c"), [b"3"])
        store.flush()
        self.assertEqual(len({store.space(), store.space("anna"), store.space("bert")}), 3)
        self.assertIsNone(store.get(name_of("a")))
        self.assertIsNone(store.get(name_of("a"), tenant="bert"))
        self.assertEqual(bytes(store.get(name_of("a"), tenant="anna").payload), b"1")
        store.wipe("anna")
        self.assertIsNone(store.get(name_of("a"), tenant="anna"))
        store.touch([name_of("c"), name_of("gone")])
        store.pin(name_of("c"), 60)
        with self.assertRaisesRegex(StoreError, "not on the disk") as caught:
            store.pin(name_of("gone"), 60)
        self.assertEqual(caught.exception.status, Status.NOT_FOUND)
        store.remove([name_of("b")])
        self.assertIsNone(store.get(name_of("b"), tenant="bert"))
        stats = store.stats()
        self.assertEqual((stats.records, stats.write_records, stats.limit_bytes, stats.healthy), (1, 3, LIMIT, 1))
        with self.assertRaises(StoreError):
            store.stats(Tier.REDIS)

    def test_many_threads(self):
        store = self.open()
        wrong = []

        def work(thread):
            for i in range(40):
                key = f"{thread % 2} {i}"  # two threads write the same
                store.put(name_of(key), [bytes_of(key, 3000)], copy=i % 2 == 0)
                found = store.get(name_of(f"{i % 2} {i // 2}"))
                if found is not None and found.payload != bytes_of(f"{i % 2} {i // 2}", 3000):
                    wrong.append(i)

        threads = [threading.Thread(target=work, args=[n]) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.flush()
        self.assertEqual(wrong, [])
        self.assertEqual(store.stats().records, 80)
        self.assertEqual(store._callbacks.live, {})


class WhatGoesWrong(StoreTest):
    def test_errors_have_the_librarys_words(self):
        store = self.open()
        with self.assertRaisesRegex(StoreError, "held by process") as caught:
            self.open()
        self.assertEqual(caught.exception.status, Status.CONFLICT)
        with self.assertRaisesRegex(StoreError, "directory, a Redis URL, or both"):
            Store()
        with self.assertRaisesRegex(StoreError, "1 to 64 groups, not 0"):
            store.put(name_of("x"), [])
        self.assertEqual(store._callbacks.live, {})

    def test_the_wrong_key_is_refused(self):
        keys = [self.folder / "key", self.folder / "other"]
        for key in keys:
            key.write_text(hashlib.sha256(key.name.encode()).hexdigest())
        with self.open(store_key=keys[0]) as store:
            store.put(name_of("x"), [b"sealed"]).wait(60)
        with self.assertRaises(StoreError) as caught:
            self.open(store_key=keys[1])
        self.assertEqual(caught.exception.status, Status.CORRUPT)
        self.assertEqual(bytes(self.open(store_key=keys[0]).get(name_of("x")).payload), b"sealed")

    def test_damage_is_a_miss(self):
        with self.open() as store:
            store.put(name_of("x"), [bytes_of("x", 4096)])
        segment = next(self.folder.glob("store/seg-*"))
        content = bytearray(segment.read_bytes())
        content[4096 + 100] ^= 1
        segment.write_bytes(content)
        self.assertIsNone(self.open().get(name_of("x")))

    def test_buffers_that_do_not_fit(self):
        store = self.open()
        store.put(name_of("x"), [bytes(100)]).wait(60)
        self.assertEqual(store.get_into([Read(name_of("x"), bytearray(99))]), [Status.INVALID])
        for wrong in (b"a" * 100, memoryview(bytes(100)), memoryview(bytearray(200))[::2], "text", None, 7):
            with self.assertRaises((TypeError, BufferError, ValueError)):
                store.get_into([Read(name_of("x"), wrong)])
        for wrong in ("text", 7, memoryview(bytearray(200))[::2]):
            with self.assertRaises((TypeError, BufferError, ValueError)):
                store.put(name_of("y"), [wrong])
        for name in (b"", b"short", bytes(33)):
            with self.assertRaises(ValueError):
                store.match([name])
        with self.assertRaises(ValueError):
            store.match([name_of("x")], timeout=0)
        with self.assertRaises(ValueError):
            store.get(name_of("x"), tenant="a\0b")
        self.assertEqual(store.match([name_of("x"), name_of("y")]), [Tier.DISK])

    def test_a_callback_that_raises(self):
        store = self.open()
        store.put(name_of("x"), [bytes(100)]).wait(60)

        def fail(*unused):
            raise RuntimeError("on purpose")

        read = Read(name_of("x"), bytearray(100))
        for options in ({"on_group": fail}, {"accept": fail}):
            with self.assertRaisesRegex(RuntimeError, "on purpose"):
                store.get_into([read], **options)
            get = store.start_get([read], **options)
            with self.assertRaisesRegex(RuntimeError, "on purpose"):
                get.wait(60)
        self.assertEqual(get.statuses, [Status.INVALID])  # not accepted
        self.assertEqual(store.get_into([read]), [Status.OK])

    def test_closing(self):
        store = self.open()
        put = store.put(name_of("x"), [bytearray(100)], copy=False)
        store.close()
        self.assertEqual(put.wait(0), Status.OK)
        store.close()
        with self.assertRaisesRegex(ValueError, "closed"):
            store.match([])
        # Forgotten without being closed: the directory is free again, and what was put is there.
        store = Store(self.folder / "forgotten", limit=LIMIT)
        store.put(name_of("x"), [bytearray(100)])
        del store
        gc.collect()
        self.assertEqual(self.open("forgotten").match([name_of("x")]), [Tier.DISK])

    def test_the_interpreters_end(self):
        script = (
            "import sys; from larder.store import *\n"
            "store = Store(sys.argv[1], limit=1 << 25)\n"
            "store.put(bytes(32), [bytearray(1 << 20)], copy=False)\n"
            "store.start_get([Read(bytes(32), bytearray(1 << 20))])\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, self.folder / "end"], capture_output=True, text=True, timeout=120
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(self.open("end").match([bytes(32)]), [Tier.DISK])

    def test_another_library(self):
        script = "import larder.store; larder.store.Store('x')"
        environment = os.environ | {"LARDER_STORE_LIBRARY": str(self.folder / "gone.so")}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120)
        self.assertIn("LARDER_STORE_LIBRARY", done.stderr)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()
