#include "larder/command.h"

namespace larder {

std::span<const CommandEntry> Commands() {
  static constexpr CommandEntry kCommands[] = {
      {"serve", "serve a model over the OpenAI API", "", "", CreateServe},
      {"run", "chat with a model in the terminal, or complete one text", "", "", CreateRun},
      {"inspect", "show what a GGUF file contains", "MODEL", "a GGUF file", CreateInspect},
      {"bench", "measure speed: of prefill and decode beside other engines, of the server, of the parts",
       "prefill|decode|batch|serve|load|attention|matmul|schedule|pool|memory|restore|overlap|turns|blend|"
       "store|"
       "neighbour",
       "what to measure", CreateBench},
      {"eval",
       "measure quality: perplexity, KL divergence between two settings, or methods that shape the cache",
       "ppl|kl|methods|tasks|stream|attention|blend", "what to measure", CreateEval},
      {"methods", "list the published methods that can shape the cache, with their parameters", "[NAME]",
       "one of them; without it all are listed, at their leaves of the survey's tree", CreateMethods},
      {"quantize", "write a GGUF file with its weights in another format", "IN", "the GGUF file to read",
       CreateQuantize, true, "out"},
      {"calibrate", "find the mean of a model's keys on a text, for --kv-type t4", "", "", CreateCalibrate},
      {"store", "look after a disk store that no server has open",
       "verify|stat|list|export|import|compact|wipe",
       "what to do: verify reads and checks every record; stat, list show; export, import carry records in "
       "an archive; "
       "compact closes gaps; wipe removes a tenant",
       CreateStore, true, "file"},
      {"trace", "replay a recorded trace through the eviction and admission policies", "replay",
       "what to do: replay tells what each policy would have found at each capacity, and written",
       CreateTrace},
      {"docs", "print the command line's documentation", "", "", CreateDocs, false},
  };
  return kCommands;
}

}  // namespace larder
