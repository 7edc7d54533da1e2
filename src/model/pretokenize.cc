#include "model/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <span>

#include "model/utf8.h"

namespace larder {
namespace {

// The expressions are those of the published tokenizer.json files. \s and \S are replaced before compiling,
// see below.
#define LARDER_CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LARDER_SPACE_TAIL R"re(|\s*[\r\n]+|\s+(?!\S)|\s+)re"
#define LARDER_UPPER R"re([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])re"
#define LARDER_LOWER R"re([\p{Ll}\p{Lm}\p{Lo}\p{M}])re"

constexpr const char* kGpt2 =
    R"re('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)re";
constexpr const char* kLlama3 = LARDER_CONTRACTIONS
    R"re(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*)re" LARDER_SPACE_TAIL;
constexpr const char* kQwen2 =
    LARDER_CONTRACTIONS R"re(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*)re" LARDER_SPACE_TAIL;
constexpr const char* kQwen35 = LARDER_CONTRACTIONS
    R"re(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)re" LARDER_SPACE_TAIL;
constexpr const char* kSeedCoder =
    LARDER_CONTRACTIONS R"re(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+)re" LARDER_SPACE_TAIL;
constexpr const char* kMiniCpm5 =
    LARDER_CONTRACTIONS R"re(|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*)re" LARDER_SPACE_TAIL;
constexpr const char* kBailing =
    R"re('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)re";
constexpr const char* kDeepSeek3 =
    R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)re"
    R"re(| ?[\p{P}\p{S}]+[\r\n]*)re" LARDER_SPACE_TAIL;
constexpr const char* kGpt4o =
    R"re([^\r\n\p{L}\p{N}]?)re" LARDER_UPPER "*" LARDER_LOWER "+" LARDER_CONTRACTIONS
    "?"
    R"re(|[^\r\n\p{L}\p{N}]?)re" LARDER_UPPER "+" LARDER_LOWER "*" LARDER_CONTRACTIONS
    "?"
    R"re(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)re" LARDER_SPACE_TAIL;
constexpr const char* kTekken = R"re([^\r\n\p{L}\p{N}]?)re" LARDER_UPPER "*" LARDER_LOWER
                                "+"
                                R"re(|[^\r\n\p{L}\p{N}]?)re" LARDER_UPPER "+" LARDER_LOWER
                                "*"
                                R"re(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)re" LARDER_SPACE_TAIL;
// ( | ) stand in the class itself: that is how it was published.
constexpr const char* kBloom = R"re( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C})]+)re";
constexpr const char* kPunctuation = R"re([\p{P}\$\+<=>\^~\|`]+)re";
constexpr const char* kThreeDigits = "[0-9][0-9][0-9]";
constexpr const char* kHanAndHangul = R"re([\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+)re";
constexpr const char* kHanAndKana = R"re([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)re";
// DeepSeek's letters with case: a list, not a property (it lacks the small Armenian letters, for one).
constexpr const char* kDeepSeekLetters =
    R"re(\s?[)re"
    R"re(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})re"
    R"re(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A})re"
    R"re(\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556})re"
    R"re(\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF})re"
    R"re(\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D})re"
    R"re(\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}\x{1F5D}\x{1F5F}-\x{1F7D})re"
    R"re(\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC})re"
    R"re(\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC})re"
    R"re(\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128})re"
    R"re(\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183})re"
    R"re(\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D})re"
    R"re(\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF})re"
    R"re(\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F})re"
    R"re(\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2})re"
    R"re(\x{118A0}-\x{118DF}\x{1E900}-\x{1E943})re"
    R"re(]+)re";
constexpr const char* kDeepSeekPunctuation =
    R"re(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)re";

#undef LARDER_CONTRACTIONS
#undef LARDER_SPACE_TAIL
#undef LARDER_UPPER
#undef LARDER_LOWER

struct Rules {
  std::vector<std::string_view> names;
  std::vector<const char*> expressions;
  bool ignores_merges = false, adds_bos = false;
};

const std::vector<Rules>& AllRules() {
  static const std::vector<Rules> rules = {
      {{"default"}, {R"re([\p{P}\$\+<=>\^~\|]+)re", kGpt2, R"re(\p{N}+)re", kThreeDigits}},
      {{"gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
        "a.x-4.0", "mellum", "modern-bert", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de",
        "jina-v2-code", "roberta-bpe"},
       {kGpt2}},
      {{"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"},
       {R"re(\p{N})re", kGpt2}},
      {{"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2"},
       {kLlama3},
       /*ignores_merges=*/true,
       /*adds_bos=*/true},
      {{"dbrx", "smaug-bpe", "chatglm-bpe"}, {kLlama3}},
      {{"glm4"}, {kLlama3}, /*ignores_merges=*/true},
      {{"qwen2", "deepseek-r1-qwen", "kormo", "stablelm2", "hunyuan", "megrez", "solar-open", "grok-2"},
       {kQwen2}},
      {{"qwen35"}, {kQwen35}},
      {{"laguna"}, {R"re([^\n]+|[\n]+)re", kQwen2}},
      {{"seed-coder"}, {kSeedCoder}},
      {{"minicpm5"}, {R"re(\p{N}{1,3})re", kMiniCpm5}, /*ignores_merges=*/true},
      {{"bailingmoe", "bailingmoe2", "llada-moe"}, {kBailing}},
      {{"deepseek-llm"},
       {R"re([\r\n])re", kDeepSeekLetters, kDeepSeekPunctuation, R"re(\s+$)re", kHanAndHangul,
        R"re(\p{N}+)re"}},
      {{"deepseek-coder"},
       {R"re([\r\n])re", R"re(\s?\p{L}+)re", R"re(\s?\p{P}+)re", kHanAndHangul, R"re(\p{N})re"}},
      {{"deepseek-v3", "hunyuan-dense", "joyai-llm"}, {R"re(\p{N}{1,3})re", kHanAndKana, kDeepSeek3}},
      {{"falcon"}, {kPunctuation, kGpt2, kThreeDigits}},
      {{"gpt-4o", "llama4", "kanana2", "minimax-m2"}, {kGpt4o}},
      {{"tekken"}, {kTekken}, /*ignores_merges=*/true, /*adds_bos=*/true},
      {{"bloom", "poro-chat", "gpt3-finnish"}, {kBloom}},
      {{"viking"}, {kBloom, R"re(\p{N})re"}},
      {{"gemma4"}, {R"re([^\n]+|[\n]+)re"}},
  };
  return rules;
}

// PCRE2's \s takes U+180E for white space; Unicode, and the regular expression engines the tokenizers were
// published with, do not.
std::string ExpandSpaces(std::string_view expression) {
  constexpr std::string_view kSpaces =
      R"re(\t-\r \x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})re";
  std::string out;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == '\\' && i + 1 < expression.size()) {
      const char escaped = expression[++i];
      if (escaped == 's') {
        if (in_class) {
          out.append(kSpaces);
        } else {
          out.append("[").append(kSpaces).append("]");
        }
      } else if (escaped == 'S') {
        out.append("[^").append(kSpaces).append("]");
      } else {
        (out += c) += escaped;
      }
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

struct CodeDeleter {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct MatchDeleter {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
using Code = std::unique_ptr<pcre2_code, CodeDeleter>;
using Match = std::unique_ptr<pcre2_match_data, MatchDeleter>;

Result<Code> Compile(std::string_view expression) {
  const std::string text = ExpandSpaces(expression);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Code code(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                          PCRE2_UTF | PCRE2_UCP | PCRE2_DOLLAR_ENDONLY, &error, &offset, nullptr));
  if (code == nullptr) {
    return Fail(ErrorKind::kUnsupported,
                "the PCRE2 library cannot compile a pre-tokenizer (error {} at {}); it needs Unicode support",
                error, offset);
  }
  // Without a compiler for this machine the expression is interpreted: slower, with the same matches.
  pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE);
  return code;
}

// Appends the matches in `text`, and what lies between them, as pieces. `text` is valid UTF-8.
void SplitBy(const pcre2_code* code, std::string_view text, pcre2_match_data* match,
             std::vector<std::string_view>* pieces) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match);
  size_t done = 0;
  while (done < text.size()) {
    const int found = pcre2_match(code, subject, text.size(), done, PCRE2_NO_UTF_CHECK, match, nullptr);
    if (found < 0 || range[1] <= done)
      break;  // no expression here matches nothing, so that each match is progress
    if (range[0] > done) pieces->push_back(text.substr(done, range[0] - done));
    pieces->push_back(text.substr(range[0], range[1] - range[0]));
    done = range[1];
  }
  if (done < text.size()) pieces->push_back(text.substr(done));
}

}  // namespace

struct PreTokenizer::Patterns {
  std::vector<Code> codes;
};

PreTokenizer::PreTokenizer() : patterns_(std::make_unique<Patterns>()) {}
PreTokenizer::~PreTokenizer() = default;

Result<std::unique_ptr<PreTokenizer>> PreTokenizer::Make(std::string_view name) {
  std::string known;
  for (const Rules& rules : AllRules()) {
    for (std::string_view each : rules.names) {
      if (each != name) {
        (known += known.empty() ? "" : ", ") += each;
        continue;
      }
      std::unique_ptr<PreTokenizer> made(new PreTokenizer);
      for (const char* expression : rules.expressions) {
        LARDER_ASSIGN(Code code, Compile(expression));
        made->patterns_->codes.push_back(std::move(code));
      }
      made->ignores_merges_ = rules.ignores_merges;
      made->adds_bos_ = rules.adds_bos;
      return made;
    }
  }
  return Fail(ErrorKind::kUnsupported,
              "tokenizer.ggml.pre is \"{}\", which Larder does not know; it knows {}", name, known);
}

void PreTokenizer::Split(std::string_view text, std::vector<std::string_view>* pieces) const {
  const Match match(pcre2_match_data_create(1, nullptr));
  LARDER_CHECK(match != nullptr);
  std::vector<std::string_view> before, after;
  while (!text.empty()) {
    const size_t valid = ValidUtf8Prefix(text);
    if (valid > 0) {
      before.assign(1, text.substr(0, valid));
      for (const Code& code : patterns_->codes) {
        after.clear();
        for (std::string_view piece : before) SplitBy(code.get(), piece, match.get(), &after);
        before.swap(after);
      }
      pieces->insert(pieces->end(), before.begin(), before.end());
      text.remove_prefix(valid);
    }
    size_t invalid = 0;
    for (; invalid < text.size(); ++invalid) {
      if (NextUtf8(text, invalid).kind == Utf8Step::kWhole) break;
    }
    if (invalid > 0) pieces->push_back(text.substr(0, invalid));
    text.remove_prefix(invalid);
  }
}

}  // namespace larder
