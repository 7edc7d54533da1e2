// From tokens to the text a client may see: whole UTF-8, nothing of a stop string.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/tokenizer.h"

namespace larder {

class OutputText {
 public:
  // Empty stop strings are ignored; text of the first `min_tokens - 1` tokens is not searched for stops.
  OutputText(const Tokenizer* tokenizer, std::vector<std::string> stops, bool skip_special,
             int64_t min_tokens = 0);

  // Adds a token; returns the text that may be shown now. Text that could be the beginning of a stop string
  // is held back. Of several stop strings the one that ends first wins, and of those the longest, so that the
  // answer does not depend on where tokens end. Nothing is shown after a stop.
  std::string Push(int32_t token);
  bool stopped() const { return !matched_.empty(); }  // a stop string was completed
  const std::string& matched() const { return matched_; }
  // The rest, when generation ends for another reason.
  std::string Finish();

 private:
  std::string Release(bool all);
  bool CutAtStop();
  size_t HeldBack() const;
  StreamDecoder decoder_;
  std::vector<std::string> stops_;
  int64_t unchecked_;  // tokens to come whose text is not searched
  std::string held_, matched_;
};

}  // namespace larder
