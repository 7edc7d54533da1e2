// What a benchmark measures: an engine that does a piece of work and says how long it took.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "larder/measure.h"
#include "larder/session.h"

namespace larder {

// One point of a benchmark.
struct BenchPoint {
  bool decode = false;    // else prefill
  int64_t length = 0;     // prefill: tokens of the prompt; decode: tokens in the cache at the start
  int64_t sequences = 1;  // decode: that decode in step
  int64_t tokens = 1;     // decode: for each sequence

  int64_t TokensProcessed() const { return decode ? sequences * tokens : length; }
};

// One timed piece of work.
struct BenchSample {
  double seconds = 0;
  double cpu_seconds = 0;   // of the engine's process
  double busy_seconds = 0;  // of all cores, the engine included
  double bytes = 0;         // read: weights once a pass, and keys and values
  std::string note;         // what the engine chose
};

class BenchEngine {
 public:
  virtual ~BenchEngine() = default;
  virtual std::string name() const = 0;  // "Larder", "llama.cpp q4_0.gguf"
  // The first call of a point may take longer; it is not measured.
  virtual Result<BenchSample> Run(const BenchPoint& point) = 0;
};

// Larder itself, without server and scheduler. Points of one kind, all known in advance so that the cache has
// room.
Result<std::unique_ptr<BenchEngine>> CreateLarderEngine(Model& model, std::string name,
                                                        std::span<const BenchPoint> points);

// A peer in a child process; kind: "llama" or "openvino", the scripts' names. The model's shape says what its
// cache reads; file: what the peer loads.
Result<std::unique_ptr<BenchEngine>> CreatePeerEngine(const std::string& kind, const std::string& python,
                                                      const std::string& file, const Model& model,
                                                      int threads, bool decode);

// Multiplications of a point: weights, head, attention.
double PointMacs(const ModelSpec& spec, const BenchPoint& point);

}  // namespace larder
