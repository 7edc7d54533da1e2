#!/usr/bin/env python3
"""OpenVINO GenAI as a peer of `larder bench`; see peer_protocol.py. Its continuous batching pipeline reads the GGUF file
itself; f16 cache, as many tokens in a step as there are."""
import openvino as ov
import openvino_genai as genai

from peer_protocol import Timer, filler, serve

CACHE_GB = 4


class OpenVino:
    def __init__(self):
        self.seed = self.requests = 0
        self.prompts = {}  # (sequence, length) -> tokens that are in the prefix cache after the first time

    def load(self, path, threads, reuse):
        scheduler = genai.SchedulerConfig()
        scheduler.cache_size = CACHE_GB
        scheduler.enable_prefix_caching = reuse  # so that a standing context is paid once; never for prefill
        scheduler.dynamic_split_fuse = True
        scheduler.max_num_batched_tokens = 16384
        self.pipeline = genai.ContinuousBatchingPipeline(path, scheduler, "CPU", {
            "INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": ov.Type.f16, "PERFORMANCE_HINT": "LATENCY"})
        self.vocabulary = len(self.pipeline.get_tokenizer().get_vocab())
        return {"engine": "OpenVINO GenAI", "version": genai.__version__}

    def tokens(self, count):
        self.seed += 1
        return filler(count, self.vocabulary, self.seed)

    def start(self, prompt, count):
        config = genai.GenerationConfig()
        config.max_new_tokens = config.min_new_tokens = count
        config.ignore_eos = True
        config.do_sample = False
        self.requests += 1
        return self.pipeline.add_request(self.requests, ov.Tensor(prompt.reshape(1, -1)), config)

    def finish(self, handles):
        for handle in handles:
            handle.cancel()
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()

    def prefill(self, count):
        handle = self.start(self.tokens(count), 2)
        timer = Timer()
        while not handle.can_read():
            self.pipeline.step()
        result = timer.result(count)
        self.finish([handle])
        return result

    def batch(self, sequences, length, count):
        handles = []
        for sequence in range(sequences):
            if (sequence, length) not in self.prompts:
                self.prompts[sequence, length] = self.tokens(length)
            handles.append(self.start(self.prompts[sequence, length], count + 8))
        while not all(handle.can_read() for handle in handles):
            self.pipeline.step()
        self.pipeline.step()  # all decode from here on
        timer = Timer()
        for _ in range(count):
            self.pipeline.step()
        result = timer.result(sequences * count)
        self.finish(handles)
        return result


if __name__ == "__main__":
    serve(OpenVino())
