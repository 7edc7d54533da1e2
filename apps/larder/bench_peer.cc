// Another engine in a benchmark, through its child process.
#include <nlohmann/json.hpp>

#include "larder/bench_engine.h"
#include "larder/peer_process.h"
#include "model/gguf.h"

namespace larder {
namespace {

using Json = nlohmann::json;

std::string FileName(const std::string& path) { return path.substr(path.find_last_of('/') + 1); }

class PeerEngine final : public BenchEngine {
 public:
  PeerEngine(std::unique_ptr<PeerProcess> process, double weight_bytes, double kv_bytes_per_token)
      : process_(std::move(process)), weight_bytes_(weight_bytes), kv_bytes_per_token_(kv_bytes_per_token) {}

  Status Load(const std::string& file, int threads, bool decode) {
    LARDER_ASSIGN(const Json answer, Ask({{"load", file}, {"threads", threads}, {"reuse", decode}}));
    try {
      name_ = answer.at("engine").get<std::string>() + " " + FileName(file);
      version_ = answer.at("version").get<std::string>();
    } catch (const Json::exception& error) {
      return Fail(ErrorKind::kUnavailable, "an answer is not understood: {}", error.what());
    }
    return {};
  }

  std::string name() const override { return name_; }

  Result<BenchSample> Run(const BenchPoint& point) override {
    Json request = {{"prefill", point.length}};
    if (point.decode && point.sequences == 1) request = {{"decode", point.length}, {"tokens", point.tokens}};
    if (point.decode && point.sequences > 1)
      request = {{"batch", point.sequences}, {"context", point.length}, {"tokens", point.tokens}};
    LARDER_ASSIGN(const Json answer, Ask(request));
    BenchSample sample;
    try {
      sample.seconds = answer.at("seconds").get<double>();
      sample.cpu_seconds = answer.at("cpu_seconds").get<double>();
      sample.busy_seconds = answer.at("busy_seconds").get<double>();
      const auto note = answer.at("note").get<std::string>();
      sample.note = version_ + (note.empty() ? "" : ", " + note);
    } catch (const Json::exception& error) {
      return Fail(ErrorKind::kUnavailable, "{}: an answer is not understood: {}", name_, error.what());
    }
    if (sample.seconds <= 0) return Fail(ErrorKind::kUnavailable, "{} measured no time", name_);
    const int64_t passes = point.decode ? point.tokens : (point.length + 511) / 512;
    sample.bytes = static_cast<double>(passes) * weight_bytes_;
    if (point.decode)
      sample.bytes += static_cast<double>(point.TokensProcessed() * point.length) * kv_bytes_per_token_;
    return sample;
  }

 private:
  Result<Json> Ask(const Json& request) {
    LARDER_ASSIGN(const std::string line, process_->Ask(request.dump()));
    Json answer = Json::parse(line, nullptr, false);
    if (!answer.is_object()) return Fail(ErrorKind::kUnavailable, "an answer is no JSON object: {}", line);
    if (answer.contains("error") && answer["error"].is_string())
      return Fail(ErrorKind::kUnavailable, "{}", answer["error"].get<std::string>());
    return answer;
  }

  std::unique_ptr<PeerProcess> process_;
  const double weight_bytes_, kv_bytes_per_token_;
  std::string name_, version_;
};

}  // namespace

Result<std::unique_ptr<BenchEngine>> CreatePeerEngine(const std::string& kind, const std::string& python,
                                                      const std::string& file, const Model& model,
                                                      int threads, bool decode) {
  LARDER_ASSIGN(const auto gguf, GgufFile::Open(file));
  double weight_bytes = 0;
  const bool own_head = gguf->FindTensor("output.weight") != nullptr;  // else the embedding is the head, too
  for (const GgufTensor& tensor : gguf->tensors())
    if (!own_head || tensor.name != "token_embd.weight") weight_bytes += static_cast<double>(tensor.bytes);
  LARDER_ASSIGN(const std::string script, FindScript("peer_" + kind + ".py"));
  LARDER_ASSIGN(auto process, PeerProcess::Start(python, script));
  auto engine = std::make_unique<PeerEngine>(std::move(process), weight_bytes,
                                             static_cast<double>(model.kv_shape().BytesPerToken()));
  LARDER_TRY(engine->Load(file, threads, decode));
  return engine;
}

}  // namespace larder
