// An eviction method at work on one list of tokens, without the engine: the prompt, the choice, and the rows
// that follow on what is left.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "engine/evict_driver.h"
#include "larder/session.h"

namespace larder {

class MethodRun {
 public:
  MethodRun(EvictResources& resources, std::unique_ptr<EvictMethod> method, int64_t prompt_rows);

  // The rows of the prompt, and the choice. `full`: where those of them stand that the method may read; null:
  // all are computed. `tokens`: at least the prompt's.
  Status Prompt(const KvSequence* full, std::span<const int32_t> tokens);
  // Rows from the prompt's end to that of `tokens`, in chunks where the method allows it; `on_rows` gets the
  // hidden states of those from hidden_from on.
  Status Append(std::span<const int32_t> tokens, int64_t hidden_from, const Session::OnRows& on_rows);
  // Computes and writes rows from driver().rows() on, or, behind a prefix that holds all of them, the last
  // one again, up to a place where the method wants to be called; returns it.
  Result<int64_t> Advance(int64_t from, int64_t end, std::span<const int32_t> tokens, int64_t hidden_from,
                          const Session::OnRows& on_rows);

  // One row of the sequence for a batch of many; it is written unless it is there.
  Row RowAt(int64_t row, int32_t token);
  EvictDriver& driver() { return driver_; }
  const EvictDriver& driver() const { return driver_; }
  bool read_prefix() const { return read_prefix_; }
  // What the method itself has taken so far: its part of a step, the rows it runs again, its choices. Not
  // what attention does more for it.
  double method_seconds() const { return method_s_; }

 private:
  EvictResources& resources_;
  EvictDriver driver_;
  const int64_t prompt_rows_;
  bool read_prefix_ = false;
  double method_s_ = 0;
};

}  // namespace larder
