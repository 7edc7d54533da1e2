"""Keeps a block of keys and values on disk and reads it back: store.py DIRECTORY"""

import hashlib
import sys

from larder.store import Store

directory = sys.argv[1] if len(sys.argv) > 1 else "larder-store"
with Store(directory, limit=64 << 20) as store:
    # In an engine the name is a hash of everything that decided the bytes: weights, arithmetic, tenant, tokens.
    name = hashlib.sha256(store.space() + b"the first 64 tokens").digest()
    keys, values = bytearray(b"keys" * 1024), bytearray(b"values" * 1024)
    store.put(name, [keys, values], metadata=b"tokens 0..63").wait()

    print(len(store.match([name])), "block here")
    found = store.get(name)  # None would be a miss
    if found:
        print(found.metadata.decode(), [len(group) for group in found.groups], bytes(found.payload[:4]).decode())
