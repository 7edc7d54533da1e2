// Any text through every kind of tokenizer, and any bytes as the metadata a tokenizer loads from. The first
// byte chooses.
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "model/gguf.h"
#include "model/tokenizer.h"
#include "model/utf8.h"

namespace {

using larder::GgufFile;
using larder::Tokenizer;

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

struct Loaded {
  std::unique_ptr<GgufFile> file;
  std::unique_ptr<Tokenizer> tokenizer;
};

const std::vector<Loaded>& TinyModels() {
  static const std::vector<Loaded> models = [] {
    std::vector<Loaded> all;
    for (const char* name : {"tiny-llama.gguf", "tiny-llama3.gguf", "tiny-qwen2.gguf", "tiny-gemma3.gguf"}) {
      Loaded loaded;
      loaded.file = std::move(GgufFile::Open(std::string(LARDER_TEST_DATA "/models/") + name).value());
      loaded.tokenizer = std::move(Tokenizer::Load(*loaded.file).value());
      all.push_back(std::move(loaded));
    }
    return all;
  }();
  return models;
}

void Decode(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool special) {
  larder::StreamDecoder stream(&tokenizer, special);
  std::string joined, streamed;
  for (int32_t id : ids) {
    joined += tokenizer.TokenBytes(id, special);
    const std::string part = stream.Push(id);
    Require(larder::ValidUtf8Prefix(part) == part.size());
    streamed += part;
  }
  streamed += stream.Finish();
  Require(streamed == larder::SanitizeUtf8(joined));
}

void Check(const Tokenizer& tokenizer, std::string_view text, bool lossless) {
  for (bool parse_special : {false, true}) {
    const auto ids = tokenizer.Encode(text, {.add_special = false, .parse_special = parse_special});
    for (int32_t id : ids) Require(id >= 0 && id < tokenizer.size());
    Decode(tokenizer, ids, parse_special);
    if (lossless) Require(tokenizer.Decode(ids, parse_special) == text);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view rest(reinterpret_cast<const char*>(data) + 1, size - 1);
  const auto& models = TinyModels();
  if (data[0] < models.size()) {
    // The word marker itself reads back as a space.
    const bool lossless = rest.find("\xE2\x96\x81") == rest.npos;
    Check(*models[data[0]].tokenizer, rest, lossless);
    return 0;
  }
  const auto file = GgufFile::Parse(std::as_bytes(std::span(rest)));
  if (!file) return 0;
  const auto tokenizer = Tokenizer::Load(**file);
  if (!tokenizer) {
    Require(!tokenizer.error().message.empty());
    return 0;
  }
  Check(**tokenizer, "The  quick <|im_end|> \xE2\x82\xAC\xFF 123\n", /*lossless=*/false);
  return 0;
}
