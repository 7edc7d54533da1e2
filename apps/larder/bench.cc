// larder bench prefill|decode: speed of the model and the cache, without server and scheduler.
//
// A round measures every length once, so that a slow minute falls on all of them; the median of the rounds is
// reported with its spread. Beside tokens a second stand bytes a second (weights and cache pages read) and
// multiplications a second, to be compared with what the machine can do.
#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "compute/probe.h"
#include "larder/command.h"
#include "larder/measure.h"
#include "larder/model_flags.h"
#include "larder/session.h"

namespace larder {
namespace {

// What one timed part did.
struct Sample {
  double seconds = 0;
  int64_t tokens = 0;
  double bytes = 0;  // read: weights once a pass, pages as attention counted them
  double macs = 0;
};

struct LengthResult {
  int64_t length = 0;
  std::vector<double> tokens_per_s, gb_per_s, gmac_per_s, ms;

  void Add(const Sample& sample) {
    tokens_per_s.push_back(static_cast<double>(sample.tokens) / sample.seconds);
    gb_per_s.push_back(sample.bytes / sample.seconds * 1e-9);
    gmac_per_s.push_back(sample.macs / sample.seconds * 1e-9);
    ms.push_back(sample.seconds * 1e3);
  }
};

class Bench final : public Command {
 public:
  void Declare(Params& params) override {
    flags_.Declare(params);
    params.String("lengths", &lengths_, "context lengths in tokens, separated by commas");
    params.Int("rounds", &rounds_, 1, 1000, "measurements of every length, interleaved");
    params.Int("tokens", &decode_tokens_, 1, 4096, "decode: tokens a measurement, for each sequence");
    params.Int("sequences", &sequences_, 1, 256, "decode: sequences that decode together");
    params.Bool("json", &json_, "one object a line instead of a table");
  }

  Status Run(const std::string& what) override {
    if (what != "prefill" && what != "decode")
      return Fail(ErrorKind::kInvalid, "'{}' is not known; write prefill or decode", what);
    LARDER_ASSIGN(const auto lengths, ParseNumbers(lengths_, 1, 1 << 24));
    LARDER_ASSIGN(const auto model, flags_.Load());
    model_ = model.get();
    BusyWatch busy(model->pool().threads());
    LARDER_ASSIGN(const auto results, what == "prefill" ? Prefill(lengths, busy) : Decode(lengths, busy));
    if (json_) {
      PrintJson(what, results, busy);
    } else {
      PrintTable(what, results, busy);
    }
    return {};
  }

 private:
  double PageBytesRead(uint64_t pages_before) const {
    return static_cast<double>(model_->attention_pages_read() - pages_before) *
           static_cast<double>(model_->kv_shape().page_bytes());
  }

  // A prompt of `length` tokens, cold, up to the logits of its last token.
  Result<Sample> PrefillOnce(Session& session, int64_t length, BusyWatch* busy) {
    const ModelSpec& spec = model_->spec();
    const std::vector<int32_t> tokens = FillerTokens(length, spec.vocabulary, 1);
    std::vector<float> logits(static_cast<size_t>(spec.vocabulary));
    LARDER_ASSIGN(auto sequence, session.Open());
    const uint64_t pages = model_->attention_pages_read();
    const Stopwatch watch;
    LARDER_TRY(session.Append(*sequence, tokens, length - 1, [&](int64_t, int rows, const float* hidden) {
      model_->Logits(hidden, rows, logits.data());
    }));
    Sample sample{watch.WallSeconds(), length, PageBytesRead(pages), 0};
    if (busy) busy->Add(sample.seconds, watch.CpuSeconds());
    session.Close(std::move(sequence));
    const int64_t passes = (length + Session::kChunkRows - 1) / Session::kChunkRows;
    sample.bytes += static_cast<double>(passes) * static_cast<double>(model_->weight_bytes());
    const ModelWork work = ModelWork::Of(spec);
    sample.macs = static_cast<double>(length) * work.layer_macs + work.head_macs;
    for (int64_t position = 0; position < length; ++position)
      sample.macs += AttentionMacs(spec, position + 1);
    return sample;
  }

  Result<std::vector<LengthResult>> Prefill(const std::vector<int64_t>& lengths, BusyWatch& busy) {
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    LARDER_ASSIGN(const auto session, Session::Create(*model_, longest, 1));
    LARDER_TRY(PrefillOnce(*session, std::min<int64_t>(longest, Session::kChunkRows), nullptr));  // warm-up
    std::vector<LengthResult> results(lengths.size());
    for (int64_t round = 0; round < rounds_; ++round) {
      for (size_t i = 0; i < lengths.size(); ++i) {
        results[i].length = lengths[i];
        LARDER_ASSIGN(const Sample sample, PrefillOnce(*session, lengths[i], &busy));
        results[i].Add(sample);
      }
    }
    return results;
  }

  // Sequences that stand at the same length and are forked for every measurement, so that the prefill is paid
  // once.
  struct Standing {
    std::vector<std::unique_ptr<KvSequence>> sequences;
    std::vector<int32_t> last;
  };

  Result<Standing> Stand(Session& session, int64_t length) {
    Standing out;
    for (int64_t s = 0; s < sequences_; ++s) {
      const auto tokens = FillerTokens(length, model_->spec().vocabulary, static_cast<uint64_t>(s) + 1);
      LARDER_ASSIGN(auto sequence, session.Open());
      LARDER_TRY(session.Append(*sequence, tokens, length, nullptr));
      out.sequences.push_back(std::move(sequence));
      out.last.push_back(tokens.back());
    }
    return out;
  }

  Result<Sample> DecodeOnce(Session& session, const Standing& standing, BusyWatch* busy) {
    const ModelSpec& spec = model_->spec();
    std::vector<std::unique_ptr<KvSequence>> forks;
    std::vector<KvSequence*> pointers;
    for (const auto& sequence : standing.sequences) {
      LARDER_ASSIGN(auto fork, session.Fork(*sequence));
      pointers.push_back(fork.get());
      forks.push_back(std::move(fork));
    }
    std::vector<int32_t> tokens = standing.last;
    std::vector<float> hidden(forks.size() * static_cast<size_t>(spec.width));
    std::vector<float> logits(forks.size() * static_cast<size_t>(spec.vocabulary));
    const int64_t length = forks[0]->length();
    LARDER_TRY(DecodeStep(session, pointers, tokens, hidden, logits));  // pays for copied rows; not measured
    const uint64_t pages = model_->attention_pages_read();
    const Stopwatch watch;
    for (int64_t i = 0; i < decode_tokens_; ++i)
      LARDER_TRY(DecodeStep(session, pointers, tokens, hidden, logits));
    Sample sample{watch.WallSeconds(), decode_tokens_ * sequences_, PageBytesRead(pages), 0};
    if (busy) busy->Add(sample.seconds, watch.CpuSeconds());
    for (auto& fork : forks) session.cache().Close(std::move(fork));
    sample.bytes += static_cast<double>(decode_tokens_) * static_cast<double>(model_->weight_bytes());
    const ModelWork work = ModelWork::Of(spec);
    for (int64_t i = 0; i < decode_tokens_; ++i)
      sample.macs += static_cast<double>(sequences_) *
                     (work.layer_macs + work.head_macs + AttentionMacs(spec, length + i + 2));
    return sample;
  }

  Status DecodeStep(Session& session, std::span<KvSequence* const> sequences, std::vector<int32_t>& tokens,
                    std::vector<float>& hidden, std::vector<float>& logits) {
    LARDER_TRY(session.Step(sequences, tokens, hidden.data()));
    model_->Logits(hidden.data(), static_cast<int>(sequences.size()), logits.data());
    const auto vocabulary = static_cast<size_t>(model_->spec().vocabulary);
    for (size_t s = 0; s < sequences.size(); ++s) {
      const float* row = logits.data() + s * vocabulary;
      tokens[s] = static_cast<int32_t>(std::max_element(row, row + vocabulary) - row);
    }
    return {};
  }

  Result<std::vector<LengthResult>> Decode(const std::vector<int64_t>& lengths, BusyWatch& busy) {
    int64_t rows = 0;
    for (int64_t length : lengths) {
      rows += length + 2 * (decode_tokens_ + kPageTokens);
      if (length + decode_tokens_ + 1 > model_->spec().context)
        return Fail(ErrorKind::kInvalid, "{} tokens and {} more are past the model's context of {}", length,
                    decode_tokens_ + 1, model_->spec().context);
    }
    // All lengths stand at once: as many sequences as there are lengths, of their mean length.
    const auto count = static_cast<int64_t>(lengths.size());
    LARDER_ASSIGN(
        const auto session,
        Session::Create(*model_, std::min(rows / count + 1, model_->spec().context), count * sequences_ * 2));
    std::vector<Standing> standing;
    for (int64_t length : lengths) {
      LARDER_ASSIGN(Standing one, Stand(*session, length));
      standing.push_back(std::move(one));
    }
    LARDER_TRY(DecodeOnce(*session, standing[0], nullptr));  // warm-up
    std::vector<LengthResult> results(lengths.size());
    for (int64_t round = 0; round < rounds_; ++round) {
      for (size_t i = 0; i < lengths.size(); ++i) {
        results[i].length = lengths[i];
        LARDER_ASSIGN(const Sample sample, DecodeOnce(*session, standing[i], &busy));
        results[i].Add(sample);
      }
    }
    for (Standing& one : standing)
      for (auto& sequence : one.sequences) session->Close(std::move(sequence));
    return results;
  }

  void PrintTable(const std::string& what, const std::vector<LengthResult>& results,
                  const BusyWatch& busy) const {
    fmt::print("{}: {}, {} threads, {}, math {}, cache {}, weights {}\n", what, model_->name(),
               model_->pool().threads(), SimdTargetName(), flags_.math, flags_.kv_type,
               FormatSize(model_->weight_bytes()));
    if (what == "decode")
      fmt::print("{} sequences, {} tokens each a measurement\n", sequences_, decode_tokens_);
    fmt::print("{:>8} {:>10} {:>21} {:>10} {:>8} {:>8}   median of {}\n", "context", "tokens/s", "(min..max)",
               "ms", "GB/s", "GMAC/s", rounds_);
    for (const LengthResult& r : results) {
      const Spread speed = SpreadOf(r.tokens_per_s);
      fmt::print("{:>8} {:>10.1f} {:>21} {:>10.1f} {:>8.1f} {:>8.1f}\n", r.length, speed.median,
                 fmt::format("({:.1f}..{:.1f})", speed.min, speed.max), SpreadOf(r.ms).median,
                 SpreadOf(r.gb_per_s).median, SpreadOf(r.gmac_per_s).median);
    }
    std::fflush(stdout);
    if (const std::string warning = busy.Warning(); !warning.empty())
      fmt::print(stderr, "warning: {}\n", warning);
  }

  void PrintJson(const std::string& what, const std::vector<LengthResult>& results,
                 const BusyWatch& busy) const {
    const auto spread = [](const std::vector<double>& samples) {
      const Spread s = SpreadOf(samples);
      return nlohmann::ordered_json{{"median", s.median}, {"min", s.min}, {"max", s.max}};
    };
    for (const LengthResult& r : results) {
      const nlohmann::ordered_json line = {{"bench", what},
                                           {"model", model_->name()},
                                           {"weights", model_->weights_digest().Hex()},
                                           {"simd", SimdTargetName()},
                                           {"threads", model_->pool().threads()},
                                           {"math", flags_.math},
                                           {"kv_type", flags_.kv_type},
                                           {"sequences", what == "decode" ? sequences_ : 1},
                                           {"length", r.length},
                                           {"rounds", rounds_},
                                           {"tokens_per_s", spread(r.tokens_per_s)},
                                           {"ms", spread(r.ms)},
                                           {"gb_per_s", spread(r.gb_per_s)},
                                           {"gmac_per_s", spread(r.gmac_per_s)},
                                           {"cores_used", busy.cores()},
                                           {"warning", busy.Warning()}};
      fmt::print("{}\n", line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
    }
  }

  ModelFlags flags_;
  std::string lengths_ = "512,2048";
  int64_t rounds_ = 5, decode_tokens_ = 32, sequences_ = 1;
  bool json_ = false;
  Model* model_ = nullptr;
};

}  // namespace

std::unique_ptr<Command> CreateBench() { return std::make_unique<Bench>(); }

}  // namespace larder
