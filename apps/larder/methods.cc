// larder methods: what can shape the cache, from the methods' own descriptions, at their leaves of the
// survey's tree.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "kv/codec/codec.h"
#include "kv/evict/method.h"
#include "kv/reuse/method.h"
#include "larder/command.h"
#include "larder/survey.h"

namespace larder {
namespace {

struct Listed {
  std::string_view kind;  // the option that takes it: "evict", "kv-type"
  MethodInfo info;
  std::vector<ParamSpec> params;
  std::string beside_codec = {};  // eviction methods: what a codec does to their rows
};

// With its default parameters.
std::string BesideCodec(const EvictMethodEntry& entry) {
  Params params{std::string(entry.info.name)};
  const auto method = entry.create(params, "", {.layers = 32, .transformed_keys = true, .head_dim = 64});
  if (!method) return "refused";
  const EvictNeeds needs = (*method)->needs();
  if (needs.own_codes) return "its codes are its own, its rows stay rows";
  return needs.BecomesCodes() ? "full pages of what it leaves become codes"
                              : "rows stay rows, as it decides for every token";
}

std::vector<Listed> AllMethods() {
  std::vector<Listed> all;
  for (const EvictMethodEntry& entry : EvictMethods()) {
    Params params{std::string(entry.info.name)};
    // Made for no model: it only declares its parameters.
    if (!entry.create(params, "", {})) continue;
    all.push_back({"evict", entry.info, {params.specs().begin(), params.specs().end()}, BesideCodec(entry)});
  }
  for (const ReuseMethodEntry& entry : ReuseMethods()) {
    Params params{std::string(entry.info.name)};
    if (!entry.create(params, "", {})) continue;
    all.push_back({"reuse", entry.info, {params.specs().begin(), params.specs().end()}});
  }
  for (const KvCodecEntry& entry : KvCodecs()) {
    Params params{std::string(entry.info.name)};
    if (!entry.create(params, "", 0)) continue;
    all.push_back({"kv-type", entry.info, {params.specs().begin(), params.specs().end()}});
  }
  return all;
}

void PrintTree() {
  const std::vector<Listed> all = AllMethods();
  char level = 0;
  for (const SurveyLeaf& leaf : SurveyLeaves()) {
    if (leaf.id[0] != level) {
      fmt::print("{}{}  {}\n", level == 0 ? "" : "\n", leaf.id[0], SurveyLevel(leaf.id[0]));
      level = leaf.id[0];
    }
    fmt::print("{:3} {}\n", leaf.id, leaf.title);
    for (const Listed& method : all) {
      const auto leaves = LeavesOf(method.info.leaf);
      if (std::ranges::find(leaves, leaf.id) != leaves.end()) {
        fmt::print("      --{} {} ({}): {}\n", method.kind, method.info.name, method.info.memory,
                   method.info.help);
      }
    }
    if (!leaf.built_in.empty()) fmt::print("      built in: {}\n", leaf.built_in);
    if (!leaf.gap.empty()) fmt::print("      {}: {}\n", leaf.outside ? "outside" : "gap", leaf.gap);
    if (!leaf.systems.empty()) fmt::print("      systems: {}\n", leaf.systems);
  }
  fmt::print("\noutside of the tree: {}\n", SystemsOutside());
}

void PrintAll(const Listed& method) {
  fmt::print("--{} {} ({}, {}): {}\n", method.kind, method.info.name, method.info.leaf, method.info.memory,
             method.info.help);
  if (!method.info.paper.empty()) fmt::print("  paper: {}\n", method.info.paper);
  fmt::print("  needs: {}\n", method.info.needs.empty() ? "nothing" : method.info.needs);
  if (!method.beside_codec.empty()) fmt::print("  beside a codec: {}\n", method.beside_codec);
  for (const ParamSpec& param : method.params) {
    fmt::print("  {:10} {} (default {}{}{})\n", param.name, param.help,
               param.default_text.empty() ? "\"\"" : param.default_text, param.range.empty() ? "" : ", ",
               param.range);
  }
}

nlohmann::ordered_json ToJson(const Listed& method) {
  nlohmann::ordered_json json = {{"kind", method.kind},        {"name", method.info.name},
                                 {"help", method.info.help},   {"paper", method.info.paper},
                                 {"leaf", method.info.leaf},   {"memory", method.info.memory},
                                 {"needs", method.info.needs}, {"params", nlohmann::ordered_json::array()}};
  if (!method.beside_codec.empty()) json["beside_codec"] = method.beside_codec;
  for (const ParamSpec& param : method.params) {
    json["params"].push_back({{"name", param.name},
                              {"default", param.default_text},
                              {"range", param.range},
                              {"help", param.help}});
  }
  return json;
}

class Methods final : public Command {
 public:
  void Declare(Params& params) override { params.Bool("json", &json_, "one object a line"); }

  Status Run(const std::string& name) override {
    if (name.empty() && !json_) {
      PrintTree();
      return {};
    }
    bool found = false;
    std::string known;
    for (const Listed& method : AllMethods()) {
      known += fmt::format("{}{}", known.empty() ? "" : ", ", method.info.name);
      if (!name.empty() && method.info.name != name) continue;
      found = true;
      if (json_) {
        fmt::print("{}\n", ToJson(method).dump());
      } else {
        PrintAll(method);
      }
    }
    if (!found) return Fail(ErrorKind::kNotFound, "'{}' is no method; known: {}", name, known);
    return {};
  }

 private:
  bool json_ = false;
};

}  // namespace

std::unique_ptr<Command> CreateMethods() { return std::make_unique<Methods>(); }

}  // namespace larder
