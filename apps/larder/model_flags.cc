#include "larder/model_flags.h"

#include <limits>

#include "base/memory.h"
#include "larder/terminal.h"

namespace larder {

void DeclareMath(Params& params, std::string prefix, std::string* value, std::string help) {
  params.Choice(prefix + "math", value, {"fast", "f32"}, std::move(help));
}

void DeclareKvType(Params& params, std::string prefix, std::string* value, std::string help) {
  params.Choice(prefix + "kv-type", value, {"f16", "f32"}, std::move(help));
}

void ModelFlags::Declare(Params& params) {
  params.String("model", &model, "GGUF file");
  params.Int("threads", &threads, 0, 1024, "threads that compute; 0: the cores this process may use");
  DeclareMath(params, "", &math,
              "fast: integer codes and 8-bit activations; f32: dequantised, the reference");
  DeclareKvType(params, "", &kv_type, "elements of cached keys and values");
}

Result<std::unique_ptr<Model>> ModelFlags::Load() const { return LoadAs(math, kv_type); }

Result<std::unique_ptr<Model>> ModelFlags::LoadAs(const std::string& other_math,
                                                  const std::string& other_kv_type) const {
  if (model.empty()) return Fail(ErrorKind::kInvalid, "no model is given; add --model FILE");
  ProgressBar bar("loading " + model.substr(model.find_last_of('/') + 1));
  ModelOptions options;
  options.math = other_math == "f32" ? MathMode::kF32 : MathMode::kFast;
  options.kv_type = other_kv_type == "f32" ? KvType::kF32 : KvType::kI16;
  options.threads = static_cast<int>(threads);
  options.progress = [&bar](double fraction) { bar.Update(fraction); };
  return Model::Load(model, std::move(options));
}

uint64_t KvLimitOrDefault(uint64_t limit) {
  if (limit != 0) return limit;
  const uint64_t available = AvailableBytes();
  constexpr uint64_t kUnknownMachine = 1ull << 30;
  return available == std::numeric_limits<uint64_t>::max() ? kUnknownMachine : available / 2;
}

}  // namespace larder
