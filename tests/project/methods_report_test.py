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
        (folder / "trained.json").write_text(json.dumps(head | {"model": "n", "cells": cells[:1]}))
        assert write(script, folder, page).returncode == 0
        text = page.read_text()
        assert text.startswith(f"before\n{BEGIN}") and text.endswith(f"{END}\nafter\n") and "old" not in text
        assert "| q4_0 | - | 100 % | 25 % | 25 % | 25 % | -7.50 | -7.50 | -7.50 |" in text, text
        assert "vt (full cache: 25 % right)" in text
        trained = text[text.index("a trained model") :]
        assert "\nn, 2 sessions" in trained and "kv: hidden" in trained and "vt: hidden" not in trained, trained
        check_fidelity(script, folder, page)
        check_stream(script, folder, page)
        check_equal_loss(script, folder, page)
        check_passkeys(script, folder, page)
        check_copies(script, folder, page)
        text = page.read_text()
        again = text
        assert write(script, folder, page).returncode == 0 and page.read_text() == again
        page.write_text("no marks")
        assert write(script, folder, page).returncode != 0 and page.read_text() == "no marks"


def check_fidelity(script, folder, page):
    fit = {"kl_mean": 0.25, "kl_low": 0.2, "kl_high": 0.3, "kl_median": 0.1, "kl_99": 1.0, "same_top": 0.9, "perplexity_ratio": 1.1}
    arm = {"method": "h2o", "budget": "0.5", "text": fit, "greedy": fit, "private_bytes": 400, "peak_bytes": 1400}
    head = {"model": "m", "command": "larder eval methods", "documents": 2, "prompt_tokens": 9, "scored_tokens": 3,
            "greedy_documents": 2, "greedy_tokens": 3, "full_bytes": 1000}
    old = head | {"arms": [arm]}
    (folder / "fidelity.json").write_text(json.dumps(old))
    assert write(script, folder, page).returncode == 0
    text = page.read_text()
    assert "| h2o | 0.5 | 40 % | 0.2500 | 0.2000 .. 0.3000 | 0.1000 |" in text, text
    assert "tokens/s" not in text and "140 %" not in text, "an old peak is of something else"

    differences = [{"base": "streaming", "kl": -0.125, "low": -0.2, "high": -0.05}]
    new = arm | {"text": fit | {"differences": differences}, "resident_bytes": 500, "budget_entries": 255, "tokens_per_s": 62.4,
                 "peak_bytes": 1040}
    base = new | {"method": "streaming", "text": fit | {"differences": []}}
    (folder / "fidelity.json").write_text(json.dumps(head | {"bases": ["streaming", "snapkv"], "arms": [base, new]}))
    assert write(script, folder, page).returncode == 0
    text = page.read_text()
    assert "| h2o | 0.5 (255) | 50 % | 0.2500 | 0.2000 .. 0.3000 | -0.1250 (-0.2000 .. -0.0500) | 0.1000 |" in text, text
    assert "| 104 % | 62 |" in text and "KL less that of streaming" in text and "that of snapkv" not in text, text


def check_stream(script, folder, page):
    one = {"method": "a", "budget": "255", "perplexity": 20, "log_perplexity_less": 0.5, "less_low": 0.4, "less_high": 0.6,
           "perplexity_by_eighths": [21, 19], "bytes_low": 7, "bytes_high": 7, "peak_bytes": 9, "tokens_per_s": 100}
    head = {"model": "m", "command": "larder eval stream", "tokens": 9}
    (folder / "stream.json").write_text(json.dumps(head | {"passes": [one]}))
    assert write(script, folder, page).returncode == 0
    assert "| a | 255 | 20.00 | +0.5000 (+0.4000 .. +0.6000) | 21.00 .. 19.00 | 7 | 9 | 100 |" in page.read_text()
    excess = {"excess_of_first": {"mean": 0.8, "low": 0.7, "high": 0.9}}
    (folder / "stream.json").write_text(json.dumps(head | {"passes": [one, one | {"method": "b"} | excess]}))
    assert write(script, folder, page).returncode == 0
    text = page.read_text()
    assert "+0.6000) | +0.8000 (+0.7000 .. +0.9000) | 21.00" in text and "below windows" not in text, text


def check_equal_loss(script, folder, page):
    result = json.loads((folder / "fidelity.json").read_text())
    lines = [{"leaf": "A2", "method": "h2o", "memory": "O(B)", "shown": "40 %", "reached": True, "bytes": 0.4, "ms_per_token": 12.34},
             {"leaf": "", "method": "oracle", "memory": "", "shown": "not reached: 0.3 with 50 %", "reached": False, "bytes": 0.5,
              "ms_per_token": 1}]
    windows = {"layers": 18, "evicting_layers": 3, "evicting_bytes": 170, "refused": {"lacache": "it cannot"}}
    (folder / "fidelity.json").write_text(json.dumps(result | windows | {"at_equal_loss": {"kl": 0.05, "methods": lines}}))
    assert write(script, folder, page).returncode == 0
    text = page.read_text()
    assert "Bytes at a mean KL of 0.05" in text and "| A2 | h2o | O(B) | 40 % | 60 % | 12.3 |" in text, text
    assert "|  | oracle |  | not reached: 0.3 with 50 % |  | 1.0 |" in text, text
    assert "Not measured: lacache: it cannot." in text and "3 of 18 layers, which hold 17 %" in text, text


def check_passkeys(script, folder, page):
    score = {"right": 0.5, "low": 0.1, "high": 0.9, "log_probability": -2}
    cell = {"task": "passkey", "budget": "", "bytes": 1.0, "later": None}
    cells = [cell | {"method": m, "depth": d, "first": score | {"right": r}, "hidden": score | {"right": r}}
             for m, r in (("full", 1.0), ("h2o", 0.5)) for d in (0, 0.5)]
    head = {"model": "m", "command": "larder eval tasks", "sessions": 2, "turns": 1, "admitted": 0.8}
    for tokens in (4000, 500):
        (folder / f"passkeys-{tokens}.json").write_text(json.dumps(head | {"tokens": tokens, "cells": cells}))
    assert write(script, folder, page).returncode == 0
    text = page.read_text()
    assert "| depth 0 | depth 0.5 |" in text and "| 4000 | h2o | - | 100 % | 50 % / 50 % | 50 % / 50 % |" in text, text
    assert text.index("| 500 | full") < text.index("| 4000 | full"), "the shortest first"


def check_copies(script, folder, page):
    gap = {"gap": 64, "copies": 3, "log_probability": {"mean": -1, "low": -2, "high": 0}}
    passes = [{"method": m, "budget": "255", "copies": {"first_time": -9,
               "gaps": [gap | {"more_than_first": {"mean": more, "low": more, "high": more}}]}} for m, more in (("a", 0), ("b", 0.5))]
    (folder / "copies.json").write_text(json.dumps({"model": "m", "command": "larder eval stream", "tokens": 9, "passes": passes}))
    assert write(script, folder, page).returncode == 0
    assert "| b | 255 | -9.00 | -1.00, +0.50 (+0.50 .. +0.50) |" in page.read_text(), page.read_text()


def docs_text(docs):
    return pathlib.Path(docs).read_text()


if __name__ == "__main__":
    main()
