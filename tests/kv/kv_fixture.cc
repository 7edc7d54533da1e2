#include "kv_fixture.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "base/memory.h"
#include "kv/codec/codec.h"

namespace larder {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) {
  a ^= b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2);
  a *= 0xff51afd7ed558ccdu;
  return a ^ (a >> 33);
}

// Integers below 2^20: exact as floats.
struct Marks {
  Marks(uint64_t history, int layer, int head) {
    const uint64_t lane =
        Mix(Mix(history, static_cast<uint64_t>(layer) + 1), static_cast<uint64_t>(head) + 101);
    for (int i = 0; i < kTestHeadDim; ++i) {
      k[i] = static_cast<float>(Mix(lane, static_cast<uint64_t>(2 * i)) >> 44);
      v[i] = static_cast<float>(Mix(lane, static_cast<uint64_t>(2 * i + 1)) >> 44);
    }
  }
  float k[kTestHeadDim], v[kTestHeadDim];
};

// Keeps the first two dimensions of keys and values: small, and still enough to tell rows apart.
class PairCodec final : public KvCodec {
 public:
  explicit PairCodec(int sinks) : sinks_(sinks) {}
  std::string name() const override { return "pair"; }
  int sinks() const override { return sinks_; }
  size_t PageBytes(int) const override { return kPageTokens * kRowBytes; }
  void Encode(int head_dim, const std::byte* rows, std::byte* coded) const override {
    std::memset(coded, 0, PageBytes(head_dim));
    for (int slot = 0; slot < kPageTokens; ++slot) {
      float k[kTestHeadDim], v[kTestHeadDim];
      LoadKvRow(KvType::kI16, head_dim, rows, slot, k, v);
      for (const float* from : {k, v}) {
        std::memcpy(coded, from, kRowBytes / 2);
        coded += kRowBytes / 2;
      }
    }
  }
  void Decode(int head_dim, const std::byte* coded, std::byte* rows) const override {
    for (int slot = 0; slot < kPageTokens; ++slot, coded += kRowBytes) {
      float k[kTestHeadDim] = {}, v[kTestHeadDim] = {};
      std::memcpy(k, coded, kRowBytes / 2);
      std::memcpy(v, coded + kRowBytes / 2, kRowBytes / 2);
      StoreKvRow(KvType::kI16, head_dim, k, v, rows, slot);
    }
  }

 private:
  static constexpr size_t kRowBytes = 4 * sizeof(float);
  const int sinks_;
};

// `rounded`: to 16-bit codes; `whole`: all dimensions are there.
bool SameRow(const float* expected, const float* read, bool rounded, bool whole) {
  const float tolerance = rounded ? *std::max_element(expected, expected + kTestHeadDim) / 8000 : 0;
  return std::equal(expected, expected + (whole ? kTestHeadDim : 2), read,
                    [&](float a, float b) { return std::abs(a - b) <= tolerance; });
}

// One number per row: the tenant and all tokens up to it.
std::vector<uint64_t> Histories(const std::string& tenant, std::span<const int32_t> tokens) {
  uint64_t history = std::hash<std::string>{}(tenant);
  std::vector<uint64_t> out;
  for (const int32_t token : tokens) out.push_back(history = Mix(history, static_cast<uint64_t>(token)));
  return out;
}

}  // namespace

KvWorld::KvWorld(KvSetup setup) {
  std::shared_ptr<const KvCodec> codec;
  if (setup.codec) codec = std::make_shared<PairCodec>(setup.sinks);
  auto shape = KvShape::Create(setup.windows, kTestHeads, kTestHeadDim,
                               codec == nullptr ? KvType::kF32 : KvType::kI16, codec);
  KvCacheOptions options;
  options.limit_bytes = setup.limit_bytes;
  options.policy = setup.policy;
  options.resume_stride = setup.resume_stride;
  options.ghosts = setup.ghosts;
  options.events = setup.events;
  options.hard_lease_share = setup.hard_lease_share;
  options.weaken_name = setup.weaken_name;
  auto cache = KvCache::Create(*shape, KvIdentity{}, options, &clock_);
  EXPECT_TRUE(cache) << (cache ? "" : cache.error().message);
  cache_ = *std::move(cache);
}

uint64_t KvWorld::BlockBytes() const {
  uint64_t sum = 0;
  for (size_t kind = 0; kind < cache_->shape().kinds().size(); ++kind) {
    sum += cache_->shape().BlockBytes(static_cast<int>(kind));
  }
  return sum;
}

KvCache::Opened KvWorld::OpenFull(const std::string& tenant, std::span<const int32_t> tokens) {
  auto opened = cache_->Open(tenant, tokens);
  EXPECT_TRUE(opened) << (opened ? "" : opened.error().message);
  return *std::move(opened);
}

std::unique_ptr<KvSequence> KvWorld::Open(const std::string& tenant, std::span<const int32_t> tokens) {
  return OpenFull(tenant, tokens).sequence;
}

bool KvWorld::Write(KvSequence& sequence, std::span<const int32_t> tokens) {
  if (!cache_->Reserve(sequence, static_cast<int64_t>(tokens.size()))) return false;
  std::vector<int32_t> all = sequence.tokens();
  all.insert(all.end(), tokens.begin(), tokens.end());
  const auto histories = Histories(sequence.tenant(), all);
  const KvShape& shape = cache_->shape();
  for (int64_t row = sequence.length(); row < static_cast<int64_t>(all.size()); ++row) {
    for (int layer = 0; layer < shape.layers(); ++layer) {
      for (int head = 0; head < shape.kv_heads(); ++head) {
        const Marks marks(histories[static_cast<size_t>(row)], layer, head);
        StoreKvRow(shape.type(), shape.head_dim(), marks.k, marks.v, sequence.WritablePage(layer, head, row),
                   static_cast<int>(row % kPageTokens));
        if (row % kPageTokens == kPageTokens - 1) sequence.CompletePage(layer, head, row / kPageTokens);
      }
    }
  }
  cache_->Publish(sequence, tokens);
  return true;
}

int64_t KvWorld::Run(const std::string& tenant, std::span<const int32_t> tokens) {
  auto sequence = Open(tenant, tokens);
  const int64_t found = sequence->length();
  EXPECT_TRUE(Reads(*sequence));
  EXPECT_TRUE(Write(*sequence, tokens.subspan(static_cast<size_t>(found))));
  EXPECT_TRUE(Reads(*sequence));
  cache_->Close(std::move(sequence));
  return found;
}

testing::AssertionResult KvWorld::Reads(const KvSequence& sequence) const {
  const KvShape& shape = cache_->shape();
  const auto histories = Histories(sequence.tenant(), sequence.tokens());
  if (static_cast<int64_t>(histories.size()) != sequence.length())
    return testing::AssertionFailure() << "tokens";
  const bool codec = shape.codec() != nullptr;
  // At the end of a block, of which only codes are there, nobody can read as if from within it.
  const bool inside = sequence.length() % kPageTokens != 0 || sequence.length() < sequence.capacity();
  const TileProvider& view =
      codec && inside
          ? *const_cast<KvSequence&>(sequence).ViewFor(std::min(sequence.length(), sequence.capacity() - 1))
          : sequence;
  const int64_t end = codec && !inside ? sequence.length() - kPageTokens : sequence.length();
  auto scratch = *AlignedBuffer::Allocate(shape.page_bytes());
  for (int layer = 0; layer < shape.layers(); ++layer) {
    const int window = shape.kinds()[static_cast<size_t>(shape.KindOf(layer))].window;
    // The last row may be run again: it sees `window` rows up to itself.
    const int64_t first = window > 0 ? std::max<int64_t>(0, sequence.length() - window) : 0;
    for (int head = 0; head < shape.kv_heads(); ++head) {
      KvPage page;
      for (int64_t row = first; row < end; ++row) {
        if (row == first || row % kPageTokens == 0)
          page = view.Page(layer, head, row / kPageTokens, scratch.data());
        if (page.k == nullptr) return testing::AssertionFailure() << "no page for row " << row;
        if (page.first_position != row / kPageTokens * kPageTokens || page.entries <= row % kPageTokens) {
          return testing::AssertionFailure() << "row " << row << " is outside its page";
        }
        const Marks expected(histories[static_cast<size_t>(row)], layer, head);
        float k[kTestHeadDim], v[kTestHeadDim];
        LoadKvRow(shape.type(), shape.head_dim(), static_cast<const std::byte*>(page.k),
                  static_cast<int>(row % kPageTokens), k, v);
        const bool exact =
            !codec || row >= sequence.length() / kPageTokens * kPageTokens || row < shape.codec()->sinks();
        if (!SameRow(expected.k, k, codec, exact) || !SameRow(expected.v, v, codec, exact)) {
          return testing::AssertionFailure()
                 << "layer " << layer << " head " << head << " row " << row << " is not this sequence's";
        }
      }
    }
  }
  return testing::AssertionSuccess();
}

testing::AssertionResult KvWorld::Sound() const {
  if (auto status = cache_->CheckInvariants(); !status) {
    return testing::AssertionFailure() << status.error().message;
  }
  return testing::AssertionSuccess();
}

std::vector<int32_t> Text(int series, int n) {
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  std::iota(tokens.begin(), tokens.end(), 1000 * series);
  return tokens;
}

std::vector<int32_t> Join(std::span<const int32_t> a, std::span<const int32_t> b) {
  std::vector<int32_t> out(a.begin(), a.end());
  out.insert(out.end(), b.begin(), b.end());
  return out;
}

std::span<const int32_t> First(const std::vector<int32_t>& tokens, size_t n) {
  return std::span(tokens).first(n);
}

}  // namespace larder
