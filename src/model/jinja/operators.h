// Arithmetic, concatenation and containment with Python's meaning.
#pragma once

#include "model/jinja/ast.h"
#include "model/jinja/value.h"

namespace larder::jinja {

Result<Value> ApplyBinary(BinaryOp op, const Value& left, const Value& right, Heap& heap);
Result<Value> Negate(const Value& value);
Result<Value> Plus(const Value& value);
Result<bool> Contains(const Value& container, const Value& item, Heap& heap);
Result<bool> ApplyCompare(CompareOp op, const Value& left, const Value& right, Heap& heap);

}  // namespace larder::jinja
