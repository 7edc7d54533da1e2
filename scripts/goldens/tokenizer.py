#!/usr/bin/env python3
"""Makes tests/data/tokenizer/goldens.json: digests of the token ids that independent implementations give.

The strings are made by rule from tests/data/tokenizer/corpus.json; tests/model/tokenizer_golden_test.cc makes the same
ones. Byte-level models are rebuilt with Hugging Face's `tokenizers` from the vocabulary and merges in the GGUF file and
the pre-tokenizer published with the model; SentencePiece models with Google's `sentencepiece` from the same pieces,
scores, types and character map.

  pip install numpy gguf tokenizers sentencepiece protobuf
  scripts/goldens/tokenizer.py --smollm2 FILE --gemma3 FILE --data DIR          writes the goldens (two minutes)
  scripts/goldens/tokenizer.py --smollm2 FILE --only smollm2 --show 4711        prints one string and its ids
"""
import argparse
import hashlib
import json
import pathlib
import struct

from gguf import GGUFReader

ROOT = pathlib.Path(__file__).resolve().parents[2]
DATA = ROOT / "tests" / "data" / "tokenizer"
STRINGS, CHUNK = 12000, 100
MASK = (1 << 64) - 1
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6

MARKER = "\u2581"

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


class Strings:
    def __init__(self):
        corpus = json.loads((DATA / "corpus.json").read_text(encoding="utf-8"))
        self.seed, self.longest = corpus["seed"], corpus["longest"]
        self.lists, self.code_points = corpus["lists"], corpus["code_points"]

    def next(self):  # splitmix64
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
        return z ^ z >> 31

    def make(self, index):
        self.state = (self.seed + index * 0x9E3779B97F4A7C15) & MASK
        kinds = len(self.lists) + 2
        kind = self.next() % kinds
        out = []
        for _ in range(1 + self.next() % self.longest):
            source = self.next() % (kinds - 1) if kind == kinds - 1 else kind
            if source == len(self.lists):
                low, high = self.code_points[self.next() % len(self.code_points)]
                out.append(chr(low + self.next() % (high - low + 1)))
            else:
                out.append(self.lists[source][self.next() % len(self.lists[source])])
        return "".join(out)


class Vocabulary:
    def __init__(self, path):
        reader = GGUFReader(path)

        def strings(key):
            field = reader.fields.get(key)
            return None if field is None else [bytes(field.parts[i]) for i in field.data]

        def value(key, default=None):
            field = reader.fields.get(key)
            return default if field is None else field.contents()

        prefix = "tokenizer.ggml."
        self.tokens = strings(prefix + "tokens")
        self.merges = strings(prefix + "merges")
        self.types = [int(t) for t in value(prefix + "token_type")]
        self.scores = value(prefix + "scores")
        self.unknown = value(prefix + "unknown_token_id", 0)
        self.space_prefix = value(prefix + "add_space_prefix", True)
        self.extra_spaces = value(prefix + "remove_extra_whitespaces", False)
        self.charsmap = bytes(b & 255 for b in value(prefix + "precompiled_charsmap", []))


def pre_tokenizer(name):
    """As in the tokenizer.json published with the model."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Punctuation, Sequence, Split

    def split(pattern, behavior="isolated"):
        return Split(Regex(pattern), behavior)

    level = ByteLevel(add_prefix_space=False, use_regex=True)
    plain = ByteLevel(add_prefix_space=False, use_regex=False)
    if name in ("gpt-2", "mpt"):
        return level
    if name in ("smollm2", "starcoder", "refact", "command-r"):
        return Sequence([Digits(individual_digits=True), level])
    if name == "falcon":
        return Sequence([Punctuation("contiguous"), level, Digits(individual_digits=False), split("[0-9][0-9][0-9]")])
    if name == "llama-bpe":
        letters = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        return Sequence([split(CONTRACTIONS + letters + SPACES), plain])
    if name == "qwen2":
        letters = r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        return Sequence([split(CONTRACTIONS + letters + SPACES), plain])
    if name == "qwen35":
        letters = r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
        return Sequence([split(CONTRACTIONS + letters + SPACES), plain])
    if name == "deepseek-coder":
        han = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
        return Sequence([split("[\r\n]"), split(r"\s?\p{L}+"), split(r"\s?\p{P}+"), split(han),
                         Digits(individual_digits=True), plain])
    raise ValueError(name)


def byte_level(name, vocabulary):
    from tokenizers import AddedToken, Tokenizer, models

    texts = [t.decode("utf-8", "replace") for t in vocabulary.tokens]
    merges = []
    for merge in vocabulary.merges:
        cut = merge.index(b" ", 1)
        merges.append((merge[:cut].decode(), merge[cut + 1:].decode()))
    vocab = {t: i for i, t in enumerate(texts) if vocabulary.types[i] == NORMAL}
    user_defined = [i for i, kind in enumerate(vocabulary.types) if kind == USER_DEFINED]
    vocab.update({texts[i]: i for i in user_defined})
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=name == "llama-bpe"))
    tokenizer.pre_tokenizer = pre_tokenizer(name)
    tokenizer.add_tokens([AddedToken(texts[i], normalized=False, special=False) for i in user_defined])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def character_bpe(vocabulary):
    """Gemma 4: characters, spaces written as U+2581, byte fallback."""
    from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

    texts = [t.decode("utf-8", "replace") for t in vocabulary.tokens]
    merges = []
    for merge in vocabulary.merges:
        cut = merge.index(b" ", 1)
        merges.append((merge[:cut].decode(), merge[cut + 1:].decode()))
    vocab = {t: i for i, t in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocab, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[^\n]+|[\n]+"), "isolated")
    user_defined = [texts[i] for i, kind in enumerate(vocabulary.types) if kind == USER_DEFINED]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t in user_defined])
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def sentence_piece(vocabulary, unigram):
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2 as pb

    model = pb.ModelProto()
    kinds = pb.ModelProto.SentencePiece
    for i, text in enumerate(vocabulary.tokens):
        piece = text.decode()
        if vocabulary.types[i] == USER_DEFINED:  # the converter to GGUF wrote its U+2581 as spaces
            piece = piece.replace(" ", MARKER)
        model.pieces.append(kinds(piece=piece, score=float(vocabulary.scores[i]), type=vocabulary.types[i]))
    if UNKNOWN not in vocabulary.types:
        model.pieces[vocabulary.unknown].type = UNKNOWN
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type = pb.TrainerSpec.UNIGRAM if unigram else pb.TrainerSpec.BPE
    trainer.byte_fallback = BYTE in vocabulary.types
    trainer.unk_id = vocabulary.unknown
    trainer.unk_piece = vocabulary.tokens[vocabulary.unknown].decode()
    normalizer.add_dummy_prefix = bool(vocabulary.space_prefix)
    normalizer.remove_extra_whitespaces = bool(vocabulary.extra_spaces)
    normalizer.escape_whitespaces = True
    normalizer.precompiled_charsmap = vocabulary.charsmap
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
    return lambda text: processor.encode(text, out_type=int)


def reference(name, path):
    vocabulary = Vocabulary(path)
    if name in ("gemma3", "llama-spm", "baichuan"):
        return sentence_piece(vocabulary, unigram=False)
    if name == "nomic-bert-moe":
        return sentence_piece(vocabulary, unigram=True)
    if name == "gemma-4":
        return character_bpe(vocabulary)
    return byte_level(name, vocabulary)


def text_for(name, strings, index):
    """Gemma's tokens for runs of spaces match U+2581 in the original and spaces in GGUF, so neither sees a U+2581."""
    return strings.make(index).replace(MARKER, "") if name == "gemma3" else strings.make(index)


def digest(name, encode, strings, first):
    sha = hashlib.sha256()
    for i in range(first, first + CHUNK):
        ids = encode(text_for(name, strings, i))
        sha.update(struct.pack(f"<{len(ids) + 1}i", len(ids), *ids))
    return sha.hexdigest()[:16]


NAMES = ["smollm2", "gemma3", "llama-bpe", "qwen2", "qwen35", "gpt-2", "mpt", "falcon", "starcoder", "refact",
         "command-r", "deepseek-coder", "llama-spm", "baichuan", "gemma-4", "nomic-bert-moe"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smollm2", help="GGUF of SmolLM2-135M-Instruct")
    parser.add_argument("--gemma3", help="GGUF of Gemma-3-270M")
    parser.add_argument("--data", help="what scripts/test_data printed")
    parser.add_argument("--only", nargs="+", default=NAMES, choices=NAMES)
    parser.add_argument("--show", type=int, nargs="+", help="print these strings and their ids; write nothing")
    arguments = parser.parse_args()
    strings = Strings()
    path = DATA / "goldens.json"
    known = json.loads(path.read_text())["digests"] if path.exists() else {}
    for name in arguments.only:
        file = {"smollm2": arguments.smollm2, "gemma3": arguments.gemma3}.get(name)
        file = file or f"{arguments.data}/vocabularies/ggml-vocab-{name}.gguf"
        encode = reference(name, file)
        if arguments.show is not None:
            for i in arguments.show:
                text = text_for(name, strings, i)
                print(i, ascii(text), encode(text))
            continue
        known[name] = [digest(name, encode, strings, first) for first in range(0, STRINGS, CHUNK)]
        print(name, len(known[name]) * CHUNK, "strings", flush=True)
        lines = [f'  {json.dumps(name)}: {json.dumps(known[name])}' for name in NAMES if name in known]
        path.write_text('{"strings_per_digest": %d,\n "digests": {\n%s\n }}\n' % (CHUNK, ",\n".join(lines)))


if __name__ == "__main__":
    main()
