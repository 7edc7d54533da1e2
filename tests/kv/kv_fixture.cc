#include "kv_fixture.h"

#include <numeric>

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

// One number per row: the tenant and all tokens up to it.
std::vector<uint64_t> Histories(const std::string& tenant, std::span<const int32_t> tokens) {
  uint64_t history = std::hash<std::string>{}(tenant);
  std::vector<uint64_t> out;
  for (const int32_t token : tokens) out.push_back(history = Mix(history, static_cast<uint64_t>(token)));
  return out;
}

}  // namespace

KvWorld::KvWorld(KvSetup setup) {
  auto shape = KvShape::Create(setup.windows, kTestHeads, kTestHeadDim, KvType::kF32);
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
  for (int layer = 0; layer < shape.layers(); ++layer) {
    const int window = shape.kinds()[static_cast<size_t>(shape.KindOf(layer))].window;
    // The last row may be run again: it sees `window` rows up to itself.
    const int64_t first = window > 0 ? std::max<int64_t>(0, sequence.length() - window) : 0;
    for (int head = 0; head < shape.kv_heads(); ++head) {
      for (int64_t row = first; row < sequence.length(); ++row) {
        const KvPage page = sequence.Page(layer, head, row / kPageTokens, nullptr);
        if (page.k == nullptr) return testing::AssertionFailure() << "no page for row " << row;
        if (page.first_position != row / kPageTokens * kPageTokens || page.entries <= row % kPageTokens) {
          return testing::AssertionFailure() << "row " << row << " is outside its page";
        }
        const Marks expected(histories[static_cast<size_t>(row)], layer, head);
        float k[kTestHeadDim], v[kTestHeadDim];
        LoadKvRow(shape.type(), shape.head_dim(), static_cast<const std::byte*>(page.k),
                  static_cast<int>(row % kPageTokens), k, v);
        if (!std::equal(k, k + kTestHeadDim, expected.k) || !std::equal(v, v + kTestHeadDim, expected.v)) {
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
