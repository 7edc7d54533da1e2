// KV codecs: how full blocks are kept. A codec is one .cc file in this folder without a header, one line in
// list.cc and its test.
//
// A block is written as 16-bit rows. When its 64th row is there it is encoded, once, and the rows are given
// up. A row reads earlier blocks as codes and its own block as rows, so what it reads depends on positions
// only, not on how a prompt was cut into chunks. Attention gets codes as 16-bit pages that are made in its
// scratch.
//
// A codec may want keys rotated and centred before they are stored (KeyTransform): both leave scores as they
// are, up to a constant for each query, and make keys easier to round.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/params.h"
#include "base/result.h"
#include "kv/method_info.h"

namespace larder {

class KvCodec {
 public:
  virtual ~KvCodec() = default;
  // Canonical, with all parameters, as it enters the names of blocks: "t4:rotate=64,center=1,sinks=4".
  virtual std::string name() const = 0;
  // Size of the Hadamard blocks that keys and queries are rotated by; 1: not at all.
  virtual int rotation() const { return 1; }
  // Whether the mean of each layer's and head's keys is taken away from them.
  virtual bool centred() const { return false; }
  // Leading tokens of a text that stay exact, in a plane behind each page of its first block.
  virtual int sinks() const { return 0; }

  // Whether coded pages are those of KvCodes::kT4 (compute/kv_codes.h), which attention reads without
  // decoding.
  virtual bool t4() const { return false; }
  // Bytes of a coded page of one lane; a multiple of 512.
  virtual size_t PageBytes(int head_dim) const = 0;
  // `rows`: a full kI16 page (compute/attention.h).
  virtual void Encode(int head_dim, const std::byte* rows, std::byte* coded) const = 0;
  // Into a kI16 page. Any bytes may be decoded.
  virtual void Decode(int head_dim, const std::byte* coded, std::byte* rows) const = 0;
};

struct KvCodecEntry {
  MethodInfo info;
  // Declares its parameters, reads "key=value,...", and makes a codec for heads of this size, which can be
  // coded; of size 0 it only declares them.
  Result<std::unique_ptr<KvCodec>> (*create)(Params& params, std::string_view parameters, int head_dim);
};
std::vector<KvCodecEntry> KvCodecs();
std::string KvCodecNames();  // "t4, q8_0, ...", for help texts
// "q8_0" or "name:key=value,..." for heads of this size. kInvalid: unknown names and keys, listing the known
// ones; kUnsupported: heads that it cannot do.
Result<std::unique_ptr<KvCodec>> CreateKvCodec(std::string_view spec, int head_dim);

// A page of a text's first block: the coded page, then the sinks' plane.
size_t FirstPageBytes(const KvCodec& codec, int head_dim);
void EncodeFirst(const KvCodec& codec, int head_dim, const std::byte* rows, std::byte* coded);
void DecodeFirst(const KvCodec& codec, int head_dim, const std::byte* coded, std::byte* rows);

}  // namespace larder
