#!/usr/bin/env python3
"""Starts a server, runs a client program against it, and sees that the server came through it well.

    run_with_server.py --larder PROGRAM --model FILE [--tenants N] [--tls] [--serve OPTION]... -- SCRIPT [ARGUMENT...]

FILE may be smollm2 or gemma3: the files named by LARDER_SMOLLM2 and LARDER_GEMMA3. SCRIPT is run with LARDER_PYTHON (with
this interpreter if --stdlib is given) and with these variables in its environment:

    LARDER_URL       http://127.0.0.1:PORT, or https:// with --tls
    LARDER_CA        with --tls: file of the certificate, made for this run
    LARDER_PID       of the server
    LARDER_KEYS      tenant-0=KEY,tenant-1=KEY,... if --tenants is given: the server then runs with these API keys
    OPENAI_API_KEY   the key of tenant-0, or "none"

Fails if the script fails, if afterwards a request is still running or waiting, if the server is dead, or if SIGTERM does
not end it cleanly. Exit code 77 (skipped) when LARDER_PYTHON or the model is not there; scripts/test sets all of them.
--tls wants the program openssl.
"""
import argparse
import json
import os
import pathlib
import re
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

SKIPPED = 77
START_SECONDS = 240  # sanitizers are slow
SETTLE_SECONDS = 60
STOP_SECONDS = 60


class Broken(Exception):
    pass


def find_model(name):
    path = {"smollm2": os.environ.get("LARDER_SMOLLM2"), "gemma3": os.environ.get("LARDER_GEMMA3")}.get(name, name)
    if not path or not pathlib.Path(path).is_file():
        print(f"skipped: no model {name}; scripts/test fetches it")
        sys.exit(SKIPPED)
    return path


def make_certificate(folder):
    if not shutil.which("openssl"):
        print("skipped: no openssl to make a certificate with")
        sys.exit(SKIPPED)
    certificate, key = pathlib.Path(folder) / "server.pem", pathlib.Path(folder) / "server.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
                    "-subj", "/CN=larder test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return certificate, key


class Server:
    def __init__(self, arguments, folder):
        self.keys = {f"tenant-{i}": secrets.token_hex(16) for i in range(arguments.tenants)}
        self.log_path = pathlib.Path(folder) / "server.log"
        command = [arguments.larder, "serve", "--model", find_model(arguments.model), "--host", "127.0.0.1", "--port", "0"]
        if self.keys:
            key_file = pathlib.Path(folder) / "keys"
            key_file.write_text("# tenants of this test\n" + "".join(f"{t}: {k}\n" for t, k in self.keys.items()))
            command += ["--api-keys", str(key_file)]
        self.certificate, self.tls = None, None
        if arguments.tls:
            self.certificate, key = make_certificate(folder)
            self.tls = ssl.create_default_context(cafile=self.certificate)
            command += ["--tls-cert", str(self.certificate), "--tls-key", str(key)]
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(command + arguments.serve, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.url = None

    def log(self):
        return self.log_path.read_text(errors="replace")

    def must_live(self):
        if self.process.poll() is not None:
            raise Broken(f"the server ended with exit code {self.process.returncode}")

    def get(self, path):
        request = urllib.request.Request(self.url + path)
        for key in list(self.keys.values())[:1]:
            request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=30, context=self.tls) as answer:
            return json.loads(answer.read() or b"null")

    def wait_until_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            self.must_live()
            listening = re.search(r"https?://127\.0\.0\.1:([1-9]\d*)", self.log())
            if listening:
                self.url = listening[0]
                try:
                    self.get("/health")
                    return
                except (urllib.error.URLError, OSError, json.JSONDecodeError):
                    pass
            time.sleep(0.05)
        raise Broken(f"the server was not ready after {START_SECONDS} s")

    def wait_until_idle(self):
        """Whatever the client left behind (closed connections, cancelled requests) must end by itself."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            self.must_live()
            stats = self.get("/v1/cache/stats")
            if stats["requests"]["running"] == 0 and stats["requests"]["waiting"] == 0:
                return
            if time.monotonic() > deadline:
                raise Broken(f"requests are left after {SETTLE_SECONDS} s: {stats['requests']}")
            time.sleep(0.1)

    def stop(self):
        self.must_live()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            raise Broken(f"SIGTERM did not end the server within {STOP_SECONDS} s") from None
        if code != 0:
            raise Broken(f"after SIGTERM the server ended with exit code {code}")


def run_client(arguments, server):
    interpreter = sys.executable if arguments.stdlib else os.environ["LARDER_PYTHON"]
    environment = os.environ | {
        "LARDER_URL": server.url,
        "LARDER_PID": str(server.process.pid),
        "LARDER_KEYS": ",".join(f"{tenant}={key}" for tenant, key in server.keys.items()),
        "OPENAI_API_KEY": next(iter(server.keys.values()), "none"),
        "LARDER_SERVER_PID": str(server.process.pid),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if server.certificate:
        environment["LARDER_CA"] = str(server.certificate)
    done = subprocess.run([interpreter, *arguments.script], env=environment, timeout=arguments.timeout, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Broken(f"{pathlib.Path(arguments.script[0]).name} ended with exit code {done.returncode}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--larder", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--tenants", type=int, default=0)
    parser.add_argument("--tls", action="store_true", help="the server speaks HTTPS")
    parser.add_argument("--serve", action="append", default=[], metavar="OPTION", help="an option of larder serve: --serve=--threads=2")
    parser.add_argument("--stdlib", action="store_true", help="the script needs only Python's own library")
    parser.add_argument("--timeout", type=float, default=800, help="of the script, in seconds")
    parser.add_argument("script", nargs="+")
    arguments = parser.parse_args()
    if not arguments.stdlib and "LARDER_PYTHON" not in os.environ:
        print("skipped: LARDER_PYTHON is not set; scripts/test sets it")
        sys.exit(SKIPPED)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(arguments, folder)
        try:
            server.wait_until_ready()
            run_client(arguments, server)
            server.wait_until_idle()
            server.stop()
        except (Broken, OSError, subprocess.TimeoutExpired) as problem:
            print(f"\n{problem}\nThe end of the server's log:\n" + "\n".join(server.log().splitlines()[-60:]))
            sys.exit(1)
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.process.wait()


if __name__ == "__main__":
    main()
