// Byte-pair encoding with a list of merges: byte-level (GPT-2 and all that followed it), and Gemma 4's form,
// which merges characters, writes spaces as U+2581 and falls back to byte tokens.
#include <bit>
#include <unordered_map>

#include "model/merge.h"
#include "model/pretokenize.h"
#include "model/sentencepiece.h"
#include "model/tokenizer_parts.h"
#include "model/utf8.h"

namespace larder {
namespace {

// (left token, right token) to the merge's rank and result: open addressing, 16 bytes a slot.
class MergeTable {
 public:
  void Reserve(size_t merges) {
    slots_.assign(std::bit_ceil(merges + merges / 2 + 1), Slot{});
    mask_ = slots_.size() - 1;
  }
  // Of equal pairs the first one counts.
  void Add(int32_t left, int32_t right, uint32_t rank, int32_t result) {
    Slot& slot = slots_[Find(left, right)];
    if (slot.result < 0) slot = {left, right, rank, result};
  }
  bool Lookup(int32_t left, int32_t right, Merge* merge) const {
    const Slot& slot = slots_[Find(left, right)];
    *merge = {slot.rank, slot.result};
    return slot.result >= 0;
  }

 private:
  struct Slot {
    int32_t left = -1, right = -1;
    uint32_t rank = 0;
    int32_t result = -1;
  };
  size_t Find(int32_t left, int32_t right) const {
    const uint64_t key =
        static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
    size_t at = (key * 0x9E3779B97F4A7C15u >> 20) & mask_;
    while (slots_[at].result >= 0 && (slots_[at].left != left || slots_[at].right != right))
      at = (at + 1) & mask_;
    return at;
  }
  std::vector<Slot> slots_ = std::vector<Slot>(1);
  size_t mask_ = 0;
};

// GPT-2 writes each byte as a printable character: itself where it is one, else the next free one from
// U+0100.
std::array<uint16_t, 256> ByteCharacters() {
  std::array<uint16_t, 256> characters{};
  uint16_t next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    characters[byte] = printable ? static_cast<uint16_t>(byte) : next++;
  }
  return characters;
}

std::string Utf8Of(uint16_t below_0x800) {
  if (below_0x800 < 0x80) return {static_cast<char>(below_0x800)};
  return {static_cast<char>(0xC0 | below_0x800 >> 6), static_cast<char>(0x80 | (below_0x800 & 0x3F))};
}

class BpeTokenizer final : public VocabularyTokenizer {
 public:
  Status Load(const GgufFile& file, std::string_view model);

 protected:
  void EncodeText(std::string_view text, bool at_start, std::vector<int32_t>* out) const override;
  void AppendNormal(std::string_view text, std::string* out) const override;

 private:
  Status LoadMerges(const GgufFile& file);
  void LoadBytes();
  void EncodeBytes(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const;
  void EncodeCharacters(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const;
  bool IsWholeToken(std::string_view piece, std::vector<int32_t>* out) const;
  void Emit(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const;

  bool byte_level_ = true;
  std::unique_ptr<PreTokenizer> pre_;
  TextIndex index_;  // all tokens but control, unknown and byte tokens
  MergeTable merges_;
  JoinFilter joins_;  // unless byte_level_
  std::array<uint16_t, 256> characters_ = ByteCharacters();
  std::array<int16_t, 0x200> byte_of_;  // the byte a character stands for, -1 for none
  std::array<int32_t, 256> first_ids_;  // the token of each single byte
};

Status BpeTokenizer::Load(const GgufFile& file, std::string_view model) {
  byte_level_ = model != "gemma4";
  const std::string_view pre = byte_level_ ? file.StringOr("tokenizer.ggml.pre", "default") : "gemma4";
  LARDER_ASSIGN(pre_, PreTokenizer::Make(pre));
  VocabularyLoader loader(file, this);
  VocabularyLoader::Defaults defaults;
  defaults.add_bos = pre_->adds_bos() || !byte_level_;
  LARDER_TRY(loader.Load(model, defaults));
  if (!byte_level_) add_bos_ = bos_ != kNoToken;  // published files say no, and mean yes
  index_.Build(&vocabulary_, IdsOfTypes({TokenType::kNormal, TokenType::kUserDefined, TokenType::kUnused}));
  LoadBytes();
  LARDER_TRY(LoadMerges(file));
  std::string settings;
  PackField(pre, &settings);
  LARDER_ASSIGN(const auto merges, file.Strings("tokenizer.ggml.merges"));
  for (std::string_view merge : merges) PackField(merge, &settings);
  loader.Finish(settings);
  return {};
}

void BpeTokenizer::LoadBytes() {
  byte_of_.fill(-1);
  for (unsigned byte = 0; byte < 256; ++byte) {
    byte_of_[characters_[byte]] = static_cast<int16_t>(byte);
    first_ids_[byte] = index_.Find(Utf8Of(characters_[byte]));
    if (byte_level_ && byte_tokens_[byte] == kNoToken) byte_tokens_[byte] = first_ids_[byte];
  }
}

Status BpeTokenizer::LoadMerges(const GgufFile& file) {
  constexpr std::string_view kKey = "tokenizer.ggml.merges";
  LARDER_ASSIGN(const auto merges, file.Strings(kKey));
  if (merges.size() > UINT32_MAX / 4) {
    return Fail(ErrorKind::kInvalid, "{} has {} entries, more than a vocabulary can need", kKey,
                merges.size());
  }
  merges_.Reserve(merges.size());
  std::string joined;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view merge = merges[rank];
    const size_t space = merge.find(' ', 1);
    if (space == merge.npos) {
      return Fail(ErrorKind::kInvalid, "{}[{}] is \"{}\"; a merge is two tokens with a space between", kKey,
                  rank, merge);
    }
    joined.assign(merge, 0, space).append(merge, space + 1);
    const int32_t left = index_.Find(merge.substr(0, space)), right = index_.Find(merge.substr(space + 1));
    const int32_t result = index_.Find(joined);
    if (left < 0 || right < 0 || result < 0) {
      return Fail(ErrorKind::kInvalid, "{}[{}] is \"{}\", and \"{}\" is not in the vocabulary", kKey, rank,
                  merge,
                  left < 0    ? merge.substr(0, space)
                  : right < 0 ? merge.substr(space + 1)
                              : joined);
    }
    merges_.Add(left, right, static_cast<uint32_t>(rank), result);
  }
  if (byte_level_) return {};
  for (int32_t id : IdsOfTypes({TokenType::kNormal, TokenType::kUserDefined, TokenType::kUnused})) {
    joins_.AddToken(vocabulary_[id]);
  }
  return {};
}

void BpeTokenizer::EncodeText(std::string_view text, bool, std::vector<int32_t>* out) const {
  std::string marked;
  if (!byte_level_) {
    AppendMarked(text, &marked);
    text = marked;
  }
  std::vector<std::string_view> pieces;
  pre_->Split(text, &pieces);
  Merger merger;
  for (std::string_view piece : pieces) {
    byte_level_ ? EncodeBytes(piece, &merger, out) : EncodeCharacters(piece, &merger, out);
  }
}

void BpeTokenizer::EncodeBytes(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const {
  if (pre_->ignores_merges() && IsWholeToken(piece, out)) return;
  if (piece.size() == 1) return AppendByte(static_cast<uint8_t>(piece[0]), out);
  merger->Clear();
  for (uint32_t i = 0; i < piece.size(); ++i) {
    const int32_t id = first_ids_[static_cast<uint8_t>(piece[i])];
    if (id >= 0) merger->Add(i, 1, id);  // what stands on both sides of a byte without a token may merge
  }
  Emit(piece, merger, out);
}

bool BpeTokenizer::IsWholeToken(std::string_view piece, std::vector<int32_t>* out) const {
  if (piece.size() > index_.longest()) return false;
  std::string written;
  for (char byte : piece) written += Utf8Of(characters_[static_cast<uint8_t>(byte)]);
  const int32_t id = index_.Find(written);
  if (id >= 0) out->push_back(id);
  return id >= 0;
}

void BpeTokenizer::EncodeCharacters(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const {
  // A run of line ends is one token where the vocabulary has it, whatever the merges would make of it.
  if (piece[0] == '\n') {
    if (const int32_t id = index_.Find(piece); id >= 0) return out->push_back(id);
  }
  joins_.ForEachPart(piece, [&](std::string_view part) {
    merger->Clear();
    for (size_t at = 0; at < part.size();) {
      const Utf8Step step = NextUtf8(part, at);
      merger->Add(static_cast<uint32_t>(at), step.bytes, index_.Find(part.substr(at, step.bytes)));
      at += step.bytes;
    }
    Emit(part, merger, out);
  });
}

void BpeTokenizer::Emit(std::string_view piece, Merger* merger, std::vector<int32_t>* out) const {
  merger->Run([&](const MergeSymbol& left, const MergeSymbol& right, Merge* merge) {
    return merges_.Lookup(left.id, right.id, merge);
  });
  for (const MergeSymbol& symbol : merger->symbols()) {
    if (symbol.size == 0) continue;
    if (symbol.id >= 0) {
      out->push_back(symbol.id);
      continue;
    }
    for (char byte : piece.substr(symbol.begin, symbol.size)) AppendByte(static_cast<uint8_t>(byte), out);
  }
}

void BpeTokenizer::AppendNormal(std::string_view text, std::string* out) const {
  if (!byte_level_) return AppendUnmarked(text, out);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = NextUtf8(text, at);
    const bool stands_for_byte =
        step.kind == Utf8Step::kWhole && step.code_point < byte_of_.size() && byte_of_[step.code_point] >= 0;
    if (stands_for_byte) {
      out->push_back(static_cast<char>(byte_of_[step.code_point]));
    } else {
      out->append(text.substr(at, step.bytes));
    }
    at += step.bytes;
  }
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> LoadBpeTokenizer(const GgufFile& file, std::string_view model) {
  auto tokenizer = std::make_unique<BpeTokenizer>();
  LARDER_TRY(tokenizer->Load(file, model));
  return tokenizer;
}

}  // namespace larder
