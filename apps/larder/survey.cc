#include "larder/survey.h"

#include <algorithm>

namespace larder {
namespace {

constexpr bool kOutside = true;
constexpr SurveyLeaf kLeaves[] = {
    {"A1", "selection, once at the end of the prompt", "", ""},
    {"A2", "selection, dynamic, what goes is gone", "", ""},
    {"A3", "selection, dynamic, all kept and part of it read", "",
     "attention reads every page; it would have to be told which, from bounds of each page's keys"},
    {"A4", "budget by layer", "", ""},
    {"A5", "budget by head", "", ""},
    {"A6", "merging within a layer", "",
     "nothing merges yet; lanes have the bias that a merged entry's weight needs"},
    {"A7", "merging across layers", "", "every layer has pages of its own"},
    {"A8", "quantisation, one precision", "", ""},
    {"A9", "quantisation, mixed precision",
     "with a codec: 16-bit rows until a block is full; t4's exact first tokens", ""},
    {"A10", "outliers redistributed", "", ""},
    {"A11", "low rank, singular values", "",
     "no weights are factorised, and pages hold whole keys and values"},
    {"A12", "low rank, tensor decomposition", "",
     "each block would be decomposed when it is full, and put together again whenever it is read", kOutside},
    {"A13", "low rank, learned", "", "projections would have to be trained, and this program trains nothing",
     kOutside},

    {"B1", "heads share keys and values", "models with grouped queries, or with one KV head, as they are",
     ""},
    {"B2", "layers share keys and values", "", "models are trained for it, and none that is read was",
     kOutside},
    {"B3", "other attention", "", "latent keys come with their own weights, which no model that is read has",
     kOutside},
    {"B4", "augmented architectures", "", "a second network beside the model would have to be trained",
     kOutside},
    {"B5", "no transformer", "", "a state of constant size is no cache of entries", kOutside},
    {"B6", "hybrids", "layers with windows: pages that a window has passed are let go of (Gemma 3)", ""},

    {"C1", "memory: pages", "blocks and private pages under one limit, taken and given back as rows come",
     ""},
    {"C2", "memory: prefixes", "", ""},
    {"C3", "scheduling by prefixes",
     "a request waits for a prefix that another one is computing, and shares it", ""},
    {"C4", "scheduling: preemption, fairness",
     "preemption that finds its blocks again; --policy priority; leases hold what comes back soon", ""},
    {"C5", "scheduling: layers, hierarchies",
     "memory, disk and Redis; a step may begin with the first layers' rows", ""},
    {"C6", "several devices", "",
     "one process on the cores of one machine; servers share what is below memory", kOutside},
    {"C7", "reading or computing",
     "attention by spans of pages; of rows below memory the faster of reading and computing", ""},
    {"C8", "heterogeneous devices", "", "there are processor cores only", kOutside},
    {"C9", "solid-state disks", "the disk tier", ""},
};

}  // namespace

std::span<const SurveyLeaf> SurveyLeaves() { return kLeaves; }

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
