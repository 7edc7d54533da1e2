// Any bytes as what a Redis server answers, in one piece and in several. No answer may be larger than was
// asked for, and where both ways understand the bytes they must give the same.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "store/redis/resp.h"

namespace {

using larder::RespReader;
using larder::RespValue;

void Require(bool condition) {
  if (!condition) __builtin_trap();
}

size_t TextBytes(const RespValue& value) {
  size_t bytes = value.text.size();
  for (const RespValue& element : value.elements) bytes += TextBytes(element);
  return bytes;
}

bool Same(const RespValue& a, const RespValue& b) {
  return a.type == b.type && a.integer == b.integer && a.text == b.text &&
         std::ranges::equal(a.elements, b.elements, Same);
}

struct Answers {
  std::vector<RespValue> values;
  bool failed = false;
};

// Pieces of `piece` bytes; each answer may have `max_bytes`.
Answers ReadAll(std::string_view bytes, size_t piece, size_t max_bytes) {
  RespReader reader;
  Answers answers;
  for (; !bytes.empty(); bytes.remove_prefix(std::min(piece, bytes.size()))) {
    if (!reader.Feed(bytes.substr(0, piece))) {
      answers.failed = true;
      return answers;
    }
    for (;;) {
      auto value = reader.Next(max_bytes);
      if (!value) {
        Require(!value.error().message.empty());
        answers.failed = true;
        return answers;
      }
      if (!*value) break;
      Require(TextBytes(**value) <= max_bytes + 512);
      answers.values.push_back(*std::move(*value));
    }
  }
  return answers;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  const size_t piece = 1 + data[0] % 64, max_bytes = size_t{data[1]} * 64;
  const std::string_view bytes(reinterpret_cast<const char*>(data) + 2, size - 2);
  const Answers whole = ReadAll(bytes, bytes.size() + 1, max_bytes);
  const Answers pieces = ReadAll(bytes, piece, max_bytes);
  if (whole.failed || pieces.failed) return 0;
  Require(std::ranges::equal(whole.values, pieces.values, Same));
  return 0;
}
