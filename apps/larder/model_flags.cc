#include "larder/model_flags.h"

#include <limits>
#include <utility>

#include "base/memory.h"
#include "larder/cache_directory.h"
#include "larder/terminal.h"

namespace larder {

void DeclareMath(Params& params, const std::string& prefix, std::string* value, std::string help) {
  params.Choice(prefix + "math", value, {"fast", "f32"}, std::move(help));
}

void DeclareKvType(Params& params, const std::string& prefix, std::string* value, std::string help) {
  params.String(prefix + "kv-type", value, std::move(help));
}

void ModelFlags::Declare(Params& params) {
  params.String("model", &model, "GGUF file");
  params.Int("threads", &threads, 0, 1024, "threads that compute; 0: the cores this process may use");
  DeclareMath(params, "", &math,
              "fast: integer codes and 8-bit activations; f32: dequantised, the reference");
  DeclareKvType(params, "", &kv_type,
                "how keys and values are cached: f16, f32, or full blocks in a codec: t4, q8_0, q4_0, or "
                "t4:rotate=auto|0|16|32|64|128,center=0|1,sinks=0|4");
  params.String("key-means", &key_means,
                "t4 with center=1: file that larder calibrate has written; auto: this model's in the cache "
                "directory");
  params.String(
      "packed", &packed,
      "folder where weights are kept as they are computed with, for the next start; auto: the model's "
      "own, else the cache directory; off: nowhere");
  params.Choice(
      "packed-pages", &packed_pages, {"mapped", "large"},
      "mapped: packed weights are read from the file's pages, which processes share; large: from a "
      "copy in large pages of this process, for faster decoding where the file system has small ones only");
}

PackedOptions ModelFlags::Packed() const {
  PackedOptions options;
  if (packed_pages == "large") options.pages = PackedPages::kLarge;
  if (packed == "off") return options;
  if (packed != "auto") {
    options.folders.push_back(packed);
    return options;
  }
  options.folders.emplace_back();
  if (const std::string cache = CacheDirectory(); !cache.empty())
    options.folders.push_back(cache + "/packed");
  return options;
}

Result<std::unique_ptr<Model>> ModelFlags::Load() const { return LoadWith(Packed()); }

Result<std::unique_ptr<Model>> ModelFlags::LoadWith(PackedOptions packed_options) const {
  if (model.empty()) return Fail(ErrorKind::kInvalid, "no model is given; add --model FILE");
  ProgressBar bar("loading " + model.substr(model.find_last_of('/') + 1));
  ModelOptions options;
  options.math = math == "f32" ? MathMode::kF32 : MathMode::kFast;
  options.kv_type = kv_type == "f32" ? KvType::kF32 : KvType::kI16;
  if (kv_type != "f32" && kv_type != "f16") options.kv_codec = kv_type;
  options.key_means = key_means == "auto" ? KeyMeansFolder() : key_means;
  options.threads = static_cast<int>(threads);
  options.packed = std::move(packed_options);
  options.progress = [&bar](double fraction) { bar.Update(fraction); };
  return Model::Load(model, std::move(options));
}

Result<std::unique_ptr<Model>> ModelFlags::LoadAs(const std::string& other_math,
                                                  const std::string& other_kv_type) const {
  ModelFlags other = *this;
  other.math = other_math;
  other.kv_type = other_kv_type;
  return other.Load();
}

std::string KeyMeansFolder() {
  const std::string cache = CacheDirectory();
  return cache.empty() ? "" : cache + "/means";
}

uint64_t KvLimitOrDefault(uint64_t limit) {
  if (limit != 0) return limit;
  const uint64_t available = AvailableBytes();
  constexpr uint64_t kUnknownMachine = 1ull << 30;
  return available == std::numeric_limits<uint64_t>::max() ? kUnknownMachine : available / 2;
}

}  // namespace larder
