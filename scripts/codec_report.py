"""Writes what codecs cost in quality into a page, between its two marks.

    codec_report.py FOLDER PAGE CODEC...        FOLDER has the JSON files of scripts/codec_report, in the codecs' order
"""
import datetime
import json
import pathlib
import sys

BEGIN, END = "<!-- figures, written by scripts/codec_report -->", "<!-- end of figures -->"
HEAD = ["`--kv-type`", "mean KL", "99 %", "same first choice", "perplexity ratio", "bytes"]


def row(codec, result):
    base, candidate = result["base"]["kv_bytes"], result["candidate"]["kv_bytes"]
    return [f"`{codec}`", f"{result['kl_mean']:.2g} +- {result['kl_mean_error']:.1g}", f"{result['kl_99']:.2g}",
            f"{100 * result['same_top']:.2f} %",
            f"{result['perplexity_ratio']:.4f} +- {result['perplexity_ratio_error']:.4f}", f"{candidate / base:.3f}"]


def section(folder, name, window, codecs):
    results = [json.loads((folder / f"{name}-{window}-{i}.json").read_text()) for i in range(len(codecs))]
    rows = [row(*pair) for pair in zip(codecs, results)]
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)] + ["| " + " | ".join(r) + " |" for r in rows]
    return (f"{results[0]['model']}, {results[0]['scored']} tokens in windows of {window}:\n\n" + "\n".join(lines))


def main():
    folder, page, codecs = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:]
    files = sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"{folder} has no results; run scripts/codec_report without --only-write")
    parts = [section(folder, name, window, codecs) for name in ("smollm2", "gemma3") for window in (2048, 8190)
             if (folder / f"{name}-{window}-{len(codecs) - 1}.json").exists()]
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page} has no place for figures: the lines {BEGIN} and {END}")
    measured = datetime.date.fromtimestamp(max(f.stat().st_mtime for f in files))
    page.write_text(f"{before}{BEGIN}\n\nMeasured {measured}.\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


if __name__ == "__main__":
    main()
