// Runs token lists through a model and a cache, the way the engine does, and hands out logits. For tests.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kv/cache.h"
#include "model/model.h"

namespace larder::testing {

inline std::string DataPath(const std::string& name) { return std::string(LARDER_TEST_DATA) + "/" + name; }

// `codec` as --kv-type has it, beside kI16; "": none.
inline std::unique_ptr<Model> LoadModel(const std::string& path, MathMode math, KvType kv_type, int threads,
                                        const std::string& codec = "") {
  auto model = Model::Load(
      path, {.math = math, .kv_type = kv_type, .kv_codec = codec, .threads = threads, .progress = {}});
  if (!model) {
    std::fprintf(stderr, "%s: %s\n", path.c_str(), model.error().message.c_str());
    std::abort();
  }
  return *std::move(model);
}

class ModelSession {
 public:
  explicit ModelSession(Model* model, KvCacheOptions options = {}) : model_(model) {
    auto cache = KvCache::Create(model->kv_shape(), model->kv_identity(), std::move(options), &clock_);
    if (!cache) {
      std::fprintf(stderr, "%s\n", cache.error().message.c_str());
      std::abort();
    }
    cache_ = *std::move(cache);
  }

  Model& model() { return *model_; }
  KvCache& cache() { return *cache_; }

  // A sequence being computed: rows [0, computed) are done.
  struct Run {
    std::vector<int32_t> tokens;
    std::unique_ptr<KvSequence> kv;
    int64_t computed = 0;
    std::vector<std::vector<float>> logits;  // [row] of the rows wanted, else empty
  };

  // Opens over what is cached; at least the last row remains to be computed.
  Run Open(std::vector<int32_t> tokens, bool read_cache = true, const std::string& tenant = "t") {
    Run run;
    run.tokens = std::move(tokens);
    std::span<const int32_t> wanted(run.tokens);
    if (!read_cache) wanted = {};
    auto opened = cache_->Open(tenant, wanted);
    LARDER_CHECK(opened.has_value());
    run.kv = std::move(opened->sequence);
    run.computed = std::min<int64_t>(run.kv->length(), static_cast<int64_t>(run.tokens.size()) - 1);
    run.logits.resize(run.tokens.size());
    return run;
  }

  // One forward call over the next rows of several runs: counts[i] rows of runs[i]. Keeps the logits of every
  // row that was computed when `all_logits`, else those of each run's last row.
  void Step(std::span<Run* const> runs, std::span<const int64_t> counts, bool all_logits = true) {
    std::vector<Row> rows;
    std::vector<std::pair<Run*, int64_t>> wanted;
    for (size_t i = 0; i < runs.size(); ++i) {
      Run& run = *runs[i];
      const int64_t end = run.computed + counts[i];
      if (end > run.kv->length()) LARDER_CHECK(cache_->Reserve(*run.kv, end - run.kv->length()).has_value());
      for (int64_t p = run.computed; p < end; ++p) {
        Row row;
        row.token = run.tokens[static_cast<size_t>(p)];
        row.position = static_cast<int32_t>(p);
        row.kv = run.kv.get();
        row.writes_kv = p >= run.kv->length();
        row.wants_hidden = all_logits || p + 1 == static_cast<int64_t>(run.tokens.size());
        rows.push_back(row);
        if (row.wants_hidden) wanted.emplace_back(&run, p);
      }
    }
    const size_t width = static_cast<size_t>(model_->spec().width),
                 vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    std::vector<float> hidden(wanted.size() * width);
    model_->Forward(rows, hidden.data());
    constexpr size_t kPiece = 32;
    std::vector<float> logits(kPiece * vocabulary);
    for (size_t i = 0; i < wanted.size(); i += kPiece) {
      const size_t n = std::min(kPiece, wanted.size() - i);
      model_->Logits(&hidden[i * width], static_cast<int>(n), logits.data());
      for (size_t j = 0; j < n; ++j) {
        wanted[i + j].first->logits[static_cast<size_t>(wanted[i + j].second)].assign(
            logits.begin() + static_cast<ptrdiff_t>(j * vocabulary),
            logits.begin() + static_cast<ptrdiff_t>((j + 1) * vocabulary));
      }
    }
    for (size_t i = 0; i < runs.size(); ++i) {
      Run& run = *runs[i];
      const int64_t end = run.computed + counts[i], length = run.kv->length();
      if (end > length) {
        cache_->Publish(
            *run.kv,
            std::span(run.tokens).subspan(static_cast<size_t>(length), static_cast<size_t>(end - length)));
      }
      run.computed = end;
    }
  }

  // To the end, in chunks of at most `chunk` rows.
  void Finish(Run& run, int64_t chunk = 512, bool all_logits = true) {
    Run* const runs[] = {&run};
    while (run.computed < static_cast<int64_t>(run.tokens.size())) {
      const int64_t counts[] = {
          std::min<int64_t>(chunk, static_cast<int64_t>(run.tokens.size()) - run.computed)};
      Step(runs, counts, all_logits);
    }
  }

  void Close(Run& run) { cache_->Close(std::move(run.kv)); }

 private:
  Model* model_;
  ManualClock clock_;
  std::unique_ptr<KvCache> cache_;
};

}  // namespace larder::testing
