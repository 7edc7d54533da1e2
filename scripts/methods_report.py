"""Writes the figures of larder eval into a page, between its two marks.

    methods_report.py FOLDER PAGE        FOLDER has the JSON files of scripts/methods_report
"""
import datetime
import json
import pathlib
import sys

BEGIN, END = "<!-- figures, written by scripts/methods_report -->", "<!-- end of figures -->"


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def command(result):
    return f"```\n{result['command']}\n```"


def interval(estimate, mean, digits=4):
    return f"{estimate[mean]:+.{digits}f} ({estimate['low']:+.{digits}f} .. {estimate['high']:+.{digits}f})"


def fidelity(result, title="Fidelity"):
    """Results of older programs have no differences, no speed, and no bytes but the private ones."""
    arms, full = result["arms"], result["full_bytes"]
    bases = [b for b in result.get("bases", []) if any(d["base"] == b for arm in arms for d in arm["text"]["differences"])]
    alone = all("tokens_per_s" in arm for arm in arms)
    rows = []
    for arm in arms:
        text, greedy = arm["text"], arm["greedy"]
        differences = {d["base"]: interval(d, "kl") for d in text.get("differences", [])}
        entries = f" ({arm['budget_entries']})" if arm.get("budget_entries") else ""
        rows.append([arm["method"], (arm["budget"] or "-") + entries,
                     f"{100 * arm.get('resident_bytes', arm['private_bytes']) / full:.0f} %",
                     f"{text['kl_mean']:.4f}", f"{text['kl_low']:.4f} .. {text['kl_high']:.4f}",
                     *[differences.get(base, "") for base in bases], f"{text['kl_median']:.4f}",
                     f"{text['kl_99']:.3f}", f"{100 * text['same_top']:.1f} %", f"{text['perplexity_ratio']:.4f}",
                     f"{greedy['kl_mean']:.4f}", f"{100 * greedy['same_top']:.1f} %"])
        if alone:
            rows[-1] += [f"{100 * arm['peak_bytes'] / full:.0f} %", f"{arm['tokens_per_s']:.0f}"]
    head = ["method", "budget", "bytes", "KL", "95 %", *[f"KL less that of {base}, 95 %" for base in bases], "median", "99 %",
            "same first choice", "perplexity ratio", "KL, greedy", "same first choice, greedy"]
    notes = ""
    if any(arm.get("budget_entries") for arm in arms):
        notes += (" Budgets in parentheses are entries, lowered so that all methods of a budget have equally many pages of 64 "
                  "with room for the next token.")
    if "its parts" in bases:
        notes += (" Behind @: full pages of what the method has left become codes, and later ones when they are full. "
                  "Its parts: the method and the codec alone, added up.")
    if alone:
        head += ["peak", "tokens/s"]
        notes += " Peak and tokens/s: each by itself on the first document, from its first token on, continued token by token."
    if result.get("evicting_layers", 0) < result.get("layers", 0):
        notes += (f" Methods drop from {result['evicting_layers']} of {result['layers']} layers, which hold "
                  f"{100 * result['evicting_bytes'] / full:.0f} % of the full cache; the others see a window.")
    return (f"### {title}\n\n{result['model']}, {result['documents']} documents of {result['prompt_tokens']} + "
            f"{result['scored_tokens']} tokens of `scripts/eval_text`; greedy: the full cache's own continuation before it "
            f"repeats 16 tokens, {result['greedy_tokens']:.0f} tokens in each of {result['greedy_documents']} documents. Full "
            f"cache {full / 2**20:.1f} MiB; bytes are shares of it.{notes}\n\n{command(result)}\n\n{table(head, rows)}"
            f"{refused(result)}{equal_loss(result)}")


def refused(result):
    """What the model cannot have, a sentence each."""
    return "".join(f"\n\nNot measured: {method}: {reason}." for method, reason in result.get("refused", {}).items())


def equal_loss(result):
    """The survey's table: leaf, method, bytes at one divergence, time, memory class."""
    if "at_equal_loss" not in result:
        return ""
    rows = [[at["leaf"], at["method"], at["memory"], at["shown"], f"{100 * max(0, 1 - at['bytes']):.0f} %" if at["reached"] else "",
             f"{at['ms_per_token']:.1f}"] for at in result["at_equal_loss"]["methods"]]
    return (f"\n\nBytes at a mean KL of {result['at_equal_loss']['kl']}, between the budgets above on logarithmic axes; time is that "
            f"of the smallest measured budget within it, else of the largest:\n\n"
            f"{table(['leaf', 'method', 'memory', 'bytes', 'saved', 'ms a token'], rows)}")


def score(cell, which, admitted):
    value = cell[which]
    return f"{100 * value['right']:.0f} %" if admitted else f"{value['log_probability']:.2f}"


def retrieval(result, title):
    tasks = list(dict.fromkeys(cell["task"] for cell in result["cells"]))
    full = {cell["task"]: cell for cell in result["cells"] if cell["method"] == "full"}
    admitted = {task: task in full and full[task]["hidden"]["right"] >= result["admitted"] for task in tasks}
    arms = {}
    for cell in result["cells"]:
        arms.setdefault((cell["method"], cell["budget"] or "-"), {})[cell["task"]] = cell
    rows = []
    for (method, budget), cells in arms.items():
        row = [method, budget, f"{100 * cells[tasks[0]]['bytes']:.0f} %"]
        rows.append(row + [score(cells[t], w, admitted[t]) for t in tasks for w in ("first", "later", "hidden")])
    head = ["method", "budget", "bytes"] + [f"{t}: {w}" for t in tasks for w in ("seen", "later", "hidden")]
    left_out = [f"{t} (full cache: {100 * full[t]['hidden']['right']:.0f} % right)" for t in tasks if t in full and not admitted[t]]
    note = ("\n\nMean log-probability of the right answer instead of right answers, because the model does not solve the task: "
            + ", ".join(left_out) + ".") if left_out else ""
    return (f"### {title}\n\n{result['model']}, {result['sessions']} sessions a task, contexts of {result['tokens']} tokens, "
            f"{result['turns']} questions each.\n\n{command(result)}\n\n{table(head, rows)}{note}{prefill(result)}{refused(result)}")


def prefill(result):
    tokens = result.get("prefill_tokens", {})
    if not tokens.get("shared"):
        return ""
    return (f"\n\nPrompt tokens of all questions: {tokens['shared']} with each context computed once, {tokens['again']} with it again "
            f"for every question: {tokens['again'] / tokens['shared']:.2f} times as many.")


def passkeys(results):
    """A fact at depths of contexts of several lengths, each length a result: seen / hidden, right answers."""
    rows = []
    for result in results:
        cells = [cell for cell in result["cells"] if "depth" in cell]
        depths = sorted({cell["depth"] for cell in cells})
        full = {cell["depth"]: cell["hidden"]["right"] for cell in cells if cell["method"] == "full"}
        for method, budget in dict.fromkeys((cell["method"], cell["budget"]) for cell in cells):
            row = [cell for cell in cells if (cell["method"], cell["budget"]) == (method, budget)]
            rows.append([str(result["tokens"]), method, budget or "-", f"{100 * row[0]['bytes']:.0f} %"])
            for cell in sorted(row, key=lambda cell: cell["depth"]):
                admitted = full.get(cell["depth"], 0) >= result["admitted"]
                rows[-1].append(f"{score(cell, 'first', admitted)} / {score(cell, 'hidden', admitted)}")
    first = results[0]
    return (f"### Pass keys\n\n{first['model']}, {first['sessions']} contexts of one fact and filler at each depth, from 0 (at the "
            f"beginning) to 1 (at the end). Right answers, question seen / hidden; where the full cache solves less than "
            f"{100 * first['admitted']:.0f} %, the mean log-probability of the right one.\n\n{command(first)}\n\n"
            f"{table(['tokens', 'method', 'budget', 'bytes', *[f'depth {d:g}' for d in depths]], rows)}{refused(first)}")


def copies(result):
    """Of a stream with strings that come again."""
    gaps = [score["gap"] for score in result["passes"][0]["copies"]["gaps"]]
    rows = [[p["method"], p["budget"] or "-", f"{p['copies']['first_time']:.2f}",
             *[f"{g['log_probability']['mean']:.2f}, {interval(g['more_than_first'], 'mean', 2)}" for g in p["copies"]["gaps"]]]
            for p in result["passes"]]
    counts = ", ".join(str(g["copies"]) for g in result["passes"][0]["copies"]["gaps"])
    return (f"### Copies in a stream\n\n{result['model']}, {result['tokens']} tokens with strings of 16 in them that come again: mean "
            f"log-probability of a token the first time and after each gap, and what that is above the first method's of the same "
            f"budget (95 %). {counts} copies.\n\n{command(result)}\n\n"
            f"{table(['method', 'budget', 'first time', *[f'after {gap}' for gap in gaps]], rows)}")


def stream(result):
    passes = result["passes"]
    extra = [(key, title) for key, title in (("less_than_windows", "below windows, 95 %"),
                                             ("excess_of_first", "above the full cache, share of the first's, 95 %"))
             if any(key in p for p in passes)]
    rows = [[p["method"], p["budget"] or "-", f"{p['perplexity']:.2f}",
             f"{p['log_perplexity_less']:+.4f} ({p['less_low']:+.4f} .. {p['less_high']:+.4f})",
             *[interval(p[key], "mean") if key in p else "" for key, _ in extra],
             f"{p['perplexity_by_eighths'][0]:.2f} .. {p['perplexity_by_eighths'][-1]:.2f}",
             f"{p['bytes_high']}" if p["bytes_low"] == p["bytes_high"] else f"{p['bytes_low']} to {p['bytes_high']}",
             f"{p['peak_bytes']}", f"{p['tokens_per_s']:.0f}"] for p in passes]
    head = ["method", "budget", "perplexity", "log-perplexity below the first, 95 %", *[title for _, title in extra],
            "first .. last eighth", "bytes", "peak", "tokens/s"]
    return (f"### Streams\n\n{result['model']}, {result['tokens']} tokens in one go. Windows begin anew every half of their "
            f"length, and each computes its tokens again. The bytes are those held after every piece of the second half.\n\n"
            f"{command(result)}\n\n{table(head, rows)}")


SECTIONS = {"fidelity": fidelity, "compositions": lambda r: fidelity(r, "Methods together with codecs"),
            "retrieval": lambda r: retrieval(r, "Retrieval: a constructed model that only looks up"),
             "trained": lambda r: retrieval(r, "Retrieval: a trained model that only looks up"),
             "sentences": lambda r: retrieval(r, "Retrieval: a real model"), "stream": stream, "copies": copies}


def main():
    folder, page = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    parts = []
    for name, write in SECTIONS.items():
        if (folder / f"{name}.json").exists():
            parts.append(write(json.loads((folder / f"{name}.json").read_text())))
    keys = [json.loads(path.read_text()) for path in folder.glob("passkeys-*.json")]
    if keys:
        parts.append(passkeys(sorted(keys, key=lambda result: result["tokens"])))
    if not parts:
        sys.exit(f"{folder} has no results; run scripts/methods_report without --only-write")
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{page} has no place for figures: the lines {BEGIN} and {END}")
    measured = datetime.date.fromtimestamp(max(f.stat().st_mtime for f in folder.glob("*.json")))
    page.write_text(f"{before}{BEGIN}\n\nMeasured {measured}.\n\n" + "\n\n".join(parts) + f"\n\n{END}{after}")


if __name__ == "__main__":
    main()
