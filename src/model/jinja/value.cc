#include "model/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "model/jinja/limits.h"

namespace larder::jinja {
namespace {

constexpr size_t kTextOverhead = sizeof(Text) + 32;
constexpr size_t kSequenceOverhead = sizeof(Sequence) + 32;
constexpr size_t kDictEntryBytes = 2 * sizeof(Value) + 96;  // with its place in the index

// A text under which equal keys are found: 1, 1.0 and True are one key, as in Python.
Status AppendHashText(const Value& key, std::string* out) {
  switch (key.kind()) {
    case Kind::kNone:
      *out += "n";
      return {};
    case Kind::kBool:
    case Kind::kInt:
      *out += 'i';
      *out += IntText(key.int_value());
      return {};
    case Kind::kFloat: {
      const double value = key.float_value();
      const bool whole = std::abs(value) < 1e18 && value == std::floor(value);
      *out += whole ? 'i' : 'f';
      *out += whole ? IntText(static_cast<Int>(value)) : FloatText(value);
      return {};
    }
    case Kind::kText:
      LARDER_TRY(Heap::TextRoom(out->size() + key.text().size()));
      *out += "s";
      *out += key.text();
      return {};
    case Kind::kSequence:
      if (key.sequence()->type != SequenceType::kTuple) break;
      *out += fmt::format("t{}", key.sequence()->items.size());
      for (const Value& item : key.sequence()->items) {
        std::string part;
        LARDER_TRY(AppendHashText(item, &part));
        LARDER_TRY(Heap::TextRoom(out->size() + part.size()));
        *out += fmt::format(",{}:", part.size());
        *out += part;
      }
      return {};
    default:
      break;
  }
  return Fail(ErrorKind::kInvalid, "a value of type '{}' cannot be a key of a dict", key.TypeName());
}

int MaxDepth(const std::vector<Value>& items) {
  int depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.Depth());
  return depth;
}

Status CheckDepth(int depth) {
  if (depth < kMaxValueDepth) return {};
  return Fail(ErrorKind::kExhausted, "values are nested more than {} deep", kMaxValueDepth);
}

}  // namespace

Value Value::Undefined(std::string reason) {
  return Value(Data(std::in_place_index<0>, std::make_shared<const std::string>(std::move(reason))));
}

Value Value::Constant(std::string text) {
  return Value(std::make_shared<const Text>(std::move(text), false, nullptr));
}

std::string_view Value::reason() const {
  const auto& reason = std::get<0>(data_);
  return reason ? std::string_view(*reason) : std::string_view("the value is undefined");
}

std::string_view Value::text() const { return std::get<std::shared_ptr<const Text>>(data_)->text; }
bool Value::is_markup() const {
  return Is(Kind::kText) && std::get<std::shared_ptr<const Text>>(data_)->markup;
}

std::string_view Value::TypeName() const {
  constexpr std::string_view kPlain[] = {"Undefined", "NoneType", "bool", "int", "float"};
  constexpr std::string_view kSequences[] = {"list",        "tuple",      "range",    "dict_keys",
                                             "dict_values", "dict_items", "generator"};
  switch (kind()) {
    case Kind::kText:
      return is_markup() ? "Markup" : "str";
    case Kind::kSequence:
      return kSequences[static_cast<size_t>(sequence()->type)];
    case Kind::kDict:
      return "dict";
    case Kind::kObject:
      return object()->TypeName();
    default:
      return kPlain[static_cast<size_t>(kind())];
  }
}

int Value::Depth() const {
  switch (kind()) {
    case Kind::kSequence:
      return sequence()->depth;
    case Kind::kDict:
      return dict().depth;
    case Kind::kObject:
      return object()->Depth();
    default:
      return 0;
  }
}

Held::Held(Heap* heap, size_t bytes) : heap_(heap), bytes_(bytes) {
  if (heap_) heap_->live_bytes_ += bytes_;
}
Held::~Held() {
  if (heap_) heap_->live_bytes_ -= bytes_;
}

void Held::Grow(size_t bytes) {
  bytes_ += bytes;
  if (heap_) heap_->live_bytes_ += bytes;
}

Text::Text(std::string text_in, bool markup_in, Heap* heap)
    : text(std::move(text_in)), markup(markup_in), held(heap, text.capacity() + kTextOverhead) {}

Sequence::Sequence(SequenceType type_in, std::vector<Value> items_in, Heap* heap)
    : type(type_in),
      items(std::move(items_in)),
      depth(1 + MaxDepth(items)),
      held(heap, items.capacity() * sizeof(Value) + kSequenceOverhead) {}

Status Dict::Builder::Set(Value key, Value value) {
  std::string hash;
  LARDER_TRY(AppendHashText(key, &hash));
  if (hash.size() > kMaxKeyBytes) {
    return Fail(ErrorKind::kExhausted, "a key of a dict is longer than {} bytes", kMaxKeyBytes);
  }
  const size_t hash_bytes = hash.size();
  const auto [place, is_new] = index.try_emplace(std::move(hash), items.size());
  if (is_new) {
    items.emplace_back(std::move(key), std::move(value));
    key_bytes += hash_bytes;
  } else {
    items[place->second].second = std::move(value);
  }
  return {};
}

Dict::Dict(Builder builder, Heap* heap)
    : items(std::move(builder.items)),
      index(std::move(builder.index)),
      depth(1),
      held(heap, sizeof(Dict) + builder.key_bytes + items.capacity() * kDictEntryBytes) {
  for (const auto& [key, value] : items) depth = std::max({depth, 1 + key.Depth(), 1 + value.Depth()});
}

const Value* Dict::Find(std::string_view key) const {
  constexpr size_t kScanned = 8;  // below this a scan is quicker than making a hash key
  if (items.size() <= kScanned) {
    for (const auto& [name, value] : items) {
      if (name.Is(Kind::kText) && name.text() == key) return &value;
    }
    return nullptr;
  }
  const auto place = index.find("s" + std::string(key));
  return place == index.end() ? nullptr : &items[place->second].second;
}

Result<const Value*> Dict::Find(const Value& key) const {
  if (key.Is(Kind::kText)) return Find(key.text());
  std::string hash;
  LARDER_TRY(AppendHashText(key, &hash));
  const auto place = index.find(hash);
  return place == index.end() ? nullptr : &items[place->second].second;
}

Status Heap::Work(size_t bytes) {
  work_ += 1 + bytes / 256;
  if (work_ <= kMaxWork) return {};
  return Fail(ErrorKind::kExhausted, "rendering takes more than {} steps; the template may loop without end",
              kMaxWork);
}

Status Heap::SearchWork(size_t text_bytes, size_t needle_bytes) {
  if (needle_bytes > text_bytes) return Work();
  return Work(text_bytes + text_bytes * (needle_bytes / 256));
}

Status Heap::Room(size_t bytes) const {
  if (bytes <= kMaxLiveBytes && live_bytes_ <= kMaxLiveBytes - bytes) return {};
  return Fail(ErrorKind::kExhausted, "the template's values take more than {} MiB", kMaxLiveBytes >> 20);
}

Status Heap::TextRoom(size_t bytes) {
  if (bytes <= kMaxTextBytes) return {};
  return Fail(ErrorKind::kExhausted, "a text is longer than {} MiB", kMaxTextBytes >> 20);
}

Status Heap::ListRoom(size_t items) const {
  return Room(items > kMaxLiveBytes ? kMaxLiveBytes + 1 : items * sizeof(Value));
}

Result<Value> Heap::NewText(std::string text, bool markup) {
  LARDER_TRY(TextRoom(text.size()));
  LARDER_TRY(Room(text.capacity() + kTextOverhead));
  LARDER_TRY(Work(text.size()));
  return Value(std::make_shared<const Text>(std::move(text), markup, this));
}

Result<Value> Heap::NewSequence(SequenceType type, std::vector<Value> items) {
  LARDER_TRY(ListRoom(items.capacity()));
  LARDER_TRY(Work(items.size() * sizeof(Value)));
  auto sequence = std::make_shared<Sequence>(type, std::move(items), this);
  LARDER_TRY(CheckDepth(sequence->depth));
  return Value(std::move(sequence));
}

Result<Value> Heap::NewDict(Dict::Builder builder) {
  LARDER_TRY(Room(builder.key_bytes + builder.items.size() * kDictEntryBytes));
  LARDER_TRY(Work(builder.items.size() * kDictEntryBytes));
  auto dict = std::make_shared<const Dict>(std::move(builder), this);
  LARDER_TRY(CheckDepth(dict->depth));
  return Value(std::move(dict));
}

Status Heap::Adopt(Object* object, size_t extra_bytes) {
  constexpr size_t kObjectBytes = 256;  // generous for each of objects.h
  LARDER_TRY(Room(kObjectBytes + extra_bytes));
  LARDER_TRY(Work(extra_bytes));
  object->held_.emplace(this, kObjectBytes + extra_bytes);
  return CheckDepth(object->Depth());
}

Result<Value> ConstantList(std::vector<Value> items) {
  auto list = std::make_shared<Sequence>(SequenceType::kList, std::move(items), nullptr);
  LARDER_TRY(CheckDepth(list->depth));
  return Value(std::move(list));
}

Result<Value> ConstantDict(Dict::Builder builder) {
  auto dict = std::make_shared<const Dict>(std::move(builder), nullptr);
  LARDER_TRY(CheckDepth(dict->depth));
  return Value(std::move(dict));
}

bool Truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.int_value() != 0;
    case Kind::kFloat:
      return value.float_value() != 0;
    case Kind::kText:
      return !value.text().empty();
    case Kind::kSequence:
      return value.sequence()->type == SequenceType::kGenerator || !value.sequence()->items.empty();
    case Kind::kDict:
      return !value.dict().items.empty();
    case Kind::kObject:
      return true;
  }
  return false;
}

namespace {

Result<bool> EqualItems(const std::vector<Value>& left, const std::vector<Value>& right, Heap& heap) {
  if (left.size() != right.size()) return false;
  for (size_t i = 0; i < left.size(); ++i) {
    LARDER_ASSIGN(const bool same, Equal(left[i], right[i], heap));
    if (!same) return false;
  }
  return true;
}

Result<bool> EqualSequences(const Value& left, const Value& right, Heap& heap) {
  const Sequence& a = *left.sequence();
  const Sequence& b = *right.sequence();
  if (a.type != b.type) return false;
  if (a.IsIndexed()) return EqualItems(a.items, b.items, heap);
  if (a.type == SequenceType::kValues || a.type == SequenceType::kGenerator) return false;
  return Fail(ErrorKind::kUnsupported, "comparing {} is not supported in chat templates", left.TypeName());
}

Result<bool> EqualDicts(const Dict& left, const Dict& right, Heap& heap) {
  if (left.items.size() != right.items.size()) return false;
  for (const auto& [key, value] : left.items) {
    LARDER_ASSIGN(const Value* other, right.Find(key));
    if (!other) return false;
    LARDER_ASSIGN(const bool same, Equal(value, *other, heap));
    if (!same) return false;
  }
  return true;
}

// Exact for whole numbers below 2^64 against floats: long double has 64 bits of mantissa.
Order CompareNumbers(const Value& left, const Value& right) {
  if (left.IsIntegral() && right.IsIntegral()) {
    const Int a = left.int_value();
    const Int b = right.int_value();
    return a < b ? Order::kLess : a > b ? Order::kGreater : Order::kEqual;
  }
  const auto wide = [](const Value& value) {
    return value.Is(Kind::kFloat) ? static_cast<long double>(value.float_value())
                                  : static_cast<long double>(value.int_value());
  };
  const long double a = wide(left);
  const long double b = wide(right);
  return a < b ? Order::kLess : a > b ? Order::kGreater : a == b ? Order::kEqual : Order::kNone;
}

}  // namespace

Result<bool> Equal(const Value& left, const Value& right, Heap& heap) {
  LARDER_TRY(heap.Work());
  if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right) == Order::kEqual;
  if (left.kind() != right.kind()) return false;
  switch (left.kind()) {
    case Kind::kText:
      if (left.text().size() != right.text().size()) return false;
      LARDER_TRY(heap.Work(left.text().size()));
      return left.text() == right.text();
    case Kind::kSequence:
      return left.IsSame(right) ? Result<bool>(true) : EqualSequences(left, right, heap);
    case Kind::kDict:
      return left.IsSame(right) ? Result<bool>(true) : EqualDicts(left.dict(), right.dict(), heap);
    case Kind::kObject:
      return left.IsSame(right);
    default:
      return true;  // None with None, undefined with undefined
  }
}

Result<Order> Compare(const Value& left, const Value& right, Heap& heap) {
  LARDER_TRY(heap.Work());
  if (left.IsNumber() && right.IsNumber()) return CompareNumbers(left, right);
  if (left.Is(Kind::kText) && right.Is(Kind::kText)) {
    LARDER_TRY(heap.Work(std::min(left.text().size(), right.text().size())));
    const int order = left.text().compare(right.text());  // bytes of UTF-8 sort as code points do
    return order < 0 ? Order::kLess : order > 0 ? Order::kGreater : Order::kEqual;
  }
  const bool lists =
      left.Is(Kind::kSequence) && right.Is(Kind::kSequence) &&
      left.sequence()->type == right.sequence()->type &&
      (left.sequence()->type == SequenceType::kList || left.sequence()->type == SequenceType::kTuple);
  if (!lists) {
    const Value* undefined = left.Is(Kind::kUndefined)    ? &left
                             : right.Is(Kind::kUndefined) ? &right
                                                          : nullptr;
    if (undefined) return Fail(ErrorKind::kInvalid, "{}", undefined->reason());
    return Fail(ErrorKind::kInvalid, "'{}' and '{}' have no order", left.TypeName(), right.TypeName());
  }
  const auto& a = left.sequence()->items;
  const auto& b = right.sequence()->items;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    LARDER_ASSIGN(const bool same, Equal(a[i], b[i], heap));
    if (!same) return Compare(a[i], b[i], heap);
  }
  return a.size() < b.size() ? Order::kLess : a.size() > b.size() ? Order::kGreater : Order::kEqual;
}

namespace {

Status AppendItems(const std::vector<Value>& items, std::string* out) {
  for (size_t i = 0; i < items.size(); ++i) {
    if (i > 0) *out += ", ";
    LARDER_TRY(AppendRepr(items[i], out));
  }
  return {};
}

Status AppendSequence(const Sequence& sequence, std::string_view type_name, std::string* out) {
  switch (sequence.type) {
    case SequenceType::kList:
      *out += "[";
      LARDER_TRY(AppendItems(sequence.items, out));
      *out += "]";
      return {};
    case SequenceType::kTuple:
      *out += "(";
      LARDER_TRY(AppendItems(sequence.items, out));
      *out += sequence.items.size() == 1 ? ",)" : ")";
      return {};
    case SequenceType::kKeys:
    case SequenceType::kValues:
    case SequenceType::kItems:
      *out += fmt::format("{}([", type_name);
      LARDER_TRY(AppendItems(sequence.items, out));
      *out += "])";
      return {};
    default:
      return Fail(ErrorKind::kUnsupported, "printing a {} is not supported; use |list", type_name);
  }
}

Status AppendDict(const Dict& dict, std::string* out) {
  *out += "{";
  for (size_t i = 0; i < dict.items.size(); ++i) {
    if (i > 0) *out += ", ";
    LARDER_TRY(AppendRepr(dict.items[i].first, out));
    *out += ": ";
    LARDER_TRY(AppendRepr(dict.items[i].second, out));
  }
  *out += "}";
  return {};
}

}  // namespace

Status AppendRepr(const Value& value, std::string* out) {
  LARDER_TRY(Heap::TextRoom(out->size()));
  switch (value.kind()) {
    case Kind::kUndefined:
      *out += "Undefined";
      return {};
    case Kind::kNone:
      *out += "None";
      return {};
    case Kind::kBool:
      *out += value.bool_value() ? "True" : "False";
      return {};
    case Kind::kInt:
      *out += IntText(value.int_value());
      return {};
    case Kind::kFloat:
      *out += FloatText(value.float_value());
      return {};
    case Kind::kText: {
      const std::string quoted = Quote(value.text());
      LARDER_TRY(Heap::TextRoom(out->size() + quoted.size()));
      *out += value.is_markup() ? "Markup(" + quoted + ")" : quoted;
      return {};
    }
    case Kind::kSequence:
      return AppendSequence(*value.sequence(), value.TypeName(), out);
    case Kind::kDict:
      return AppendDict(value.dict(), out);
    case Kind::kObject:
      break;
  }
  return Fail(ErrorKind::kUnsupported, "printing a {} is not supported in chat templates", value.TypeName());
}

Result<std::string> Str(const Value& value) {
  if (value.Is(Kind::kText)) return std::string(value.text());
  if (value.Is(Kind::kUndefined)) return std::string();
  std::string out;
  LARDER_TRY(AppendRepr(value, &out));
  LARDER_TRY(Heap::TextRoom(out.size()));
  return out;
}

Result<std::vector<Value>> Iterate(const Value& value, Heap& heap) {
  std::vector<Value> items;
  switch (value.kind()) {
    case Kind::kUndefined:
      return items;
    case Kind::kText: {
      const std::string_view text = value.text();
      const size_t count = CountCodePoints(text);
      LARDER_TRY(
          heap.Room(count < kMaxTextBytes ? count * (sizeof(Value) + kTextOverhead) : kMaxLiveBytes + 1));
      LARDER_TRY(heap.Work(text.size()));
      items.reserve(count);
      for (size_t at = 0; at < text.size();) {
        const size_t start = at;
        NextCodePoint(text, &at);
        LARDER_ASSIGN(Value item, heap.NewText(text.substr(start, at - start)));
        items.push_back(std::move(item));
      }
      return items;
    }
    case Kind::kSequence: {
      Sequence& sequence = *value.sequence();
      LARDER_TRY(heap.ListRoom(sequence.items.size()));
      LARDER_TRY(heap.Work(sequence.items.size() * sizeof(Value)));
      items.assign(sequence.items.begin() + static_cast<ptrdiff_t>(sequence.consumed), sequence.items.end());
      if (sequence.type == SequenceType::kGenerator) sequence.consumed = sequence.items.size();
      return items;
    }
    case Kind::kDict:
      LARDER_TRY(heap.ListRoom(value.dict().items.size()));
      LARDER_TRY(heap.Work(value.dict().items.size() * sizeof(Value)));
      for (const auto& [key, unused] : value.dict().items) items.push_back(key);
      return items;
    default:
      return Fail(ErrorKind::kInvalid, "'{}' cannot be iterated over", value.TypeName());
  }
}

Result<size_t> Length(const Value& value, Heap& heap) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kText:
      LARDER_TRY(heap.Work(value.text().size()));
      return CountCodePoints(value.text());
    case Kind::kSequence:
      if (value.sequence()->type == SequenceType::kGenerator) break;
      return value.sequence()->items.size();
    case Kind::kDict:
      return value.dict().items.size();
    default:
      break;
  }
  return Fail(ErrorKind::kInvalid, "a value of type '{}' has no length", value.TypeName());
}

}  // namespace larder::jinja
