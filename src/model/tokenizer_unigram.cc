// SentencePiece's unigram model ("t5"): the most probable sequence of tokens, found by Viterbi over the text.
// Kudo, "Subword Regularization" (2018), section 3.
#include <algorithm>
#include <limits>

#include "model/sentencepiece.h"
#include "model/tokenizer_parts.h"
#include "model/utf8.h"

namespace larder {
namespace {

// An unknown character costs this much more than the least likely token.
constexpr float kUnknownPenalty = 10;

class UnigramTokenizer final : public VocabularyTokenizer {
 public:
  Status Load(const GgufFile& file) {
    VocabularyLoader loader(file, this);
    LARDER_TRY(
        loader.Load("t5", {.bos = kNoToken, .eos = 1, .unknown = 2, .add_bos = false, .add_eos = true}));
    LARDER_TRY(normalizer_.Load(file, /*default_space_prefix=*/true));
    adds_space_ = normalizer_.adds_space();
    LARDER_ASSIGN(scores_, LoadScores(file, vocabulary_.size()));
    tokens_.Build(&vocabulary_,
                  IdsOfTypes({TokenType::kNormal, TokenType::kUserDefined, TokenType::kUnused}));
    float lowest = 0;
    for (int32_t id : IdsOfTypes({TokenType::kNormal})) lowest = std::min(lowest, scores_[id]);
    for (int32_t id : IdsOfTypes({TokenType::kUserDefined})) scores_[id] = 0;
    unknown_score_ = lowest - kUnknownPenalty;
    std::string settings;
    normalizer_.PackSettings(&settings);
    PackField({reinterpret_cast<const char*>(scores_.data()), scores_.size() * sizeof(float)}, &settings);
    loader.Finish(settings);
    return {};
  }

 protected:
  void EncodeText(std::string_view text, bool at_start, std::vector<int32_t>* out) const override {
    const std::string normal = normalizer_.Normalize(text, at_start);
    const std::vector<Step> best = Search(normal);
    // Walk back from the end; neighbouring unknown characters become one unknown token.
    std::vector<int32_t> reversed;
    for (size_t end = normal.size(); end > 0;) {
      const Step& step = best[end];
      size_t begin = end - step.bytes;
      if (step.token < 0) {
        while (begin > 0 && best[begin].token < 0) begin -= best[begin].bytes;
        std::vector<int32_t> run;
        AppendUnknown(std::string_view(normal).substr(begin, end - begin), &run);
        reversed.insert(reversed.end(), run.rbegin(), run.rend());
      } else {
        reversed.push_back(step.token);
      }
      end = begin;
    }
    out->insert(out->end(), reversed.rbegin(), reversed.rend());
  }

  void AppendNormal(std::string_view text, std::string* out) const override { AppendUnmarked(text, out); }

 private:
  // The best way to arrive at an offset of the text. Scores add up in single precision, as in SentencePiece:
  // equal sums of the same tokens in another order are told apart by their rounding.
  struct Step {
    float score = -std::numeric_limits<float>::infinity();
    int32_t token = -1;  // -1: an unknown character
    uint32_t bytes = 0;
  };

  std::vector<Step> Search(std::string_view text) const {
    std::vector<Step> best(text.size() + 1);
    best[0].score = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t character = NextUtf8(text, at).bytes;
      bool character_known = false;
      tokens_.ForEachPrefix(text.substr(at), [&](int32_t id) {
        const size_t bytes = vocabulary_[id].size();
        character_known |= bytes == character;
        Step& step = best[at + bytes];
        const float score = best[at].score + scores_[id];
        if (score > step.score) step = {score, id, static_cast<uint32_t>(bytes)};
      });
      Step& step = best[at + character];
      if (const float score = best[at].score + unknown_score_; !character_known && score > step.score) {
        step = {score, -1, static_cast<uint32_t>(character)};
      }
      at += character;
    }
    return best;
  }

  PrefixIndex tokens_;
  std::vector<float> scores_;  // log probabilities
  float unknown_score_ = 0;
  SentencePieceNormalizer normalizer_;
};

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadUnigramTokenizer(const GgufFile& file) {
  auto tokenizer = std::make_unique<UnigramTokenizer>();
  LARDER_TRY(tokenizer->Load(file));
  return tokenizer;
}

}  // namespace larder
