#!/usr/bin/env python3
"""Asks a running server one long question twice and prints what the cache saved.

    scripts/demo.py [--url http://127.0.0.1:8080] [--server-pid PID]

The question is this project's own architecture page and a request for a summary. Every figure is measured or comes from
the server's answer. A line that differs in every run stands at the head of the text, so that the first time is always cold.
"""
import argparse
import http.client
import json
import os
import pathlib
import secrets
import sys
import time
import urllib.parse

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "architecture.md"
PAGE_CHARACTERS = 6000  # about 1,500 tokens
ANSWER_TOKENS = 40


class Failed(Exception):
    pass


def connect(url, timeout):
    parts = urllib.parse.urlsplit(url)
    return http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=timeout)


def get(url, path):
    connection = connect(url, 10)
    connection.request("GET", path)
    answer = connection.getresponse()
    body = answer.read()
    return answer.status, json.loads(body) if body[:1] == b"{" else {}


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until_ready(url, pid, seconds=300):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if pid and not is_alive(pid):
            raise Failed("the server has ended")
        try:
            if get(url, "/health")[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise Failed(f"no answer from {url}/health after {seconds} s")


def events(answer):
    """The JSON values of a server-sent event stream."""
    for line in answer:
        if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
            yield json.loads(line[len(b"data: ") :])


def ask(url, text, chat):
    """Streams one answer and shows it; returns seconds to the first token, and the last chunk's usage and explanation."""
    request = {"max_tokens": ANSWER_TOKENS, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
               "larder": {"explain": True}}
    request |= {"messages": [{"role": "user", "content": text}]} if chat else {"prompt": text}
    connection = connect(url, 600)
    start = time.monotonic()
    connection.request("POST", "/v1/chat/completions" if chat else "/v1/completions", json.dumps(request),
                       {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise Failed(f"the server answered {answer.status}: {answer.read().decode(errors='replace')}")
    first, usage, explain = None, {}, {}
    print("    ", end="")
    for event in events(answer):
        if "error" in event:
            raise Failed(event["error"].get("message", "the answer broke off"))
        if event.get("choices") and first is None:
            first = time.monotonic() - start
        for choice in event.get("choices", []):
            piece = choice["delta"].get("content") if chat else choice.get("text")
            print((piece or "").replace("\n", "\n    "), end="", flush=True)
        usage = event.get("usage") or usage
        explain = event.get("larder") or explain
    print("\n")
    if first is None:
        raise Failed("the answer had no tokens")
    return first, usage, explain


def report(name, first, usage, explain):
    reused = usage.get("prompt_tokens_details", {}).get("cached_tokens", 0)
    cache = explain.get("cache", {})
    computed = cache.get("recomputed", usage["prompt_tokens"] - reused)
    print(f"  {name}: first token after {first:.3f} s; {usage['prompt_tokens']} prompt tokens, {reused} reused, {computed} computed")
    return computed


def demonstrate(url):
    status, info = get(url, "/tokenizer_info")
    chat = status != 200 or bool(info.get("chat_template"))
    page = PAGE.read_text(encoding="utf-8")[:PAGE_CHARACTERS]
    text = f"Visitor {secrets.token_hex(4)} reads this page:\n\n{page}\n\nIn one sentence: what is Larder?"
    print("\nA long question, cold:")
    cold = ask(url, text, chat)
    print("The same again, warm:")
    warm = ask(url, text, chat)
    print("What happened:")
    computed = [report(name, *result) for name, result in (("cold", cold), ("warm", warm))]
    saved = cold[0] - warm[0]
    print(f"  saved: {saved:.3f} s of {cold[0]:.3f} s to the first token ({saved / cold[0]:.1%}), "
          f"{computed[0] - computed[1]} of {computed[0]} tokens not computed again\n", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--server-pid", type=int, default=0, help="give up when this process is gone")
    arguments = parser.parse_args()
    try:
        wait_until_ready(arguments.url, arguments.server_pid)
        demonstrate(arguments.url)
    except (Failed, OSError, http.client.HTTPException) as problem:
        sys.exit(f"demo: {problem}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
