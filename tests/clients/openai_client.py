#!/usr/bin/env python3
"""Does the openai package work against a real server?

    openai_client.py [--base-url http://127.0.0.1:PORT/v1] [--api-key KEY] [--ca FILE]

Works with any model, also a tiny one of random weights: it checks forms, counts and equalities, not what is said. Without
--base-url it takes LARDER_URL. A model without a chat template must refuse chats with the remedy; the rest is checked
through text completions then.
"""
import argparse
import asyncio
import json
import math
import os
import ssl
import sys
import time
import urllib.error
import urllib.request

import openai

STREAMS = 64
PATIENCE_SECONDS = 120


class Checks:
    def __init__(self, base_url, api_key, ca):
        self.base_url, self.root = base_url, base_url.removesuffix("/v1")
        self.api_key = api_key
        self.ca = ca
        self.tls = ssl.create_default_context(cafile=ca)
        self.client = self.connect()
        self.model = self.client.models.list().data[0].id
        self.chat_works = self.get("/tokenizer_info")["chat_template"] is not None

    def connect(self):
        http_client = openai.DefaultHttpxClient(verify=self.tls)
        return openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=PATIENCE_SECONDS,
                             http_client=http_client)

    def open(self, request):
        tls = {"context": self.tls} if self.root.startswith("https:") else {}
        return urllib.request.urlopen(request, timeout=PATIENCE_SECONDS, **tls)

    def get(self, path):
        request = urllib.request.Request(self.root + path, headers={"Authorization": f"Bearer {self.api_key}"})
        with self.open(request) as answer:
            return json.load(answer)

    def post(self, path, body):
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.root + path, json.dumps(body).encode(), headers)
        with self.open(request) as answer:
            return json.load(answer)

    def raw_stream(self, path, body):
        """The events of a stream as they are on the wire, after the checks every stream must pass."""
        headers = {"Authorization": f"Bearer {self.api_key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base_url + path, json.dumps(body).encode(), headers)
        with self.open(request) as answer:
            assert answer.headers["Content-Type"].startswith("text/event-stream"), answer.headers["Content-Type"]
            raw = answer.read()
        text = raw.decode("utf-8")
        for separator in ("\u0085", "\u2028", "\u2029"):
            assert separator not in text, "an unescaped line separator"
        events = text.split("\n\n")
        assert events.pop() == "", "the last event is not ended"
        assert all(event.startswith("data: ") and "\n" not in event for event in events), "something else than data lines"
        assert events.pop() == "data: [DONE]"
        return [json.loads(event[len("data: "):]) for event in events]

    def chat(self, **fields):
        fields = {"messages": [{"role": "user", "content": "Count from one to ten."}], "max_tokens": 12, "temperature": 0} | fields
        return self.client.chat.completions.create(model=self.model, **fields)

    def complete(self, **fields):
        fields = {"prompt": "One, two, three,", "max_tokens": 12, "temperature": 0} | fields
        return self.client.completions.create(model=self.model, **fields)

    # Models, without and with the name's escapes.
    def check_models(self):
        model = self.client.models.retrieve(self.model)
        assert model.id == self.model and model.root == self.model and model.max_model_len > 0
        refused(404, lambda: self.client.models.retrieve("no/such model"), code="model_not_found")

    def check_completions(self):
        answer = self.complete()
        assert answer.object == "text_completion" and answer.model == self.model
        assert answer.usage.completion_tokens <= 12
        assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
        again = self.complete(extra_body={"return_token_ids": True})
        assert again.choices[0].text == answer.choices[0].text, "greedy twice gives two answers"
        assert len(again.choices[0].token_ids) == answer.usage.completion_tokens
        ids = self.complete(prompt=again.choices[0].prompt_token_ids)
        assert ids.choices[0].text == answer.choices[0].text, "text and its tokens give two answers"

    def check_prompt_forms(self):
        answer = self.complete(prompt=["A b c", "D e f"], n=2, max_tokens=4, temperature=1, seed=5)
        assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
        single = self.complete(prompt="D e f", n=2, max_tokens=4, temperature=1, seed=5)
        assert [c.text for c in single.choices] == [c.text for c in answer.choices[2:]], "a batch changes the answer"

    def check_echo(self):
        """What evaluation tools rely on: N + max_tokens entries, values equal digit by digit."""
        prompt = self.complete(max_tokens=1, extra_body={"return_token_ids": True}).choices[0].prompt_token_ids
        scores = {}
        for max_tokens in (0, 1):
            answer = self.complete(prompt=prompt, max_tokens=max_tokens, echo=True, logprobs=1)
            logprobs = answer.choices[0].logprobs
            entries = len(prompt) + max_tokens
            for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                assert len(getattr(logprobs, name)) == entries, f"{name} has {len(getattr(logprobs, name))} entries, not {entries}"
            assert logprobs.token_logprobs[0] is None and logprobs.top_logprobs[0] is None
            for value, top in list(zip(logprobs.token_logprobs, logprobs.top_logprobs))[1:]:
                assert value in top.values() and value <= max(top.values()) and math.isfinite(value)
            scores[max_tokens] = logprobs.token_logprobs[: len(prompt)]
        assert scores[0] == scores[1], "the same prompt has two scores"

    def check_chat(self):
        if not self.chat_works:
            refused(400, self.chat, words="chat template")
            return
        answer = self.chat()
        choice = answer.choices[0]
        assert choice.message.role == "assistant" and choice.message.content is not None
        assert choice.finish_reason in ("stop", "length") and answer.usage.prompt_tokens > 0
        warm = self.chat(extra_body={"larder": {"explain": True}})
        assert warm.choices[0].message.content == choice.message.content, "warm is not cold"
        assert warm.usage.prompt_tokens_details.cached_tokens > 0, "the second time nothing was cached"
        cache = warm.larder["cache"]
        assert cache["read"]["memory"] + cache["recomputed"] == warm.usage.prompt_tokens
        assert cache["read"]["memory"] == warm.usage.prompt_tokens_details.cached_tokens
        many = self.chat(n=3, temperature=1, max_tokens=3)
        assert [c.index for c in many.choices] == [0, 1, 2]
        parts = self.chat(messages=[{"role": "developer", "content": "Be brief."},
                                    {"role": "user", "content": [{"type": "text", "text": "Hello"}]}])
        assert parts.choices[0].message.content is not None
        self.chat(stop=[], seed=None, logprobs=None, user="u", metadata={"a": "b"}, store=False)

    def check_chat_stream(self):
        if not self.chat_works:
            return
        whole = self.chat().choices[0]
        text, roles, finishes, usages = "", [], [], 0
        for chunk in self.chat(stream=True, stream_options={"include_usage": True}):
            usages += chunk.usage is not None
            for choice in chunk.choices:
                text += choice.delta.content or ""
                roles += [choice.delta.role] if choice.delta.role else []
                finishes += [choice.finish_reason] if choice.finish_reason else []
        assert text == whole.message.content and roles == ["assistant"] and finishes == [whole.finish_reason] and usages == 1
        # openai's own accumulator, which takes an answer for whole only if it was not cut: the end token is made certain.
        end = self.post("/tokenize", {"prompt": self.get("/tokenizer_info")["eos_token"], "add_special_tokens": False})["tokens"]
        with self.client.chat.completions.stream(model=self.model, messages=[{"role": "user", "content": "Hi"}], n=2,
                                                 logit_bias={str(end[0]): 100}, temperature=0) as stream:
            final = stream.get_final_completion()
        assert [c.message.role for c in final.choices] == ["assistant", "assistant"]
        assert [c.finish_reason for c in final.choices] == ["stop", "stop"]

    def check_chat_logprobs(self):
        if not self.chat_works:
            return
        content = self.chat(logprobs=True, top_logprobs=3, max_tokens=4).choices[0].logprobs.content
        assert 1 <= len(content) <= 4
        for entry in content:
            assert entry.bytes is not None and len(entry.top_logprobs) == 3
            assert entry.logprob == entry.top_logprobs[0].logprob, "greedy took another token than the best"

    def check_raw_events(self):
        body = {"model": self.model, "prompt": "One, two,", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 6,
                "temperature": 0, "stream": True, "n": 2}
        for path in ["/completions"] + ["/chat/completions"] * self.chat_works:
            for event in self.raw_stream(path, body):
                assert event["choices"] and "usage" not in event
            events = self.raw_stream(path, body | {"stream_options": {"include_usage": True, "continuous_usage_stats": True}})
            counts = [event["usage"]["completion_tokens"] for event in events]
            assert counts == sorted(counts) and events[-1]["choices"] == [] and all(e["choices"] for e in events[:-1])
            finishes = [c["index"] for e in events for c in e["choices"] if c["finish_reason"]]
            assert sorted(finishes) == [0, 1]

    def check_stop(self):
        text = self.complete(max_tokens=16).choices[0].text
        if len(text) < 4:
            return
        mark = text[len(text) // 2: len(text) // 2 + 2]
        cut = self.complete(max_tokens=16, stop=mark).choices[0]
        assert cut.text == text[: text.index(mark)] and cut.finish_reason == "stop", (text, mark, cut.text)
        streamed = "".join(chunk.choices[0].text for chunk in self.complete(max_tokens=16, stop=[mark], stream=True))
        assert streamed == cut.text, "the stream shows what the answer does not"

    def check_errors(self):
        refused(400, lambda: self.complete(temperature=-1), param="temperature")
        refused(400, lambda: self.complete(extra_body={"max_tokens": "many"}), param="max_tokens")
        refused(400, lambda: self.complete(prompt=[10**8]), param="prompt")
        limit = self.client.models.retrieve(self.model).max_model_len
        too_long = lambda: self.complete(prompt=[1] * (limit + 1))
        refused(400, too_long, code="context_length_exceeded", words=f"This model's maximum context length is {limit} tokens")
        refused(404, lambda: self.client.post("/nothing", cast_to=object))

    def check_cancellation(self):
        """A stream that is closed early must not go on computing."""
        stream = self.complete(prompt="Once", max_tokens=1000, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.client.close()  # the connection goes with it
        self.client = self.connect()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.get("/v1/cache/stats")["requests"]["running"]:
            assert time.monotonic() < deadline, "a cancelled request is still running"
            time.sleep(0.05)

    def check_concurrent_streams(self):
        async def one(client, i):
            text, finished = "", 0
            stream = await client.completions.create(model=self.model, prompt=f"Story number {i % 8}:", max_tokens=8, temperature=0,
                                                     stream=True, extra_body={"ignore_eos": True})
            async for chunk in stream:
                text += chunk.choices[0].text
                finished += chunk.choices[0].finish_reason is not None
            assert finished == 1
            return text

        async def every():
            async with openai.AsyncOpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=PATIENCE_SECONDS,
                                          http_client=openai.DefaultAsyncHttpxClient(verify=self.tls)) as client:
                return await asyncio.gather(*(one(client, i) for i in range(STREAMS)))

        texts = asyncio.run(every())
        for i, text in enumerate(texts):
            assert text == texts[i % 8], "the same greedy request gives two answers beside others"

    def check_tls(self):
        """Nobody is served who does not know the certificate, or who speaks in the clear."""
        if not self.ca:
            return
        stranger = openai.OpenAI(base_url=self.base_url, api_key=self.api_key, max_retries=0, timeout=PATIENCE_SECONDS)
        try:
            stranger.models.list()
            raise AssertionError("an unknown certificate was taken")
        except openai.APIConnectionError as error:
            assert isinstance(error.__cause__.__cause__, ssl.SSLError) or "CERTIFICATE_VERIFY_FAILED" in repr(error.__cause__), error
        try:
            urllib.request.urlopen(self.root.replace("https:", "http:") + "/health", timeout=PATIENCE_SECONDS)
            raise AssertionError("a request in the clear was answered")
        except urllib.error.HTTPError as error:
            assert error.code == 400 and json.load(error)["error"]["code"] == "https_required"

    def run(self):
        failed = 0
        for name in [name for name in dir(self) if name.startswith("check_")]:
            try:
                getattr(self, name)()
                print(f"ok      {name.removeprefix('check_')}", flush=True)
            except Exception as problem:  # every check gets its turn
                failed += 1
                print(f"FAILED  {name.removeprefix('check_')}: {type(problem).__name__}: {problem}", flush=True)
        return failed


def refused(status, call, param=None, code=None, words=""):
    try:
        call()
    except openai.APIStatusError as error:
        assert error.status_code == status, f"{error.status_code} instead of {status}: {error}"
        assert words in str(error), f"'{words}' is not in: {error}"
        assert param is None or error.body["param"] == param, error.body
        assert code is None or error.code == code, error.body
        return
    raise AssertionError(f"not refused, but {status} was due")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-url", default=os.environ.get("LARDER_URL", "http://127.0.0.1:8080") + "/v1")
    parser.add_argument("--api-key", default=os.environ.get("OPENAI_API_KEY", "none"))
    parser.add_argument("--ca", default=os.environ.get("LARDER_CA"), help="file of the certificates that https:// trusts")
    arguments = parser.parse_args()
    sys.exit(1 if Checks(arguments.base_url.rstrip("/"), arguments.api_key, arguments.ca).run() else 0)


if __name__ == "__main__":
    main()
