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


def docs_text(docs):
    return pathlib.Path(docs).read_text()


if __name__ == "__main__":
    main()
