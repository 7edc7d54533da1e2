#!/usr/bin/env python3
"""Does a published load tool work against the server, and does it count what the server did?

    LARDER_URL=http://127.0.0.1:PORT load_tool_client.py PYTHON [REQUESTS] [CONCURRENCY]

PYTHON is an interpreter with aiperf (scripts/python_env load). It sends streaming chat requests, polls /metrics beside them and
reports errors, tokens and times. Token counts are the server's; the tokenizer it insists on loading is made here, of
single bytes.
"""
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile

OUTPUT_TOKENS = 12
MAKE_TOKENIZER = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet()) + ["<end>"]
tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<end>").save_pretrained(sys.argv[1])
"""


def write_questions(path):
    """A shared beginning, so that some of the load can be served from the cache."""
    rng = random.Random(5)
    words = "harbour lantern apple seven orchard quiet copper winter letter bridge garden silver kettle morning".split()
    shared = "The following is a list of words from an old inventory. " + " ".join(rng.choices(words, k=80))
    with open(path, "w") as out:
        for i in range(16):
            text = f"{shared} {' '.join(rng.choices(words, k=20))} Question {i}: which word comes last?"
            out.write(json.dumps({"text": text, "output_length": OUTPUT_TOKENS}) + "\n")


def run(python, folder, requests, concurrency):
    environment = os.environ | {"HF_HOME": str(folder / "hf"), "NO_COLOR": "1"}
    subprocess.run([python, "-c", MAKE_TOKENIZER, str(folder / "tokenizer")], check=True, env=environment)
    write_questions(folder / "questions.jsonl")
    aiperf = pathlib.Path(python).parent / "aiperf"
    subprocess.run(
        [aiperf, "profile", "--model", "larder", "--url", os.environ["LARDER_URL"], "--endpoint-type", "chat", "--streaming",
         "--input-file", folder / "questions.jsonl", "--custom-dataset-type", "single_turn", "--use-server-token-count",
         "--tokenizer", folder / "tokenizer", "--extra-inputs", "ignore_eos:true", "--extra-inputs", "temperature:0",
         "--concurrency", str(concurrency), "--request-count", str(requests), "--ui", "none", "--no-gpu-telemetry",
         "--artifact-dir", folder / "results"],
        check=True, env=environment, stdin=subprocess.DEVNULL)
    return json.loads((folder / "results" / "profile_export_aiperf.json").read_text())


def main():
    python = sys.argv[1]
    requests, concurrency = int((sys.argv[2:3] or [64])[0]), int((sys.argv[3:4] or [16])[0])
    with tempfile.TemporaryDirectory() as folder:
        result = run(python, pathlib.Path(folder), requests, concurrency)
    value = lambda name, kind="avg": result[name][kind]
    assert value("request_count") == requests, f"{value('request_count')} of {requests} requests were answered"
    assert not result.get("error_summary"), result["error_summary"]
    assert value("output_sequence_length", "min") == value("output_sequence_length", "max") == OUTPUT_TOKENS, result["output_sequence_length"]
    assert value("time_to_first_token", "min") > 0
    cached = value("total_usage_prompt_cache_read_tokens")
    assert cached > 0, "nothing was reported as cached, although the questions share their beginning"
    print(f"{requests} requests at concurrency {concurrency}, {cached:.0f} prompt tokens from the cache")


if __name__ == "__main__":
    main()
