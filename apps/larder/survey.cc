#include "larder/survey.h"

#include <algorithm>

namespace larder {
namespace {

// Looked at one by one: A12 has a place where it would be one file, but nothing is written; A13, B2, B3 and
// B4 need weights that somebody has trained, B5 another kind of model, C8 another kind of machine. What the
// tree does have is not filed here: batches of every step and one read of a shared page are C6 on one device.
constexpr bool kOutside = true;
constexpr SurveyLeaf kLeaves[] = {
    {"A1", "selection, once at the end of the prompt", "", "", false,
     "LookaheadKV, CAKE, MPCache, Elastic Cache (vision)"},
    {"A2", "selection, dynamic, what goes is gone", "", "", false,
     "Locret, Elastic Cache (vision), TetherCache"},
    {"A3", "selection, dynamic, all kept and part of it read", "",
     "attention reads every page; it would have to be told which, from bounds of each page's keys", false,
     "IceCache, MPCache, InstInfer"},
    {"A4", "budget by layer", "", "", false, "CAKE, Stochastic KV Routing"},
    {"A5", "budget by head", "", "", false, "HACK"},
    {"A6", "merging within a layer", "", "", false, "Elastic Cache (vision), TetherCache"},
    {"A7", "merging across layers", "", "every layer has pages of its own", false, "MiniCache"},
    {"A8", "quantisation, one precision", "", "", false, "CacheGen, KV quantisation for video"},
    {"A9", "quantisation, mixed precision",
     "with a codec: 16-bit rows until a block is full; t4's exact first tokens", "", false,
     "ZipCache, XQuant, KV quantisation for video"},
    {"A10", "outliers redistributed", "", ""},
    {"A11", "low rank, singular values", "",
     "no weights are factorised, and pages hold whole keys and values", false, "XQuant"},
    {"A12", "low rank, tensor decomposition", "",
     "a codec could decompose each page when it is full and put it together whenever it is read; none does",
     kOutside},
    {"A13", "low rank, learned", "",
     "projections, or the remainder that LESS keeps of what went, would have to be trained, and this program "
     "trains nothing",
     kOutside, "Cache-to-Cache, differentiable cache augmentation"},

    {"B1", "heads share keys and values", "models with grouped queries, or with one KV head, as they are",
     ""},
    {"B2", "layers share keys and values", "",
     "models are trained for it, and none that is read was; no layer can name another one's pages", kOutside,
     "Stochastic KV Routing"},
    {"B3", "other attention", "", "latent keys come with their own weights, which no model that is read has",
     kOutside},
    {"B4", "augmented architectures", "", "a second network beside the model would have to be trained",
     kOutside, "differentiable cache augmentation"},
    {"B5", "no transformer", "", "a state of constant size is no cache of entries", kOutside, "AURA"},
    {"B6", "hybrids", "layers with windows: pages that a window has passed are let go of (Gemma 3)", ""},

    {"C1", "memory: pages", "blocks and private pages under one limit, taken and given back as rows come", "",
     false, "vAttention, TurboMem, LMCache"},
    {"C2", "memory: prefixes", "", "", false, "LMCache, Cache-Craft, RelayCaching"},
    {"C3", "scheduling by prefixes",
     "a request waits for a prefix that another one is computing, and shares it", "", false,
     "BatchLLM, KVFlow"},
    {"C4", "scheduling: preemption, fairness",
     "preemption that finds its blocks again; --policy priority; leases hold what comes back soon", "", false,
     "Continuum, KVFlow"},
    {"C5", "scheduling: layers, hierarchies",
     "memory, disk and Redis; a step may begin with the first layers' rows", "", false,
     "LMCache, Tutti, CAKE"},
    {"C6", "one and several devices",
     "one device: every step is a new batch of rows of all requests, and a page that they share is read once "
     "for them; several: servers that share what is below memory, nothing else",
     "", false, "APEX, BatchLLM"},
    {"C7", "reading or computing",
     "attention by spans of pages; of rows below memory the faster of reading and computing", "", false,
     "XQuant, CacheGen"},
    {"C8", "heterogeneous devices", "", "there are processor cores only", kOutside,
     "IceCache, long-context analysis"},
    {"C9", "solid-state disks", "the disk tier", "", false, "InstInfer, Tutti"},
};

}  // namespace

std::span<const SurveyLeaf> SurveyLeaves() { return kLeaves; }

std::string_view SystemsOutside() {
  return "CacheQuant, EasyCache, Elastic-Cache (diffusion), ERTACache, FlowCache, InSpatio-World (diffusion "
         "and "
         "video); ELMoE-3D, GPU core model, DRAM model (hardware); OOMB (training); POLAR (adapters); "
         "IC-Cache, "
         "L2MAC, PREPING, Synthetic Computers, VehicleMemBench (agents and their memory); VeriCache (drafts "
         "that the "
         "full cache verifies); SCBench, comparative characterisation (measurement: larder eval)";
}

std::string_view SurveyLevel(char letter) {
  return letter == 'A' ? "token level" : letter == 'B' ? "model level" : "system level";
}

std::vector<std::string_view> LeavesOf(std::string_view leaf) {
  std::vector<std::string_view> out;
  while (!leaf.empty()) {
    const size_t end = std::min(leaf.find(' '), leaf.size());
    out.push_back(leaf.substr(0, end));
    leaf.remove_prefix(std::min(end + 1, leaf.size()));
  }
  return out;
}

}  // namespace larder
