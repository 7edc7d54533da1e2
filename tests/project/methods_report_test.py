"""The figures of docs/methods.md are what the results say, between the marks and nowhere else.

    methods_report_test.py SCRIPT DOCS
"""
import json
import pathlib
import subprocess
import sys
import tempfile

BEGIN, END = "<!-- figures, written by scripts/methods_report -->", "<!-- end of figures -->"


def write(script, folder, page):
    return subprocess.run([sys.executable, script, folder, page], capture_output=True, text=True)


def main():
    script, docs = sys.argv[1:]
    assert BEGIN in docs_text(docs) and END in docs_text(docs)
    with tempfile.TemporaryDirectory() as name:
        folder, page = pathlib.Path(name), pathlib.Path(name) / "page.md"
        page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
        assert write(script, folder, page).returncode != 0, "no results"
        score = {"right": 0.25, "low": 0.1, "high": 0.4, "log_probability": -7.5}
        solved = score | {"right": 1.0}
        cells = [{"task": t, "method": m, "budget": "", "bytes": 1.0, "first": s, "later": s, "hidden": s}
                 for t, m, s in (("kv", "full", solved), ("vt", "full", score), ("kv", "q4_0", score), ("vt", "q4_0", score))]
        head = {"model": "m", "command": "larder eval tasks", "sessions": 2, "tokens": 9, "turns": 3, "admitted": 0.8}
        (folder / "retrieval.json").write_text(json.dumps(head | {"cells": cells}))
        assert write(script, folder, page).returncode == 0
        text = page.read_text()
        assert text.startswith(f"before\n{BEGIN}") and text.endswith(f"{END}\nafter\n") and "old" not in text
        assert "| q4_0 | - | 100 % | 25 % | 25 % | 25 % | -7.50 | -7.50 | -7.50 |" in text, text
        assert "vt (full cache: 25 % right)" in text
        again = text
        assert write(script, folder, page).returncode == 0 and page.read_text() == again
        page.write_text("no marks")
        assert write(script, folder, page).returncode != 0 and page.read_text() == "no marks"


def docs_text(docs):
    return pathlib.Path(docs).read_text()


if __name__ == "__main__":
    main()
