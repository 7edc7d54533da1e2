#include "model/tokenizer_parts.h"

#include <algorithm>
#include <cctype>

namespace larder {
namespace {

constexpr size_t kLongestRun = size_t{1} << 29;  // bytes; offsets inside a run are 32 bits wide

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// "<0x0A>" is 10; -1 for any other text.
int ByteOfText(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return -1;
  const int high = HexDigit(text[3]), low = HexDigit(text[4]);
  return high < 0 || low < 0 ? -1 : high * 16 + low;
}

// Texts no ordinary writing contains, with which chat models end their turn. They end generation, and are
// control tokens, even where a converter typed them otherwise.
constexpr std::string_view kEndMarkers[] = {
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|call|>",
    "<|END_OF_TURN_TOKEN|>",
    "<turn|>",
    "[EOT]",
    "<end_of_utterance>",
    "<｜end▁of▁sentence｜>",
};
// These are also ordinary writing (</s> is HTML), so that only the type "control" makes them ends.
constexpr std::string_view kEndsIfControl[] = {"</s>", "<eos>", "[EOS]", "<EOT>"};

template <size_t n>
bool Contains(const std::string_view (&list)[n], std::string_view text) {
  return std::find(std::begin(list), std::end(list), text) != std::end(list);
}

}  // namespace

std::vector<int32_t> VocabularyTokenizer::Encode(std::string_view text, EncodeOptions options) const {
  std::vector<int32_t> out;
  out.reserve(text.size() / 3 + 2);
  if (options.add_special && add_bos_) out.push_back(bos_);
  const PrefixIndex& special = options.parse_special ? special_ : user_defined_;
  bool at_start = true;
  size_t begin = 0;  // of the text not yet encoded
  size_t at = special.empty() ? text.size() : 0;
  const auto flush = [&](size_t end) {
    for (; begin < end; at_start = false) {
      const std::string_view run = text.substr(begin, std::min(end - begin, kLongestRun));
      EncodeText(run, at_start, &out);
      begin += run.size();
    }
  };
  while (at < text.size()) {
    const int32_t id = special.Begins(text[at]) ? special.Longest(text.substr(at)) : -1;
    if (id < 0) {
      ++at;
      continue;
    }
    size_t end = at;
    if (strips_left_[id]) {
      while (end > begin && IsSpace(text[end - 1])) --end;
    }
    flush(end);
    out.push_back(id);
    at_start = true;
    at += vocabulary_[id].size();
    if (strips_right_[id]) {
      while (at < text.size() && IsSpace(text[at])) ++at;
    }
    begin = at;
  }
  flush(text.size());
  if (options.add_special && add_eos_) out.push_back(eos_);
  return out;
}

std::string VocabularyTokenizer::TokenBytes(int32_t token, bool special) const {
  if (token < 0 || token >= size_) return {};
  const std::string& text = vocabulary_[token];
  std::string out;
  switch (type(token)) {
    case TokenType::kControl:
    case TokenType::kUnknown:
    case TokenType::kUnused:
      if (special) out = text;
      break;
    case TokenType::kUserDefined:
      out = text;
      break;
    case TokenType::kByte:
      if (const int byte = ByteOfText(text); byte >= 0) {
        out.push_back(static_cast<char>(byte));
        break;
      }
      [[fallthrough]];
    case TokenType::kNormal:
      AppendNormal(text, &out);
  }
  return out;
}

std::string VocabularyTokenizer::Decode(std::span<const int32_t> tokens, bool special) const {
  std::string out;
  bool strip = adds_space_;
  for (int32_t token : tokens) {
    const std::string bytes = TokenBytes(token, special);
    const bool is_text = !bytes.empty() && !IsControl(token);
    out.append(bytes, strip && is_text && bytes[0] == ' ' ? 1 : 0);
    if (is_text) strip = false;
  }
  return out;
}

void VocabularyTokenizer::AppendByte(uint8_t byte, std::vector<int32_t>* out) const {
  if (byte_tokens_[byte] != kNoToken) out->push_back(byte_tokens_[byte]);
}

void VocabularyTokenizer::AppendUnknown(std::string_view text, std::vector<int32_t>* out) const {
  const bool has_bytes = std::all_of(
      text.begin(), text.end(), [&](char c) { return byte_tokens_[static_cast<uint8_t>(c)] != kNoToken; });
  if (has_bytes) {
    for (char c : text) AppendByte(static_cast<uint8_t>(c), out);
  } else if (unknown_ != kNoToken) {
    out->push_back(unknown_);
  }
}

std::vector<int32_t> VocabularyTokenizer::IdsOfTypes(std::initializer_list<TokenType> types) const {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < size_; ++id) {
    if (std::find(types.begin(), types.end(), type(id)) != types.end()) ids.push_back(id);
  }
  return ids;
}

Status VocabularyLoader::Load(std::string_view model, const Defaults& defaults) {
  tokenizer_.model_ = model;
  LARDER_TRY(LoadTokens());
  LARDER_TRY(LoadTypes());
  LARDER_TRY(LoadSpecialIds(defaults));
  MarkEnds();
  MarkStripping();
  tokenizer_.user_defined_.Build(&tokenizer_.vocabulary_, tokenizer_.IdsOfTypes({TokenType::kUserDefined}));
  tokenizer_.special_.Build(
      &tokenizer_.vocabulary_,
      tokenizer_.IdsOfTypes({TokenType::kUserDefined, TokenType::kControl, TokenType::kUnknown}));
  return {};
}

Status VocabularyLoader::LoadTokens() {
  constexpr std::string_view kKey = "tokenizer.ggml.tokens";
  LARDER_ASSIGN(const auto tokens, file_.Strings(kKey));
  if (tokens.empty()) return Fail(ErrorKind::kInvalid, "{} is empty; a model needs a vocabulary", kKey);
  if (tokens.size() > INT32_MAX / 2) {
    return Fail(ErrorKind::kInvalid, "{} has {} entries, more than a vocabulary can have", kKey,
                tokens.size());
  }
  tokenizer_.vocabulary_.assign(tokens.begin(), tokens.end());
  tokenizer_.size_ = static_cast<int32_t>(tokens.size());
  return {};
}

Status VocabularyLoader::LoadTypes() {
  constexpr std::string_view kKey = "tokenizer.ggml.token_type";
  const size_t size = tokenizer_.vocabulary_.size();
  tokenizer_.types_.assign(size, TokenType::kNormal);
  tokenizer_.byte_tokens_.fill(kNoToken);
  if (file_.Find(kKey) == nullptr) return {};
  LARDER_ASSIGN(const auto types, file_.Ints(kKey));
  if (types.size() != size) {
    return Fail(ErrorKind::kInvalid, "{} has {} entries for {} tokens", kKey, types.size(), size);
  }
  for (size_t id = 0; id < size; ++id) {
    if (types[id] < 0 || types[id] > static_cast<int64_t>(TokenType::kByte)) {
      return Fail(ErrorKind::kInvalid, "{}[{}] is {}; types are 0 to 6", kKey, id, types[id]);
    }
    // 0 is "undefined": it stands for nothing in a text.
    tokenizer_.types_[id] = types[id] == 0 ? TokenType::kUnused : static_cast<TokenType>(types[id]);
    if (tokenizer_.types_[id] != TokenType::kByte) continue;
    if (const int byte = ByteOfText(tokenizer_.vocabulary_[id]); byte >= 0) {
      tokenizer_.byte_tokens_[static_cast<size_t>(byte)] = static_cast<int32_t>(id);
    }
  }
  return {};
}

Result<int32_t> VocabularyLoader::TokenId(std::string_view key, int32_t fallback) const {
  if (file_.Find(key) == nullptr) return fallback < tokenizer_.size_ ? fallback : kNoToken;
  LARDER_ASSIGN(const int64_t id, file_.Int(key, -1, INT64_MAX));
  if (id >= tokenizer_.size_) {
    return Fail(ErrorKind::kInvalid, "{} is {}, but the vocabulary has {} tokens", key, id, tokenizer_.size_);
  }
  return static_cast<int32_t>(id);
}

Status VocabularyLoader::LoadSpecialIds(const Defaults& defaults) {
  LARDER_ASSIGN(tokenizer_.bos_, TokenId("tokenizer.ggml.bos_token_id", defaults.bos));
  LARDER_ASSIGN(tokenizer_.eos_, TokenId("tokenizer.ggml.eos_token_id", defaults.eos));
  LARDER_ASSIGN(tokenizer_.unknown_, TokenId("tokenizer.ggml.unknown_token_id", defaults.unknown));
  tokenizer_.is_end_.assign(tokenizer_.vocabulary_.size(), false);
  for (std::string_view key : {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    LARDER_ASSIGN(const int32_t id, TokenId(key, kNoToken));
    if (id != kNoToken) tokenizer_.is_end_[static_cast<size_t>(id)] = true;
  }
  if (tokenizer_.eos_ != kNoToken) tokenizer_.is_end_[static_cast<size_t>(tokenizer_.eos_)] = true;
  const bool add_bos = file_.BoolOr("tokenizer.ggml.add_bos_token", defaults.add_bos);
  const bool add_eos = file_.BoolOr("tokenizer.ggml.add_eos_token", defaults.add_eos);
  tokenizer_.add_bos_ = add_bos && tokenizer_.bos_ != kNoToken;
  tokenizer_.add_eos_ = add_eos && tokenizer_.eos_ != kNoToken;
  return {};
}

void VocabularyLoader::MarkEnds() {
  auto& types = tokenizer_.types_;
  int32_t end = kNoToken;
  bool calls = false, returns = false;
  for (int32_t id = 0; id < tokenizer_.size_; ++id) {
    const std::string_view text = tokenizer_.vocabulary_[id];
    const char first = text.empty() ? '\0' : text[0];
    if (first != '<' && first != '[') continue;
    if (Contains(kEndMarkers, text)) {
      tokenizer_.is_end_[id] = true;
      types[id] = TokenType::kControl;
    } else if (types[id] == TokenType::kControl && Contains(kEndsIfControl, text)) {
      tokenizer_.is_end_[id] = true;
    }
    if (text == "<|end|>") end = id;
    calls |= text == "<|call|>";
    returns |= text == "<|return|>";
  }
  // Where a turn ends with <|return|> or <|call|>, <|end|> only closes one of its messages.
  if (end != kNoToken && calls && returns) tokenizer_.is_end_[end] = end == tokenizer_.eos_;

  tokenizer_.is_control_.assign(types.size(), false);
  for (size_t id = 0; id < types.size(); ++id) tokenizer_.is_control_[id] = types[id] == TokenType::kControl;
}

// The file format has no field for this, so that the reference goes by the model's name, and so must we.
void VocabularyLoader::MarkStripping() {
  auto& types = tokenizer_.types_;
  tokenizer_.strips_left_.assign(types.size(), false);
  tokenizer_.strips_right_.assign(types.size(), false);
  std::string name(file_.StringOr("general.name", ""));
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::string_view architecture = file_.StringOr("general.architecture", "");
  const std::string_view pre = file_.StringOr("tokenizer.ggml.pre", "");
  if (name.find("phi-3") != name.npos || name.find("phi3") != name.npos) {
    for (size_t id = 0; id < types.size(); ++id) {
      const bool special = types[id] == TokenType::kControl || types[id] == TokenType::kUserDefined ||
                           types[id] == TokenType::kUnknown;
      const std::string_view text = tokenizer_.vocabulary_[id];
      const bool exempt = text == "<unk>" || text == "<s>" || text == "<|endoftext|>";
      tokenizer_.strips_right_[id] = special && !exempt;
    }
  }
  const bool mask_strips =
      architecture == "nomic-bert-moe" || architecture == "jina-bert-v3" || pre.starts_with("jina-v2-");
  for (size_t id = 0; mask_strips && id < types.size(); ++id) {
    if (tokenizer_.vocabulary_[id] == "<mask>") tokenizer_.strips_left_[id] = true;
  }
}

void VocabularyLoader::Finish(std::string_view settings) {
  const VocabularyTokenizer& t = tokenizer_;
  std::string tokens, types;
  for (int32_t id = 0; id < t.size_; ++id) {
    PackField(t.vocabulary_[id], &tokens);
    types.push_back(static_cast<char>(t.types_[id]));
    types.push_back(static_cast<char>(t.strips_left_[id] | t.strips_right_[id] << 1 | t.is_end_[id] << 2));
  }
  const int32_t ids[] = {t.bos_, t.eos_, t.unknown_, t.add_bos_, t.add_eos_, t.adds_space_};
  FieldHasher hasher;
  hasher.Add("model", t.model_)
      .Add("tokens", tokens)
      .Add("types", types)
      .Add("ids", std::span<const int32_t>(ids));
  tokenizer_.digest_ = hasher.Add("settings", settings).Finish();
}

void PackField(std::string_view field, std::string* packed) {
  const uint64_t size = field.size();
  char length[8];
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(size >> (8 * i));
  packed->append(length, sizeof length).append(field);
}

Result<std::vector<float>> LoadScores(const GgufFile& file, size_t tokens) {
  constexpr std::string_view kKey = "tokenizer.ggml.scores";
  LARDER_ASSIGN(auto scores, file.Floats(kKey));
  if (scores.size() != tokens) {
    return Fail(ErrorKind::kInvalid, "{} has {} entries for {} tokens", kKey, scores.size(), tokens);
  }
  for (size_t id = 0; id < scores.size(); ++id) {
    if (scores[id] != scores[id]) return Fail(ErrorKind::kInvalid, "{}[{}] is not a number", kKey, id);
  }
  return scores;
}

}  // namespace larder
