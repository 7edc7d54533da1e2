// Redis' wire protocol, version 2, over hiredis' reader and formatter. Whoever reads says how large an answer
// may be; a larger one is an error before it has been gathered, so a server cannot make us hold what it
// likes.
#pragma once

#include <hiredis/read.h>

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace larder {

// A command as it goes over the wire.
class RespCommand {
 public:
  RespCommand() = default;
  explicit RespCommand(std::initializer_list<std::string_view> arguments);
  std::string_view text() const { return {text_.get(), size_}; }
  size_t size() const { return size_; }

 private:
  struct FreeText {
    void operator()(char* text) const;
  };
  std::unique_ptr<char, FreeText> text_;
  size_t size_ = 0;
};

struct RespValue {
  enum class Type : uint8_t { kNil, kStatus, kError, kInteger, kString, kArray };
  Type type = Type::kNil;
  int64_t integer = 0;
  std::string text;  // of kStatus, kError, kString
  std::vector<RespValue> elements;

  bool IsNil() const { return type == Type::kNil; }
  bool IsString() const { return type == Type::kString; }
  bool IsStatus(std::string_view wanted) const { return type == Type::kStatus && text == wanted; }
};

class RespReader {
 public:
  RespReader();
  RespReader(const RespReader&) = delete;
  RespReader& operator=(const RespReader&) = delete;

  // kCorrupt: no more memory, or an earlier error.
  Status Feed(std::string_view bytes);
  // The next answer, or nothing while it is incomplete. kCorrupt: not the protocol, or more than `max_bytes`
  // of text (status and error lines of a usual length are always allowed); the connection is then of no use.
  Result<std::optional<RespValue>> Next(size_t max_bytes);
  size_t buffered() const { return reader_->len - reader_->pos; }

 private:
  struct Limits {
    size_t max_bytes = 0, used_bytes = 0;
    bool exceeded = false;
  };
  struct FreeReader {
    void operator()(redisReader* reader) const { redisReaderFree(reader); }
  };
  struct Callbacks;

  Limits limits_;
  std::unique_ptr<redisReader, FreeReader> reader_;
};

}  // namespace larder
