// Parameters, declared once where they are read: name, type, default, range and help. The command line, the
// configuration file, the request schema and the table in the documentation are all generated from the
// declaration.
//
//   int64_t window = 32;
//   double budget = 0.25;
//   Params params("snapkv");
//   params.Int("window", &window, 1, 4096, "rows at the end of the prompt that vote");
//   params.Float("budget", &budget, 0.0, 1.0, "share of the prompt's rows to keep");
//   LARDER_TRY(params.ParseList("budget=0.5,window=16"));
//
// The default is the variable's value when it is declared. Unknown names are errors that list the known ones.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"

namespace larder {

struct ParamSpec {
  enum class Type { kBool, kInt, kFloat, kString, kSize, kChoice };
  std::string name;  // lower case, words joined by '-'
  Type type;
  std::string default_text;
  std::string range;  // as people read it: "1..4096", "f16|f32", ""
  std::string help;
  std::optional<std::string> given = {};  // the value, as it was written last
  std::string implied = {};               // what the option says without a value; "": it needs one
};

class Params {
 public:
  explicit Params(std::string owner) : owner_(std::move(owner)) {}

  void Bool(std::string name, bool* value, std::string help);
  void Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help);
  void Float(std::string name, double* value, double min, double max, std::string help);
  void String(std::string name, std::string* value, std::string help);
  // On the command line it may come without a value, which then is `implied`.
  void OptionalString(std::string name, std::string* value, std::string implied, std::string help);
  void Size(std::string name, uint64_t* bytes, uint64_t min, uint64_t max,
            std::string help);  // takes K, M, G
  void Choice(std::string name, std::string* value, std::vector<std::string> choices, std::string help);

  Status Set(std::string_view name, std::string_view text);
  Status ParseList(std::string_view list);          // key=value,key=value
  Status ParseJsonObject(std::string_view json);    // {"key": value}; TOML files are turned into this first
  Status ParseConfigFile(const std::string& path);  // .json or .toml, by its ending

  const std::string& owner() const { return owner_; }
  std::span<const ParamSpec> specs() const { return specs_; }
  const ParamSpec* Find(std::string_view name) const;

 private:
  void Declare(ParamSpec spec, std::function<Status(std::string_view)> set);
  std::string owner_;
  std::vector<ParamSpec> specs_;
  std::vector<std::function<Status(std::string_view)>> setters_;
};

// "512", "64K", "1.5G" (binary multiples, an optional trailing "iB" or "B"): bytes.
Result<uint64_t> ParseSize(std::string_view text);
std::string FormatSize(uint64_t bytes);  // "1.4 MiB"

}  // namespace larder
