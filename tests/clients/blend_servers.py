#!/usr/bin/env python3
"""Does a server find the chunks of the one before it in a directory, and answer with the same bits?

    blend_servers.py --larder PROGRAM --model FILE
"""
import argparse
import json
import pathlib
import re
import signal
import subprocess
import tempfile
import time
import urllib.request


class Server:
    def __init__(self, arguments, folder):
        self.log = open(pathlib.Path(folder) / "server.log", "a+b")
        self.begun = self.log.tell()
        self.process = subprocess.Popen(
            [arguments.larder, "serve", "--model", arguments.model, "--host", "127.0.0.1", "--port", "0", "--reuse", "blend:ratio=0.2",
             "--disk", str(pathlib.Path(folder) / "store")], stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.url = self.find_url()

    def find_url(self):
        for _ in range(1200):
            assert self.process.poll() is None, self.text()
            found = re.search(r"on (http://127\.0\.0\.1:\d+)", self.text())
            if found:
                return found[1]
            time.sleep(0.05)
        raise AssertionError(self.text())

    def text(self):
        self.log.seek(self.begun)
        return self.log.read().decode(errors="replace")

    def call(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}), timeout=120) as answer:
            return json.loads(answer.read())

    def ask(self, prompt):
        answer = self.call("/v1/completions", {"prompt": prompt, "max_tokens": 12, "temperature": 0, "ignore_eos": True, "logprobs": 0,
                                               "return_token_ids": True, "larder": {"explain": True}})
        choice = answer["choices"][0]
        return (choice["token_ids"], choice["logprobs"]["token_logprobs"]), answer["larder"]["cache"]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.text()
        self.log.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--larder", required=True)
    parser.add_argument("--model", required=True)
    arguments = parser.parse_args()
    chunks = [[5 + (i * i * 7 + 13 * c + i) % 190 for i in range(130)] for c in range(2)]
    prompt = [9, 8, 7] + chunks[1] + [11, 12] + chunks[0] + [20, 30, 40]
    with tempfile.TemporaryDirectory() as folder:
        server = Server(arguments, folder)
        try:
            stored = server.call("/v1/cache/chunks", {"chunks": chunks})["data"]
            first, told = server.ask(prompt)
            assert told["blend"]["tokens_from_chunks"] == 260, told
            server.stop()
            server = Server(arguments, folder)
            again, told = server.ask(prompt)
            assert again == first, (again, first)
            assert [use["id"] for use in told["blend"]["chunks"]] == [stored[1]["id"], stored[0]["id"]], told
            assert server.call("/v1/cache/stats")["chunks"]["restored"] == 2
            assert all(one["state"] == "present" for one in server.call("/v1/cache/chunks", {"chunks": chunks})["data"])
            server.call("/v1/cache/wipe", {})
            _, told = server.ask(prompt)
            assert "blend" not in told, told
            server.stop()
            server = Server(arguments, folder)
            _, told = server.ask(prompt)
            assert "blend" not in told, told
            server.stop()
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()
    print("ok")


if __name__ == "__main__":
    main()
