// The fields of a request, declared once: name, type, range and help. Reading, the errors and the description
// that documentation and tests walk over all come from the declaration.
//
//   int64_t n = 1;
//   Fields fields;
//   fields.Int("n", &n, 1, 128, "choices for the prompt");
//   if (auto status = fields.Read(body); !status) return ErrorResponse(status.error());
//
// An explicit null is the same as an absent field; unknown fields are ignored; a wrong type or a value out of
// range is an error that names the field.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "serve/errors.h"

namespace larder {

// One prompt of a request: text or tokens.
struct PromptItem {
  bool is_text = true;
  std::string text;
  std::vector<int32_t> tokens;
};

struct FieldSpec {
  enum class Type {
    kBool,
    kInt,
    kFloat,
    kString,
    kStrings,  // a string or a list of strings
    kTokens,   // a list of integers
    kPrompt,   // a string, a list of strings, a list of tokens, a list of lists of tokens
    kBiases,   // an object: token number -> number
    kObject,   // an object with declared fields of its own
    kAnyObject,
    kAnyArray,
    kAny,  // passed on as JSON text
  };
  std::string name;  // nested fields as "outer.inner"
  Type type;
  std::string range;  // as people read it: "0..2"; "" where there is none
  std::string help;
};
std::string_view FieldTypeText(FieldSpec::Type type);  // "a string or a list of strings"

class Fields {
 public:
  Fields() = default;
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  void Bool(std::string name, bool* value, std::string help);
  void Int(std::string name, int64_t* value, int64_t min, int64_t max, std::string help);
  void Int(std::string name, std::optional<int64_t>* value, int64_t min, int64_t max, std::string help);
  void Float(std::string name, float* value, double min, double max, std::string help);
  void String(std::string name, std::string* value, std::string help);
  void Strings(std::string name, std::vector<std::string>* value, std::string help);
  void Tokens(std::string name, std::vector<int32_t>* value, std::string help);
  void Prompt(std::string name, std::vector<PromptItem>* value, std::string help);
  void Biases(std::string name, std::vector<std::pair<int32_t, float>>* value, std::string help);
  Fields& Object(std::string name, std::string help);
  // Raw JSON of the declared kind; "" where absent.
  void AnyObject(std::string name, std::string* json, std::string help);
  void AnyArray(std::string name, std::string* json, std::string help);
  void Any(std::string name, std::string* json, std::string help);
  // Accepted and checked, but not used by this server (hints for policies that come later).
  void Hint(std::string name, FieldSpec::Type type, std::string help);

  // Reads a whole body, of a shape that CheckJsonShape allows.
  ApiStatus Read(std::string_view body);
  bool Has(std::string_view name) const;  // given and not null, in the last Read

  std::vector<FieldSpec> Describe() const;  // nested ones included

 private:
  struct Reader;
  using Target = std::variant<std::monostate, bool*, int64_t*, std::optional<int64_t>*, float*, std::string*,
                              std::vector<std::string>*, std::vector<int32_t>*, std::vector<PromptItem>*,
                              std::vector<std::pair<int32_t, float>>*>;
  struct Entry {
    FieldSpec spec;
    Target target;
    double min = 0, max = 0;           // kFloat
    int64_t int_min = 0, int_max = 0;  // kInt
    std::unique_ptr<Fields> inner;     // kObject
    bool given = false;
  };
  Entry& Declare(std::string name, FieldSpec::Type type, std::string help, Target target);
  std::string prefix_;
  std::vector<Entry> entries_;
};

inline constexpr int kMaxJsonDepth = 64;
// Refuses, before anything is parsed, what would cost more than its size: nesting below kMaxJsonDepth, and
// objects with so many members that keeping their order (which takes a search for each) would be slow.
ApiStatus CheckJsonShape(std::string_view json);

}  // namespace larder
