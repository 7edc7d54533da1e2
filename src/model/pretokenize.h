// Cutting a text into the pieces that byte-level BPE merges within. Each published tokenizer has its own
// rules, named by tokenizer.ggml.pre: a list of regular expressions, each applied inside the pieces the one
// before it left.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder {

class PreTokenizer {
 public:
  // kUnsupported names the pre-tokenizer and lists those that are known.
  static Result<std::unique_ptr<PreTokenizer>> Make(std::string_view name);
  ~PreTokenizer();

  // Appends the pieces of `text`, in order and without gaps. Bytes that are no UTF-8 become pieces of their
  // own.
  void Split(std::string_view text, std::vector<std::string_view>* pieces) const;

  bool ignores_merges() const { return ignores_merges_; }  // a piece that is a token is that token, unmerged
  bool adds_bos() const { return adds_bos_; }              // where the metadata does not say

 private:
  PreTokenizer();
  struct Patterns;
  std::unique_ptr<Patterns> patterns_;
  bool ignores_merges_ = false, adds_bos_ = false;
};

}  // namespace larder
