#!/usr/bin/env python3
"""Does a published evaluation tool get right scores, with no tokenizer but the server's own?

    LARDER_URL=http://127.0.0.1:PORT lm_eval_client.py PYTHON

PYTHON is an interpreter with lm-eval (scripts/python_env lm-eval). lm-eval scores the choices of a small task through
/v1/completions (echo with logprobs) and takes its tokens from /tokenize and /tokenizer_info. Every score is compared with
the sum of log-probabilities that this script asks for itself, prompt and choice as one token list, so that a token lost or
counted twice on the way is seen. A second run must give the same scores, bit for bit: by then the cache is warm.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

TASK = pathlib.Path(__file__).resolve().parent / "lm_eval"
URL = os.environ["LARDER_URL"]


def post(path, body):
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.load(answer)


def evaluate(python, folder):
    """Runs lm-eval; returns its samples, {doc_id: [score of each choice]}, and the accuracy."""
    (folder / "task").mkdir(parents=True)
    task = (TASK / "larder_choice.yaml").read_text().replace("{data}", str(TASK / "questions.jsonl"))
    (folder / "task" / "larder_choice.yaml").write_text(task)
    arguments = f"base_url={URL}/v1/completions,model=larder,tokenizer_backend=remote,tokenized_requests=True,num_concurrent=4"
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run([python, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", arguments, "--tasks", "larder_choice",
                    "--include_path", str(folder / "task"), "--output_path", str(folder / "out"), "--log_samples", "--batch_size", "1"],
                   check=True, env=environment, stdin=subprocess.DEVNULL)
    results = json.loads(next((folder / "out").rglob("results_*.json")).read_text())
    lines = next((folder / "out").rglob("samples_*.jsonl")).read_text().splitlines()
    samples = {s["doc_id"]: [float(answer[0][0]) for answer in s["resps"]] for s in map(json.loads, lines)}
    return samples, results["results"]["larder_choice"]["acc,none"]


def score(question, choice):
    """The log-probability of the choice after the question, from one request of our own."""
    context = f"Question: {question}\nAnswer:"
    whole = post("/tokenize", {"prompt": f"{context} {choice}", "add_special_tokens": False})["tokens"]
    begin = len(post("/tokenize", {"prompt": context, "add_special_tokens": False})["tokens"])
    answer = post("/v1/completions", {"prompt": whole, "max_tokens": 0, "echo": True, "logprobs": 0})
    return sum(answer["choices"][0]["logprobs"]["token_logprobs"][begin:])


def main():
    python = sys.argv[1]
    questions = [json.loads(line) for line in (TASK / "questions.jsonl").read_text().splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        cold, accuracy = evaluate(python, pathlib.Path(folder) / "cold")
        warm, _ = evaluate(python, pathlib.Path(folder) / "warm")
    assert cold == warm, "a second run gave other scores"
    assert len(cold) == len(questions), f"{len(cold)} of {len(questions)} questions were scored"
    best = 0
    for number, question in enumerate(questions):
        own = [score(question["question"], choice) for choice in question["choices"]]
        for choice, theirs, ours in zip(question["choices"], cold[number], own):
            assert math.isclose(theirs, ours, rel_tol=1e-6, abs_tol=1e-5), f"{question['question']} {choice}: {theirs} and {ours}"
        best += max(range(len(own)), key=own.__getitem__) == question["answer"]
    assert math.isclose(accuracy, best / len(questions)), f"accuracy {accuracy}, by our own count {best} of {len(questions)}"
    print(f"{len(questions)} questions, {sum(map(len, cold.values()))} scores agree, accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
