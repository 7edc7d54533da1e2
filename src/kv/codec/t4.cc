// t4: "SAW-INT4: System-Aware 4-Bit KV-Cache Quantization for Real-World LLM Serving" (2026). Each key and
// value has 4-bit codes with one scale and one zero point of its own, so pages stay fixed in size, shareable
// and self-contained; a block-diagonal Hadamard rotation of keys and queries, after the rotary embedding,
// spreads the few loud channels that would stretch a key's range. Values are not rotated.
//
// Kept: the format, the rotation of keys only, a zero point that is not rounded to a code, queries rotated on
// load. Different: the mean of each layer's and head's keys is taken away first, which scores do not notice
// (the softmax is shifted by one constant for each query); the first tokens, unlike all others, stay exact;
// ranges include 0, so that zero points lie among the codes; a block is encoded when it is full.
#include <utility>

#include "base/params.h"
#include "compute/kv_codes.h"
#include "kv/codec/codec.h"

namespace larder {
namespace {

struct T4Options {
  int rotate = 1;
  bool center = true;
  int64_t sinks = 4;
};

class T4 final : public KvCodec {
 public:
  explicit T4(T4Options options) : options_(options) {}

  std::string name() const override {
    return fmt::format("t4:rotate={},center={},sinks={}", options_.rotate == 1 ? 0 : options_.rotate,
                       options_.center ? 1 : 0, options_.sinks);
  }
  int rotation() const override { return options_.rotate; }
  bool centred() const override { return options_.center; }
  int sinks() const override { return static_cast<int>(options_.sinks); }

  bool t4() const override { return true; }
  size_t PageBytes(int head_dim) const override { return CodedPageBytes(KvCodes::kT4, head_dim); }
  void Encode(int head_dim, const std::byte* rows, std::byte* coded) const override {
    EncodePage(KvCodes::kT4, head_dim, rows, coded);
  }
  void Decode(int head_dim, const std::byte* coded, std::byte* rows) const override {
    DecodePage(KvCodes::kT4, head_dim, coded, rows);
  }

 private:
  const T4Options options_;
};

// The largest power of two that divides heads of this size, at most 128.
int WidestRotation(int head_dim) {
  int block = 1;
  while (block < 128 && head_dim % (2 * block) == 0) block *= 2;
  return block;
}

Result<std::unique_ptr<KvCodec>> Create(Params& params, std::string_view parameters, int head_dim) {
  std::string rotate = "auto", center = "1", sinks = "4";
  params.Choice("rotate", &rotate, {"auto", "0", "16", "32", "64", "128"},
                "size of the Hadamard blocks; auto: the largest that divides the head, 0: none");
  params.Choice("center", &center, {"0", "1"}, "1: keys less the means that larder calibrate has found");
  params.Choice("sinks", &sinks, {"0", "4"}, "leading tokens of a text that stay exact");
  LARDER_TRY(params.ParseList(parameters));
  if (head_dim == 0) return std::unique_ptr<KvCodec>();  // only to describe it
  T4Options options;
  options.rotate = rotate == "auto" ? WidestRotation(head_dim) : std::max(1, std::stoi(rotate));
  options.center = center == "1";
  options.sinks = sinks == "4" ? 4 : 0;
  if (head_dim % options.rotate != 0)
    return Fail(ErrorKind::kInvalid, "t4: rotate={} does not divide heads of {} elements; at most {} does",
                options.rotate, head_dim, WidestRotation(head_dim));
  return std::make_unique<T4>(options);
}

}  // namespace

KvCodecEntry T4Codec() {
  return {{.name = "t4",
           .help = "4 bits, a scale and a zero point for each key and value; keys rotated and centred",
           .paper = "SAW-INT4: System-Aware 4-Bit KV-Cache Quantization for Real-World LLM Serving (2026)",
           .leaf = "A8 A10",
           .memory = "O(n)",
           .needs = "heads of a multiple of 16; with center=1 the key means that larder calibrate has found"},
          Create};
}

}  // namespace larder
