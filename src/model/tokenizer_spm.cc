// SentencePiece's byte-pair encoding ("llama"): two neighbours merge when their joined text is a token, the
// token of the best score first. A character outside the vocabulary becomes its byte tokens, or the unknown
// token.
#include <bit>

#include "model/merge.h"
#include "model/sentencepiece.h"
#include "model/tokenizer_parts.h"

namespace larder {
namespace {

// The best score has the lowest rank; the order of floats is that of their bits, once negative ones are
// turned around.
uint32_t RankOfScore(float score) {
  const auto bits = std::bit_cast<uint32_t>(score + 0.0f);  // -0 is 0
  const uint32_t ascending = bits >> 31 ? ~bits : bits | 0x80000000u;
  return ~ascending;
}

class SpmTokenizer final : public VocabularyTokenizer {
 public:
  Status Load(const GgufFile& file) {
    VocabularyLoader loader(file, this);
    LARDER_TRY(loader.Load("llama", {.bos = 1, .eos = 2, .unknown = 0, .add_bos = true, .add_eos = false}));
    LARDER_TRY(normalizer_.Load(file, /*default_space_prefix=*/true));
    adds_space_ = normalizer_.adds_space();
    LARDER_ASSIGN(const auto scores, LoadScores(file, vocabulary_.size()));
    ranks_.reserve(scores.size());
    for (float score : scores) ranks_.push_back(RankOfScore(score));
    // No text may merge into a control token: that would let a user write one.
    const auto mergeable = IdsOfTypes({TokenType::kNormal, TokenType::kUserDefined, TokenType::kUnused});
    index_.Build(&vocabulary_, mergeable);
    for (int32_t id : mergeable) joins_.AddToken(vocabulary_[id]);
    std::string settings;
    normalizer_.PackSettings(&settings);
    PackField({reinterpret_cast<const char*>(ranks_.data()), ranks_.size() * sizeof(uint32_t)}, &settings);
    loader.Finish(settings);
    return {};
  }

 protected:
  void EncodeText(std::string_view text, bool at_start, std::vector<int32_t>* out) const override {
    const std::string normal = normalizer_.Normalize(text, at_start);
    Merger merger;
    joins_.ForEachPart(normal, [&](std::string_view part) { EncodePart(part, &merger, out); });
  }

  void AppendNormal(std::string_view text, std::string* out) const override { AppendUnmarked(text, out); }

 private:
  void EncodePart(std::string_view part, Merger* merger, std::vector<int32_t>* out) const {
    merger->Clear();
    for (size_t at = 0; at < part.size();) {
      const uint8_t bytes = NextUtf8(part, at).bytes;
      merger->Add(static_cast<uint32_t>(at), bytes, index_.Find(part.substr(at, bytes)));
      at += bytes;
    }
    merger->Run([&](const MergeSymbol& left, const MergeSymbol& right, Merge* merge) {
      merge->id = index_.Find(part.substr(left.begin, left.size + right.size));
      if (merge->id < 0) return false;
      merge->rank = ranks_[merge->id];
      return true;
    });
    for (const MergeSymbol& symbol : merger->symbols()) {
      if (symbol.size == 0) continue;
      if (symbol.id >= 0) {
        out->push_back(symbol.id);
      } else {
        AppendUnknown(part.substr(symbol.begin, symbol.size), out);
      }
    }
  }

  TextIndex index_;              // what a merge may result in
  std::vector<uint32_t> ranks_;  // by token
  JoinFilter joins_;
  SentencePieceNormalizer normalizer_;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadSpmTokenizer(const GgufFile& file) {
  auto tokenizer = std::make_unique<SpmTokenizer>();
  LARDER_TRY(tokenizer->Load(file));
  return tokenizer;
}

}  // namespace larder
