"""The constructed retrieval model is what scripts/make_retrieval.py writes, and has the hash that its documentation names; the
trained one has the hash that scripts/train_retrieval names.

    retrieval_model_test.py ROOT        with LARDER_PYTHON, an interpreter that has numpy and gguf; 77: there is none
"""
import hashlib
import os
import pathlib
import subprocess
import sys
import tempfile


def kept_model(root, name, named_in):
    kept = (root / "tests/data/models" / name).read_bytes()
    assert hashlib.sha256(kept).hexdigest() in (root / named_in).read_text(), f"{named_in} names another hash of {name}"
    return kept


def main():
    root = pathlib.Path(sys.argv[1])
    kept = kept_model(root, "retr-tiny.gguf", "docs/methods.md")
    kept_model(root, "retr-trained.gguf", "scripts/train_retrieval")
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
