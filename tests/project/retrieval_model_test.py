"""The committed retrieval model is what scripts/make_retrieval.py writes, and has the hash that its documentation names.

    retrieval_model_test.py ROOT        with LARDER_PYTHON, an interpreter that has numpy and gguf; 77: there is none
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile


def main():
    root = pathlib.Path(sys.argv[1])
    kept = (root / "tests/data/models/retr-tiny.gguf").read_bytes()
    assert hashlib.sha256(kept).hexdigest() in (root / "docs/methods.md").read_text(), "docs/methods.md names another hash"
    python = os.environ.get("LARDER_PYTHON")
    if not python:
        print("LARDER_PYTHON is not set")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        made = pathlib.Path(folder) / "model.gguf"
        subprocess.run([python, "-B", root / "scripts/make_retrieval.py", made], check=True)
        assert made.read_bytes() == kept, "scripts/make_retrieval.py writes something else than tests/data/models has"


if __name__ == "__main__":
    main()
