// Any bytes as a GGUF file: parsed, every metadata value looked up in every way, the first row of every
// tensor read.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "compute/formats.h"
#include "model/gguf.h"

namespace {

void TouchMetadata(const larder::GgufFile& file) {
  for (const auto& [key, value] : file.metadata()) {
    (void)file.String(key);
    (void)file.Int(key, -1, 1 << 20);
    (void)file.Float(key);
    (void)file.IntOr(key, 0);
    (void)file.Ints(key);
    (void)file.Floats(key);
    if (const auto strings = file.Strings(key)) {
      size_t bytes = 0;  // reads the last byte of each, so that a view past the end is seen
      for (const auto text : *strings) bytes += text.empty() ? 0 : static_cast<unsigned char>(text.back());
      volatile size_t sink = bytes;
      (void)sink;
    }
  }
}

void TouchTensors(const larder::GgufFile& file) {
  std::vector<float> row;
  for (const larder::GgufTensor& tensor : file.tensors()) {
    row.resize(static_cast<size_t>(tensor.inner()));
    larder::DequantizeRow(tensor.format->type, tensor.data, tensor.inner(), row.data());
    volatile auto last = tensor.data[tensor.bytes - 1];
    (void)last;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = larder::GgufFile::Parse(std::as_bytes(std::span(data, size)));
  if (!file) {
    if (file.error().message.empty()) __builtin_trap();
    return 0;
  }
  TouchMetadata(**file);
  TouchTensors(**file);
  return 0;
}
