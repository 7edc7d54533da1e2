// The program from outside: what it prints and how it ends.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/apps/program.h"

namespace larder {
namespace {

using nlohmann::json;

std::string ModelPath(const std::string& name) { return std::string(LARDER_TEST_DATA) + "/models/" + name; }

class TextFile {
 public:
  explicit TextFile(const std::string& content)
      : path(testing::TempDir() + "larder-program-" + std::to_string(getpid()) + ".txt") {
    std::ofstream(path) << content;
  }
  ~TextFile() { unlink(path.c_str()); }
  const std::string path;
};

std::string LongText() {
  std::string out;
  for (int i = 0; i < 60; ++i) out += "the cat sat on the mat number " + std::to_string(i) + ". ";
  return out;
}

TEST(Program, InspectDescribesEveryModel) {
  for (const char* name : {"tiny-llama.gguf", "tiny-gemma3.gguf", "tiny-llama-q4_1.gguf"}) {
    const Outcome text = Program("inspect " + ModelPath(name));
    EXPECT_EQ(text.code, 0) << text.out;
    EXPECT_NE(text.out.find("architecture"), std::string::npos);
    const Outcome outcome = Program("inspect --json --tensors " + ModelPath(name));
    ASSERT_EQ(outcome.code, 0) << outcome.out;
    const json all = json::parse(outcome.out);
    EXPECT_TRUE(all["model"]["supported"].get<bool>()) << outcome.out;
    uint64_t by_type = 0, by_tensor = 0;
    for (const json& row : all["tensor_types"]) by_type += row["bytes"].get<uint64_t>();
    for (const json& row : all["tensors"]) by_tensor += row["bytes"].get<uint64_t>();
    EXPECT_GT(by_type, 0u);
    EXPECT_EQ(by_type, by_tensor);
    // Half the bytes, and a row's two scales.
    const uint64_t wide = all["model"]["kv_cache"]["f32"]["bytes_per_token"].get<uint64_t>();
    EXPECT_GT(2 * all["model"]["kv_cache"]["f16"]["bytes_per_token"].get<uint64_t>(), wide);
    EXPECT_LT(5 * all["model"]["kv_cache"]["f16"]["bytes_per_token"].get<uint64_t>(), 3 * wide);
  }
}

TEST(Program, InspectRefusesWhatIsNoModel) {
  const TextFile file("this is no model");
  const Outcome outcome = Program("inspect " + file.path);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_EQ(outcome.out.find("larder inspect: "), 0u) << outcome.out;
  EXPECT_EQ(Program("inspect /nonexistent.gguf").code, 1);
}

TEST(Program, MistakesEndWithTwo) {
  EXPECT_EQ(Program("").code, 2);
  EXPECT_EQ(Program("serve --modle x").code, 2);
  EXPECT_EQ(Program("serve --port 99999").code, 2);
  EXPECT_EQ(Program("--help").code, 0);
  EXPECT_EQ(Program("bench neither --model x").code, 1);
  EXPECT_EQ(Program("serve").code, 1) << "no model";
  const Outcome key_inside = Program("serve --disk /absent/store --store-key /absent/store/key");
  EXPECT_EQ(key_inside.code, 1);
  EXPECT_NE(key_inside.out.find("move the key out of it"), std::string::npos) << key_inside.out;
}

TEST(Program, EvalReportsPerplexityAndDivergence) {
  const TextFile text(LongText());
  const std::string common = " --json --text " + text.path + " --window 64 --max-tokens 300 --model ";
  const Outcome ppl = Program("eval ppl" + common + ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(ppl.code, 0) << ppl.out;
  EXPECT_GT(json::parse(ppl.out)["perplexity"].get<double>(), 1);
  const Outcome kl = Program("eval kl" + common + ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(kl.code, 0) << kl.out;
  const json result = json::parse(kl.out);
  EXPECT_GT(result["kl_mean"].get<double>(), 0);
  EXPECT_LE(result["kl_median"].get<double>(), result["kl_99"].get<double>());
  EXPECT_LE(result["kl_99"].get<double>(), result["kl_worst"].get<double>());
  EXPECT_GT(result["base"]["kv_bytes_per_token"].get<uint64_t>(),
            result["candidate"]["kv_bytes_per_token"].get<uint64_t>());
  EXPECT_EQ(result["candidate"]["perplexity"], json::parse(ppl.out)["perplexity"])
      << "the same setting twice";
  const Outcome same =
      Program("eval kl --base-math fast --base-kv-type f16" + common + ModelPath("tiny-gemma3.gguf"));
  ASSERT_EQ(same.code, 0) << same.out;
  EXPECT_EQ(json::parse(same.out)["kl_worst"].get<double>(), 0);
  EXPECT_EQ(Program("eval kl --text " + text.path + " --model " + ModelPath("tiny-llama.gguf")).code, 0);
}

TEST(Program, EvalShowsHowUnevenAttentionIs) {
  const TextFile text(LongText());
  const std::string common =
      " --text " + text.path + " --window 64 --max-tokens 300 --model " + ModelPath("tiny-gemma3.gguf");
  const Outcome shares = Program("eval attention --json" + common);
  ASSERT_EQ(shares.code, 0) << shares.out;
  const json result = json::parse(shares.out);
  ASSERT_EQ(result["layers"].size(), 7u);
  for (const json& layer : result["layers"]) {
    EXPECT_GT(layer.get<double>(), 0.1);
    EXPECT_LT(layer.get<double>(), 1);
  }
  const Outcome table = Program("eval attention --share 0.2" + common);
  EXPECT_EQ(table.code, 0);
  EXPECT_NE(table.out.find("window 32"), std::string::npos) << table.out;
}

TEST(Program, EvalMeasuresBehindAMethod) {
  const TextFile text(LongText());
  const std::string common = " --json --text " + text.path + " --window 64 --max-tokens 300 --model " +
                             ModelPath("tiny-llama-q4_1.gguf");
  const std::string same = " --base-math fast --base-kv-type f16";
  const Outcome all = Program("eval kl --evict snapkv:budget=1000,window=8" + same + common);
  ASSERT_EQ(all.code, 0) << all.out;
  EXPECT_EQ(json::parse(all.out)["kl_worst"].get<double>(), 0);
  EXPECT_EQ(json::parse(all.out)["stride"], 32);
  const Outcome some = Program("eval kl --evict streaming:budget=8 --prompt-share 0.75" + same + common);
  ASSERT_EQ(some.code, 0) << some.out;
  EXPECT_GT(json::parse(some.out)["kl_mean"].get<double>(), 0);
  EXPECT_EQ(json::parse(some.out)["stride"], 16);
  EXPECT_EQ(
      json::parse(
          Program("eval ppl --evict streaming:budget=8 --prompt-share 0.75" + common).out)["perplexity"],
      json::parse(some.out)["candidate"]["perplexity"]);
  const Outcome both = Program("eval kl --evict snapkv:budget=1000,window=8 --kv-type q4_0 --window 160" +
                               same + " --json --text " + text.path + " --max-tokens 500 --model " +
                               ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(both.code, 0) << both.out;
  EXPECT_GT(json::parse(both.out)["kl_mean"].get<double>(), 0);
  for (const char* wrong : {"--evict nosuch", "--evict snapkv --stride 8", "--evict lacache --kv-type q8_0",
                            "--evict snapkv --max-tokens 60"}) {
    EXPECT_EQ(Program("eval ppl " + std::string(wrong) + " --text " + text.path + " --window 64 --model " +
                      ModelPath("tiny-llama-q4_1.gguf"))
                  .code,
              1)
        << wrong;
  }
}

// Those that `larder methods` lists.
std::set<std::string> EvictMethodNames() {
  std::istringstream lines(Program("methods --json").out);
  std::set<std::string> names;
  for (std::string line; std::getline(lines, line);) {
    const json method = json::parse(line);
    if (method["kind"] == "evict") names.insert(method["name"].get<std::string>());
  }
  return names;
}

// The quick forms of all comparisons, as CI runs them.
TEST(Program, EvalComparesMethodsInItsQuickForm) {
  const TextFile text(LongText());
  const std::string report = text.path + ".html", retrieval = ModelPath("retr-tiny.gguf");
  const std::string quick = " --form quick --json --text " + text.path + " --report " + report + " --model ";
  const Outcome methods = Program("eval methods" + quick + ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(methods.code, 0) << methods.out;
  const json fidelity = json::parse(methods.out);
  // All methods; two variants, the oracle and three codecs.
  const std::set<std::string> evict = EvictMethodNames();
  EXPECT_EQ(fidelity["arms"].size(), evict.size() + 6);
  EXPECT_TRUE(fidelity["refused"].empty());
  std::set<std::string> compared;
  for (const json& arm : fidelity["arms"]) {
    compared.insert(arm["method"].get<std::string>());
    // Nothing is lost where nothing was given up: codes take the place of full pages, and there is hardly
    // one.
    const bool all_kept = arm["resident_bytes"].get<double>() >= fidelity["full_bytes"].get<double>();
    EXPECT_EQ(arm["text"]["kl_mean"].get<double>() == 0, all_kept) << arm["method"];
    EXPECT_EQ(arm["text"]["kl_documents"].size(), 2u);
    EXPECT_GT(arm["tokens_per_s"].get<double>(), 0);
    EXPECT_GE(arm["peak_bytes"].get<double>(), arm["resident_bytes"].get<double>()) << arm["method"];
    const bool codec = arm["budget"] == "", base = arm["method"] == "streaming" || arm["method"] == "snapkv";
    EXPECT_EQ(arm["text"]["differences"].size(), codec ? 0u : base ? 1u : 2u) << arm["method"];
  }
  EXPECT_TRUE(std::ranges::includes(compared, evict));
  EXPECT_EQ(fidelity["at_equal_loss"]["methods"].size(), fidelity["arms"].size()) << "one budget each";
  EXPECT_TRUE(std::filesystem::exists(report));

  // A model with windows: what it cannot have is told, and the others run.
  const Outcome windows = Program("eval methods" + quick + ModelPath("tiny-gemma3.gguf"));
  ASSERT_EQ(windows.code, 0) << windows.out;
  const json cut = json::parse(windows.out);
  EXPECT_EQ(cut["refused"].size(), 1u);
  EXPECT_TRUE(cut["refused"].contains("lacache"));
  EXPECT_EQ(cut["arms"].size(), evict.size() + 5);
  EXPECT_EQ(cut["layers"], 7);
  EXPECT_LT(cut["evicting_bytes"].get<double>(), cut["full_bytes"].get<double>());

  const Outcome tasks = Program("eval tasks --style symbols" + quick + retrieval);
  ASSERT_EQ(tasks.code, 0) << tasks.out;
  const json cells = json::parse(tasks.out)["cells"];
  EXPECT_EQ(cells.size(), 3 * (evict.size() + 6));
  for (const json& cell : cells) {
    if (cell["method"] != "full") continue;
    EXPECT_EQ(cell["hidden"]["right"], 1) << cell["task"];
  }
  const json prefill = json::parse(tasks.out)["prefill_tokens"];
  EXPECT_GT(prefill["again"].get<double>(), 1.8 * prefill["shared"].get<double>())
      << "two questions a context";
  const Outcome keys =
      Program("eval tasks --style symbols --tasks passkey --methods full,streaming" + quick + retrieval);
  ASSERT_EQ(keys.code, 0) << keys.out;
  std::vector<double> depths;
  const json key_cells = json::parse(keys.out)["cells"];
  for (const json& cell : key_cells) {
    if (cell["method"] == "full") depths.push_back(cell["depth"]);
  }
  EXPECT_EQ(depths, (std::vector<double>{0, 0.25, 0.5, 0.75, 1}));
  const Outcome stream = Program(
      "eval stream --max-tokens 700 --methods streaming:positions=rank+chunk=64,"
      "lacache:chunk=64+span=1" +
      quick + ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(stream.code, 0) << stream.out;
  const json passes = json::parse(stream.out)["passes"];
  ASSERT_EQ(passes.size(), 4u);
  for (const json& pass : passes) EXPECT_EQ(pass["bytes_low"], pass["bytes_high"]) << pass["method"];
  EXPECT_EQ(passes[3]["method"], "full");
  EXPECT_TRUE(passes[1].contains("excess_of_first") && passes[1].contains("less_than_windows"));
  EXPECT_FALSE(passes[1].contains("copies"));
  const Outcome copies = Program(
      "eval stream --max-tokens 700 --methods streaming:positions=rank+chunk=64 "
      "--copy-gaps 64,300" +
      quick + ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(copies.code, 0) << copies.out;
  const json copying = json::parse(copies.out)["passes"];
  ASSERT_EQ(copying.size(), 3u);
  for (const json& pass : copying) {
    EXPECT_EQ(pass["copies"]["gaps"].size(), 2u) << pass["method"];
    EXPECT_LT(pass["copies"]["first_time"].get<double>(), 0);
  }
  std::filesystem::remove(report);
  const Outcome blend = Program(
      "eval blend --json --chunks 4 --chunk-tokens 64 --tail-tokens 8 --answer-tokens 4 --prompts 2 "
      "--alias-prompts 2 --text " +
      text.path + " --model " + ModelPath("tiny-gemma3.gguf"));
  ASSERT_EQ(blend.code, 0) << blend.out;
  for (const char* set : {"arms", "alias_arms"}) {
    const json arms = json::parse(blend.out)[set];
    ASSERT_EQ(arms.size(), 12u) << set;
    for (const json& arm : arms) {
      EXPECT_EQ(arm["kl_by_prompt"].size(), 2u);
      const std::string method = arm["method"];
      const int64_t rows = arm["rows_from_chunks"];
      EXPECT_EQ(arm["kl_mean"].get<double>() > 0, method.starts_with("blend")) << arm["arm"];
      if (method.find("ratio=0.15") != method.npos) {
        EXPECT_EQ(arm["rows_again"], rows / 2 * 15 / 100 * 2) << arm["arm"];
      }
    }
  }
  EXPECT_EQ(Program("eval tasks --tasks nosuch --model " + retrieval).code, 1);
  EXPECT_EQ(Program("eval methods --evict snapkv --model " + retrieval).code, 1);
  EXPECT_EQ(Program("eval stream --max-tokens 700 --copy-gaps 5000" + quick + retrieval).code, 1);
  EXPECT_EQ(Program("eval methods --bases nosuch" + quick + retrieval).code, 1);
  EXPECT_EQ(Program("eval methods --kv-type q8_0 --model " + retrieval).code, 1);
}

TEST(Program, MethodsListsAllKinds) {
  std::istringstream lines(Program("methods --json").out);
  std::set<std::string> kinds, names;
  for (std::string line; std::getline(lines, line);) {
    const json method = json::parse(line);
    kinds.insert(method["kind"].get<std::string>());
    names.insert(method["name"].get<std::string>());
    for (const char* field : {"help", "leaf", "memory"})
      EXPECT_FALSE(method[field].get<std::string>().empty()) << line;
  }
  EXPECT_EQ(kinds, (std::set<std::string>{"evict", "kv-type", "reuse"}));
  for (const char* name : {"h2o", "snapkv", "lacache", "t4", "q8_0", "q4_0"})
    EXPECT_TRUE(names.contains(name)) << name;
  EXPECT_NE(Program("methods t4").out.find("rotate"), std::string::npos);
  const std::string tree = Program("methods").out;
  for (const std::string& name : names) EXPECT_NE(tree.find(" " + name + " ("), std::string::npos) << name;
  EXPECT_NE(tree.find("\nA3 "), std::string::npos) << tree;
  EXPECT_NE(tree.find("gap: "), std::string::npos);
  EXPECT_EQ(Program("methods nosuch").code, 1);
}

TEST(Program, BenchReportsEachLength) {
  for (const std::string what : {"prefill", "decode", "batch"}) {
    const Outcome outcome =
        Program("bench " + what + " --json --peers none --lengths 16,70 --rounds 2 --tokens 4 --model " +
                ModelPath("tiny-gemma3.gguf"));
    ASSERT_EQ(outcome.code, 0) << outcome.out;
    std::istringstream lines(outcome.out);
    std::vector<int64_t> lengths;
    for (std::string line; std::getline(lines, line);) {
      const json row = json::parse(line);
      EXPECT_EQ(row["bench"], what);
      EXPECT_GT(row["tokens_per_s"]["median"].get<double>(), 0);
      EXPECT_LE(row["tokens_per_s"]["min"], row["tokens_per_s"]["max"]);
      EXPECT_GT(row["gmac_per_s"]["median"].get<double>(), 0);
      lengths.push_back(row["length"]);
    }
    EXPECT_EQ(lengths, (std::vector<int64_t>{16, 70}));
  }
  const Outcome two = Program(
      "bench decode --json --peers none --other-kv-type q8_0 --lengths 70 --rounds 2 --tokens 4 --model " +
      ModelPath("tiny-llama.gguf"));
  ASSERT_EQ(two.code, 0) << two.out;
  std::istringstream lines(two.out);
  std::string first, second;
  ASSERT_TRUE(std::getline(lines, first) && std::getline(lines, second)) << two.out;
  EXPECT_TRUE(json::parse(first)["ratio_to_best_peer"].is_null());
  const json other = json::parse(second);
  EXPECT_EQ(other["engine"], "Larder, q8_0");
  EXPECT_NEAR(other["ratio_to_first_cache"].get<double>(),
              other["tokens_per_s"]["median"].get<double>() /
                  json::parse(first)["tokens_per_s"]["median"].get<double>(),
              1e-6);
  EXPECT_EQ(
      Program("bench decode --peers none --other-kv-type q9 --model " + ModelPath("tiny-llama.gguf")).code,
      1);
  EXPECT_EQ(
      Program("bench prefill --peers none --lengths 9999999 --model " + ModelPath("tiny-llama.gguf")).code,
      1);
}

// The full cache and two methods behind one prompt; the bounded ones read and hold less, and stay so.
TEST(Program, BenchDecodeMeasuresBehindMethods) {
  const Outcome outcome = Program(
      "bench decode --json --methods h2o:budget=64,snapkv:budget=64+window=16 --lengths 400 --rounds 2 "
      "--tokens 8 --model " +
      ModelPath("tiny-llama-q4_1.gguf"));
  ASSERT_EQ(outcome.code, 0) << outcome.out;
  std::istringstream lines(outcome.out);
  std::vector<json> rows;
  for (std::string line; std::getline(lines, line);) rows.push_back(json::parse(line));
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["method"], "full");
  EXPECT_EQ(rows[0]["entries"], 400 + 3 * 8);
  EXPECT_EQ(rows[0]["of_full"], 1);
  EXPECT_EQ(rows[0]["method_pct"], 0);
  EXPECT_EQ(rows[1]["entries"], 64) << "one goes for every one that comes";
  EXPECT_EQ(rows[2]["entries"], 64 + 3 * 8) << "it chooses once";
  for (const json& row : rows) {
    EXPECT_EQ(row["length"], 400);
    EXPECT_GT(row["ms_per_token"]["median"].get<double>(), 0);
    EXPECT_GT(row["attention_ms"]["median"].get<double>(), 0);
    if (row["method"] == "full") continue;
    EXPECT_GT(row["method_pct"].get<double>() + row["prompt_method_pct"].get<double>(), 0);
    EXPECT_GT(row["cache_x_less"].get<double>(), 3);
    EXPECT_LT(row["pages_per_token"].get<double>(), rows[0]["pages_per_token"].get<double>() / 3);
  }
  for (const char* wrong :
       {"prefill --methods h2o", "decode --methods nosuch", "decode --methods h2o --other-kv-type q8_0",
        "decode --methods h2o --lengths 99999"}) {
    EXPECT_EQ(Program("bench " + std::string(wrong) + " --model " + ModelPath("tiny-llama-q4_1.gguf")).code,
              1)
        << wrong;
  }
}

// Rows of JSON whose figures are positive; how many there are.
size_t FigureRows(const std::string& what, const std::string& arguments, const std::string& figure,
                  const std::string& model = "tiny-gemma3.gguf") {
  const Outcome outcome = Program("bench " + what + " --json --rounds 1 --threads 2 " + arguments +
                                  " --model " + ModelPath(model));
  EXPECT_EQ(outcome.code, 0) << outcome.out;
  std::istringstream lines(outcome.out);
  size_t rows = 0;
  for (std::string line; std::getline(lines, line); ++rows) {
    const json row = json::parse(line);
    EXPECT_EQ(row["bench"], what);
    EXPECT_GT(row[figure]["median"].get<double>(), 0) << line;
    EXPECT_LE(row[figure]["min"], row[figure]["max"]) << line;
    EXPECT_NE(row["command"].get<std::string>().find("bench " + what), std::string::npos);
  }
  return rows;
}

TEST(Program, BenchReportsTheParts) {
  EXPECT_EQ(FigureRows("matmul", "--rows 1,3", "gmac_per_s"), 5 * 2);
  EXPECT_EQ(FigureRows("attention", "--lengths 16,70", "gmac_per_s"), 2 * 2);
  EXPECT_EQ(FigureRows("neighbour", "--lengths 16 --tokens 4", "ratio"), 3 * 2);
  EXPECT_EQ(FigureRows("schedule", "--lengths 16 --tokens 4", "plan_us"), 2 * 2);
}

TEST(Program, BenchBlendReportsEveryTier) {
  const Outcome outcome = Program("bench blend --json --rounds 1 --threads 2 --lengths 64 --model " +
                                  ModelPath("tiny-gemma3.gguf"));
  ASSERT_EQ(outcome.code, 0) << outcome.out;
  std::istringstream lines(outcome.out);
  size_t rows = 0;
  for (std::string line; std::getline(lines, line); ++rows)
    EXPECT_GT(json::parse(line)["first_token_ms"]["median"].get<double>(), 0) << line;
  EXPECT_EQ(rows, 5u);
}

TEST(Program, BenchServeReportsEveryLayer) {
  EXPECT_EQ(FigureRows("serve", "--lengths 16 --tokens 8 --sequences 3", "first_token_ms"), 2 * 3);
  EXPECT_EQ(Program("bench serve --lengths 9999999 --model " + ModelPath("tiny-llama.gguf")).code, 1);
}

// In memory, and three paces of reading with three sizes of groups, for both numbers of new rows.
TEST(Program, BenchOverlapReportsEveryPaceAndGrouping) {
  EXPECT_EQ(FigureRows("overlap", "--lengths 128", "first_token_ms", "tiny-llama.gguf"), 2 * (1 + 3 * 3));
  const Outcome kinds = Program("bench overlap --lengths 128 --model " + ModelPath("tiny-gemma3.gguf"));
  EXPECT_EQ(kinds.code, 1);
  EXPECT_NE(kinds.out.find("layers of 2 kinds"), std::string::npos) << kinds.out;
}

// Some seconds: memory is so small that each conversation waits until others have been written.
TEST(Program, BenchTurnsReportsEveryPlace) {
  const std::string small = "--lengths 64 --sequences 8 --turns 2 --disk " + testing::TempDir();
  EXPECT_EQ(FigureRows("turns", small, "first_token_ms"), 4);
  EXPECT_EQ(Program("bench turns --sequences 2 --model " + ModelPath("tiny-llama.gguf")).code, 1);
}

TEST(Program, RunAnswersTheSameForTheSameSeed) {
  const std::string arguments =
      "run --prompt hello --max-tokens 8 --seed 3 --model " + ModelPath("tiny-llama.gguf");
  const Outcome first = Program(arguments);
  EXPECT_EQ(first.code, 0) << first.out;
  EXPECT_EQ(first.out, Program(arguments).out);
}

TEST(Program, RunKeepsTheConversationInTheCache) {
  const TextFile turns("hello there\nand again\n");
  const Outcome outcome = Program(
      "run --verbose --max-tokens 4 --temperature 0 --model " + ModelPath("tiny-llama.gguf"), turns.path);
  ASSERT_EQ(outcome.code, 0) << outcome.out;
  size_t answers = 0;
  for (size_t at = 0; (at = outcome.out.find("prompt tokens", at)) != std::string::npos; ++at) ++answers;
  EXPECT_EQ(answers, 2u) << outcome.out;
}

// Starts a server on a free port and waits for its address.
struct ServerProcess {
  pid_t pid = -1;
  FILE* out = nullptr;
  std::string line;

  explicit ServerProcess(const std::string& model) {
    int ends[2];
    if (pipe(ends) != 0) return;
    pid = fork();
    if (pid == 0) {
      dup2(ends[1], STDOUT_FILENO);
      close(ends[0]);
      execl(LARDER_PROGRAM, "larder", "serve", "--port", "0", "--model", model.c_str(), "--log-level",
            "error", nullptr);
      _exit(127);
    }
    close(ends[1]);
    out = fdopen(ends[0], "r");
    char text[512];
    if (fgets(text, sizeof text, out) != nullptr) line = text;
  }
  ~ServerProcess() {
    if (pid > 0) kill(pid, SIGKILL);
    Wait();
    if (out) fclose(out);
  }
  int Wait() {
    int status = -1;
    if (pid > 0) waitpid(pid, &status, 0);
    pid = -1;
    return status;
  }
};

TEST(Program, ServeSaysWhereAndEndsCleanlyOnSigterm) {
  for (int signal : {SIGTERM, SIGINT}) {
    ServerProcess server(ModelPath("tiny-llama.gguf"));
    EXPECT_EQ(server.line.find("larder: serving "), 0u) << server.line;
    EXPECT_NE(server.line.find(" on http://127.0.0.1:"), std::string::npos) << server.line;
    ASSERT_EQ(kill(server.pid, signal), 0);
    const int status = server.Wait();
    EXPECT_TRUE(WIFEXITED(status));
    EXPECT_EQ(WEXITSTATUS(status), 0);
  }
}

TEST(Program, ServeRefusesStrangersWithoutKeys) {
  const Outcome outcome = Program("serve --host 0.0.0.0 --port 0 --model " + ModelPath("tiny-llama.gguf"));
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.out.find("no-auth"), std::string::npos) << outcome.out;
}

}  // namespace
}  // namespace larder
