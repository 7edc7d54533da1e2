// Values of the template language. They are immutable, shared by reference and ordered as in Python; the
// exceptions that can change (namespaces, loops, cyclers) are Objects. Everything a rendering makes is made
// through its Heap, which counts bytes and work.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/jinja/text.h"

namespace larder::jinja {

class Heap;
struct Text;
struct Sequence;
struct Dict;
class Object;

enum class Kind : uint8_t { kUndefined, kNone, kBool, kInt, kFloat, kText, kSequence, kDict, kObject };

class Value {
 public:
  Value() = default;  // undefined, without a reason
  static Value Undefined(std::string reason);
  static Value None() { return Value(Data(std::in_place_index<1>)); }
  static Value Bool(bool value) { return Value(Data(std::in_place_index<2>, value)); }
  static Value Integer(Int value) { return Value(Data(std::in_place_index<3>, value)); }
  static Value Float(double value) { return Value(Data(std::in_place_index<4>, value)); }
  // For what the template or the context holds; a rendering makes its strings and containers with Heap.
  static Value Constant(std::string text);
  explicit Value(std::shared_ptr<const Text> text) : data_(std::move(text)) {}
  explicit Value(std::shared_ptr<Sequence> items) : data_(std::move(items)) {}
  explicit Value(std::shared_ptr<const Dict> dict) : data_(std::move(dict)) {}
  explicit Value(std::shared_ptr<Object> object) : data_(std::move(object)) {}

  Kind kind() const { return static_cast<Kind>(data_.index()); }
  bool Is(Kind kind) const { return this->kind() == kind; }
  bool IsNumber() const { return Is(Kind::kBool) || Is(Kind::kInt) || Is(Kind::kFloat); }
  bool IsIntegral() const { return Is(Kind::kBool) || Is(Kind::kInt); }

  // REQUIRES: the kind named.
  std::string_view reason() const;
  bool bool_value() const { return std::get<bool>(data_); }
  Int int_value() const { return Is(Kind::kBool) ? Int{std::get<bool>(data_)} : std::get<Int>(data_); }
  double float_value() const { return std::get<double>(data_); }
  double number() const { return Is(Kind::kFloat) ? float_value() : static_cast<double>(int_value()); }
  std::string_view text() const;
  bool is_markup() const;  // false for what is not text
  const std::shared_ptr<Sequence>& sequence() const { return std::get<std::shared_ptr<Sequence>>(data_); }
  const Dict& dict() const { return *std::get<std::shared_ptr<const Dict>>(data_); }
  const std::shared_ptr<Object>& object() const { return std::get<std::shared_ptr<Object>>(data_); }
  template <class T>
  std::shared_ptr<T> As() const {  // the object when it is a T, else null
    return Is(Kind::kObject) ? std::dynamic_pointer_cast<T>(object()) : nullptr;
  }

  std::string_view TypeName() const;  // Python's: 'str', 'dict', ...
  int Depth() const;                  // containers inside containers; 0 for plain values
  bool IsSame(const Value& other) const { return data_ == other.data_; }  // Python's `is` for shared values

 private:
  using Data = std::variant<std::shared_ptr<const std::string>, std::monostate, bool, Int, double,
                            std::shared_ptr<const Text>, std::shared_ptr<Sequence>,
                            std::shared_ptr<const Dict>, std::shared_ptr<Object>>;
  explicit Value(Data data) : data_(std::move(data)) {}
  Data data_;
};

// Counts bytes while it lives. A null heap (constants, context) counts nothing.
class Held {
 public:
  Held() = default;
  Held(Heap* heap, size_t bytes);
  Held(const Held&) = delete;
  Held& operator=(const Held&) = delete;
  ~Held();
  void Grow(size_t bytes);

 private:
  Heap* heap_ = nullptr;
  size_t bytes_ = 0;
};

struct Text {
  Text(std::string text, bool markup, Heap* heap);
  std::string text;
  bool markup;  // marked by |safe: `+` escapes what is joined to it
  Held held;
};

enum class SequenceType : uint8_t { kList, kTuple, kRange, kKeys, kValues, kItems, kGenerator };

struct Sequence {
  Sequence(SequenceType type, std::vector<Value> items, Heap* heap);
  bool IsIndexed() const {
    return type == SequenceType::kList || type == SequenceType::kTuple || type == SequenceType::kRange;
  }
  SequenceType type;
  std::vector<Value> items;
  size_t consumed = 0;  // of a generator: items already handed out
  int depth;
  Held held;
};

struct Dict {
  // Key order is insertion order; a key set twice keeps its first place.
  struct Builder {
    // kInvalid when the key cannot be one (a list, a dict).
    Status Set(Value key, Value value);
    std::vector<std::pair<Value, Value>> items;
    std::unordered_map<std::string, size_t> index;
    size_t key_bytes = 0;
  };
  Dict(Builder builder, Heap* heap);
  const Value* Find(std::string_view key) const;
  Result<const Value*> Find(const Value& key) const;  // null when absent

  std::vector<std::pair<Value, Value>> items;
  std::unordered_map<std::string, size_t> index;  // by HashText
  int depth;
  Held held;
};

// What has identity: namespaces, macros, loops, bound methods, functions.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view TypeName() const = 0;
  virtual bool IsCallable() const { return false; }
  virtual int Depth() const { return 0; }

 private:
  friend class Heap;
  std::optional<Held> held_;
};

// The bytes and the work of one rendering.
class Heap {
 public:
  Heap() = default;
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // Pays for one step and for touching this many bytes.
  Status Work(size_t bytes = 0);
  // Pays for looking for `needle_bytes` in a text, whose worst case is their product.
  Status SearchWork(size_t text_bytes, size_t needle_bytes);
  // Refuses what would not fit; for checks before something large is built.
  Status Room(size_t bytes) const;
  static Status TextRoom(size_t bytes);
  Status ListRoom(size_t items) const;

  Result<Value> NewText(std::string text, bool markup = false);
  Result<Value> NewText(std::string_view text, bool markup = false) {
    return NewText(std::string(text), markup);
  }
  Result<Value> NewText(const char* text) { return NewText(std::string(text)); }
  Result<Value> NewSequence(SequenceType type, std::vector<Value> items);
  Result<Value> NewList(std::vector<Value> items) {
    return NewSequence(SequenceType::kList, std::move(items));
  }
  Result<Value> NewDict(Dict::Builder builder);
  // `extra_bytes`: what the object keeps outside itself.
  Status Adopt(Object* object, size_t extra_bytes);

 private:
  friend class Held;
  size_t live_bytes_ = 0;
  uint64_t work_ = 0;
};

// A constant of its own, outside any heap. kInvalid when nested too deeply.
Result<Value> ConstantList(std::vector<Value> items);
Result<Value> ConstantDict(Dict::Builder builder);

bool Truth(const Value& value);
Result<bool> Equal(const Value& left, const Value& right, Heap& heap);
enum class Order { kLess, kEqual, kGreater, kNone };  // kNone: a NaN is involved
// kInvalid when Python has no order for these types.
Result<Order> Compare(const Value& left, const Value& right, Heap& heap);
// str() and repr().
Result<std::string> Str(const Value& value);
Status AppendRepr(const Value& value, std::string* out);
// Copies what iterating over the value gives; a generator is used up by it.
Result<std::vector<Value>> Iterate(const Value& value, Heap& heap);
// len(); kInvalid for what has none.
Result<size_t> Length(const Value& value, Heap& heap);

}  // namespace larder::jinja
