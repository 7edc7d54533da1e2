// larder inspect MODEL: what a GGUF file contains, and what Larder can do with it. Works for files of
// architectures that Larder does not know.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "base/hash.h"
#include "kv/shape.h"
#include "larder/command.h"
#include "model/chat_template.h"
#include "model/gguf.h"
#include "model/spec.h"
#include "model/tokenizer.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

uint64_t Elements(const GgufTensor& tensor) {
  return static_cast<uint64_t>(tensor.inner()) * static_cast<uint64_t>(tensor.rows());
}

std::string ShapeText(const GgufTensor& tensor) {
  std::string out;
  for (uint64_t n : tensor.shape) out += fmt::format("{}{}", out.empty() ? "" : " x ", n);
  return out;
}

Json TensorTypes(const GgufFile& file) {
  struct Sum {
    uint64_t tensors = 0, elements = 0, bytes = 0;
  };
  std::map<std::string, Sum> sums;
  for (const GgufTensor& tensor : file.tensors()) {
    Sum& sum = sums[std::string(tensor.format->name)];
    ++sum.tensors;
    sum.elements += Elements(tensor);
    sum.bytes += tensor.bytes;
  }
  std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& a, const auto& b) { return a.second.bytes > b.second.bytes; });
  Json out = Json::array();
  for (const auto& [name, sum] : sorted)
    out.push_back(
        {{"type", name}, {"tensors", sum.tensors}, {"elements", sum.elements}, {"bytes", sum.bytes}});
  return out;
}

// Bytes a token takes in layers that keep everything, and bytes that windows take once they are full.
Json KvBytes(const ModelSpec& spec) {
  Json out = Json::object();
  std::vector<int> windows;
  for (const LayerSpec& layer : spec.layers) windows.push_back(layer.window);
  for (const auto& [name, type] : {std::pair("f16", KvType::kI16), std::pair("f32", KvType::kF32)}) {
    const auto shape = KvShape::Create(windows, spec.kv_heads, spec.head_dim, type);
    if (!shape) continue;
    const uint64_t lane_row = shape->page_bytes() / kPageTokens;
    uint64_t growing = 0, fixed = 0;
    for (const KvKind& kind : shape->kinds()) {
      const uint64_t row = lane_row * static_cast<uint64_t>(spec.kv_heads) * kind.layers.size();
      if (kind.window == 0) growing += row;
      fixed += row * static_cast<uint64_t>(kind.window);
    }
    out[name] = {{"bytes_per_token", shape->BytesPerToken()},
                 {"bytes_per_token_outside_windows", growing},
                 {"window_bytes", fixed}};
  }
  return out;
}

Json SpecOf(const GgufFile& file) {
  const auto spec = DescribeModel(file);
  if (!spec) return {{"supported", false}, {"reason", spec.error().message}};
  int windowed = 0, window = 0;
  for (const LayerSpec& layer : spec->layers) {
    windowed += layer.window > 0;
    window = std::max(window, layer.window);
  }
  return {{"supported", true},
          {"layers", spec->layers.size()},
          {"window_layers", windowed},
          {"window", window},
          {"width", spec->width},
          {"heads", spec->heads},
          {"kv_heads", spec->kv_heads},
          {"head_dim", spec->head_dim},
          {"feed_forward", spec->feed_forward},
          {"vocabulary", spec->vocabulary},
          {"context", spec->context},
          {"tied_head", spec->tied_head},
          {"kv_cache", KvBytes(*spec)}};
}

Json TokenizerOf(const GgufFile& file) {
  Json out = {{"model", file.StringOr("tokenizer.ggml.model", "")},
              {"pre", file.StringOr("tokenizer.ggml.pre", "")}};
  const auto tokenizer = Tokenizer::Load(file);
  out["supported"] = tokenizer.has_value();
  if (!tokenizer) {
    out["reason"] = tokenizer.error().message;
    return out;
  }
  const auto token = [&](int32_t id) -> Json {
    if (id == kNoToken) return nullptr;
    return {{"id", id}, {"text", (*tokenizer)->Text(id)}};
  };
  out["tokens"] = (*tokenizer)->size();
  out["bos"] = token((*tokenizer)->bos());
  out["eos"] = token((*tokenizer)->eos());
  out["adds_bos"] = (*tokenizer)->add_bos();
  out["digest"] = (*tokenizer)->digest().Hex();
  return out;
}

Json ChatTemplateOf(const GgufFile& file) {
  const std::string_view source = file.StringOr("tokenizer.chat_template", "");
  if (source.empty()) return {{"present", false}};
  const auto parsed = ChatTemplate::Parse(source);
  Json out = {{"present", true}, {"bytes", source.size()}, {"supported", parsed.has_value()}};
  if (!parsed) out["reason"] = parsed.error().message;
  return out;
}

std::string Reason(const Json& part) {
  return part.contains("reason") ? part["reason"].get<std::string>() : "";
}

std::string TokenText(const Json& token) {
  if (token.is_null()) return "none";
  return fmt::format("{} {}", token["id"].get<int>(), token["text"].get<std::string>());
}

void PrintSpec(const Json& spec) {
  if (!spec["supported"].get<bool>()) {
    fmt::print("Larder cannot run it: {}\n", Reason(spec));
    return;
  }
  const auto number = [&](const char* key) { return spec[key].get<int64_t>(); };
  fmt::print("layers        {}", number("layers"));
  if (number("window_layers") > 0)
    fmt::print(", {} of them with a window of {} tokens", number("window_layers"), number("window"));
  fmt::print("\nwidth         {}, feed-forward {}\n", number("width"), number("feed_forward"));
  fmt::print("heads         {} of {}, {} for keys and values\n", number("heads"), number("head_dim"),
             number("kv_heads"));
  fmt::print("vocabulary    {}{}\n", number("vocabulary"),
             spec["tied_head"].get<bool>() ? ", head tied to the embedding" : "");
  fmt::print("context       {} tokens\n", number("context"));
  for (const auto& [type, kv] : spec["kv_cache"].items()) {
    fmt::print("cache {}     {} bytes a token", type, kv["bytes_per_token"].get<uint64_t>());
    if (const auto window = kv["window_bytes"].get<uint64_t>(); window > 0)
      fmt::print("; {} and {} in all where only windows are kept",
                 kv["bytes_per_token_outside_windows"].get<uint64_t>(), FormatSize(window));
    fmt::print("\n");
  }
}

void Print(const Json& all) {
  const auto text = [&](const char* key) { return all[key].get<std::string>(); };
  fmt::print("file          {}, {} bytes, GGUF version {}\n", text("file"), all["bytes"].get<uint64_t>(),
             all["version"].get<int>());
  fmt::print("SHA-256       {}\n", text("sha256"));
  fmt::print("name          {}\narchitecture  {}\n", text("name"), text("architecture"));
  PrintSpec(all["model"]);
  const Json& tokenizer = all["tokenizer"];
  fmt::print("tokenizer     {} {}", tokenizer["model"].get<std::string>(),
             tokenizer["pre"].get<std::string>());
  if (tokenizer["supported"].get<bool>()) {
    fmt::print(", {} tokens, BOS {}{}, EOS {}\n", tokenizer["tokens"].get<int>(), TokenText(tokenizer["bos"]),
               tokenizer["adds_bos"].get<bool>() ? " (added)" : "", TokenText(tokenizer["eos"]));
  } else {
    fmt::print(": cannot be used: {}\n", Reason(tokenizer));
  }
  const Json& chat = all["chat_template"];
  if (!chat["present"].get<bool>()) {
    fmt::print("chat template none: a base model\n");
  } else {
    fmt::print("chat template {} bytes{}\n", chat["bytes"].get<size_t>(),
               chat["supported"].get<bool>() ? "" : ", cannot be used: " + Reason(chat));
  }
  fmt::print("\n{:<8} {:>8} {:>16} {:>16} {:>8}\n", "type", "tensors", "elements", "bytes", "bits");
  for (const Json& row : all["tensor_types"]) {
    const auto elements = row["elements"].get<uint64_t>(), bytes = row["bytes"].get<uint64_t>();
    fmt::print("{:<8} {:>8} {:>16} {:>16} {:>8.2f}\n", row["type"].get<std::string>(),
               row["tensors"].get<uint64_t>(), elements, bytes,
               elements ? 8.0 * static_cast<double>(bytes) / static_cast<double>(elements) : 0);
  }
  if (!all.contains("tensors")) return;
  fmt::print("\n");
  for (const Json& row : all["tensors"])
    fmt::print("{:<8} {:>24} {:>14} {}\n", row["type"].get<std::string>(), row["shape"].get<std::string>(),
               row["bytes"].get<uint64_t>(), row["name"].get<std::string>());
}

class Inspect final : public Command {
 public:
  void Declare(Params& params) override {
    params.Bool("json", &json_, "one JSON object instead of text");
    params.Bool("tensors", &tensors_, "list every tensor");
  }

  Status Run(const std::string& path) override {
    LARDER_ASSIGN(const auto file, GgufFile::Open(path));
    try {
      const Json all = Describe(*file, path);
      if (json_) {
        fmt::print("{}\n", all.dump(2, ' ', false, Json::error_handler_t::replace));
      } else {
        Print(all);
      }
    } catch (const Json::exception& error) {
      return Fail(ErrorKind::kCorrupt, "{} cannot be shown: {}", path, error.what());
    }
    return {};
  }

 private:
  Json Describe(const GgufFile& file, const std::string& path) const {
    Json all = {{"file", path},
                {"bytes", file.bytes().size()},
                {"version", file.version()},
                {"sha256", Sha256(file.bytes()).Hex()},
                {"name", file.StringOr("general.name", "")},
                {"architecture", file.StringOr("general.architecture", "")},
                {"model", SpecOf(file)},
                {"tokenizer", TokenizerOf(file)},
                {"chat_template", ChatTemplateOf(file)},
                {"tensor_types", TensorTypes(file)}};
    if (!tensors_) return all;
    all["tensors"] = Json::array();
    for (const GgufTensor& tensor : file.tensors())
      all["tensors"].push_back({{"name", tensor.name},
                                {"type", tensor.format->name},
                                {"shape", ShapeText(tensor)},
                                {"bytes", tensor.bytes}});
    return all;
  }

  bool json_ = false, tensors_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateInspect() { return std::make_unique<Inspect>(); }

}  // namespace larder
