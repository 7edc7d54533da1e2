// larder bench memory: keys and values in pages that are shared by content, in contiguous ranges over mapped
// granules, and in a buffer of the longest context for each sequence, as other engines have it. How many
// tokens the same bytes hold, what taking memory costs, and how fast attention reads each.
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include "engine/sampler.h"
#include "kv/virtual.h"
#include "larder/bench_figures.h"
#include "larder/bench_rows.h"
#include "larder/session.h"
#include "larder/terminal.h"

namespace larder {
namespace {

constexpr uint64_t kLimitBytes = 1u << 30;
constexpr int64_t kWasteSequences = 64;
constexpr uint64_t kWasteLimitBytes = uint64_t{2} << 30;  // they all fit
constexpr int64_t kLongestContext = 8192;
constexpr int64_t kMeanLength = 600, kPrefixLength = 512, kPrefixes = 4;
constexpr int64_t kDecoded = 64;  // of each sequence's rows, taken one at a time behind its prompt
constexpr int kSteps = 8;         // decoded in one measurement

struct Prompt {
  int64_t prefix;  // which one it begins with; -1: none
  int64_t length;  // with it
};

// Log-normal lengths; every other prompt begins with one of a few prefixes.
Prompt PromptOf(uint64_t i, int64_t context) {
  constexpr double kSigma = 1;
  const double u = CounterUniform(11, 0, i), v = CounterUniform(12, 0, i);
  const double normal = std::sqrt(-2 * std::log(std::max(u, 1e-12))) * std::cos(2 * M_PI * v);
  const double length = kMeanLength * std::exp(kSigma * normal - kSigma * kSigma / 2);
  Prompt prompt{i % 2 == 0 ? static_cast<int64_t>(i / 2 % kPrefixes) : -1, 0};
  prompt.length = std::clamp<int64_t>(static_cast<int64_t>(length), kDecoded + 1, context);
  if (prompt.prefix >= 0)
    prompt.length = std::min(std::max(prompt.length, kPrefixLength + kDecoded + 1), context);
  return prompt;
}

// One way to keep keys and values.
class Keeper {
 public:
  virtual ~Keeper() = default;
  // Room for one more sequence and its rows written; false when nothing is left for it.
  virtual Result<bool> Admit(uint64_t i, const Prompt& prompt) = 0;
  virtual void CloseAll() = 0;
  virtual uint64_t mappings_made() const { return 0; }
  virtual uint64_t used_bytes() const = 0;
  virtual RowStore& store(size_t i) = 0;
  double taking_seconds() const { return taking_s_; }
  int64_t rows_written() const { return rows_written_; }
  void StartCounting() { taking_s_ = 0, rows_written_ = 0; }

 protected:
  explicit Keeper(Model& model) : model_(model) {}
  // Runs what takes memory and counts its time.
  template <class Take>
  auto Taking(const Take& take) {
    const Stopwatch watch;
    auto out = take();
    taking_s_ += watch.WallSeconds();
    return out;
  }
  // Rows [begin, end): a prompt at once, the last ones singly. False without room.
  template <class Reserve, class Publish>
  Result<bool> Append(RowStore& rows, int64_t begin, int64_t end, const Reserve& reserve,
                      const Publish& publish) {
    while (begin < end) {
      const int64_t n = end - begin > kDecoded ? end - begin - kDecoded : 1;
      if (const Status status = Taking([&] { return reserve(n); }); !status) {
        if (status.error().kind == ErrorKind::kExhausted) return false;
        return std::unexpected(status.error());
      }
      WriteNoiseRows(model_, rows, begin, begin + n);
      publish(begin, n);
      begin += n;
      rows_written_ += n;
    }
    return true;
  }
  Model& model_;

 private:
  double taking_s_ = 0;
  int64_t rows_written_ = 0;
};

class PagedKeeper final : public Keeper {
 public:
  static Result<std::unique_ptr<Keeper>> Create(Model& model, uint64_t limit) {
    auto keeper = std::unique_ptr<PagedKeeper>(new PagedKeeper(model));
    KvCacheOptions options;
    options.limit_bytes = limit;
    LARDER_ASSIGN(keeper->cache_,
                  KvCache::Create(model.kv_shape(), model.kv_identity(), options, &keeper->clock_));
    return keeper;
  }
  ~PagedKeeper() override { CloseAll(); }

  Result<bool> Admit(uint64_t i, const Prompt& prompt) override {
    const int64_t vocabulary = model_.spec().vocabulary;
    auto tokens = FillerTokens(prompt.length, vocabulary, seed_ + kPrefixes + i);
    if (prompt.prefix >= 0)
      std::ranges::copy(FillerTokens(kPrefixLength, vocabulary, seed_ + static_cast<uint64_t>(prompt.prefix)),
                        tokens.begin());
    auto opened = Taking([&] { return cache_->Open("bench", tokens); });
    if (!opened) return false;
    KvSequence& sequence = *opened->sequence;
    sequences_.push_back(std::move(opened->sequence));
    return Append(
        sequence, sequence.length(), prompt.length, [&](int64_t n) { return cache_->Reserve(sequence, n); },
        [&](int64_t begin, int64_t n) {
          cache_->Publish(sequence,
                          std::span(tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(n)));
        });
  }
  void CloseAll() override {
    for (auto& sequence : sequences_) cache_->Close(std::move(sequence));
    sequences_.clear();
    seed_ += 1u << 20;  // what comes next has nothing in common with what was
  }
  uint64_t used_bytes() const override { return cache_->used_bytes(); }
  RowStore& store(size_t i) override { return *sequences_[i]; }

 private:
  explicit PagedKeeper(Model& model) : Keeper(model) {}
  SystemClock clock_;
  std::unique_ptr<KvCache> cache_;
  uint64_t seed_ = 1;
  std::vector<std::unique_ptr<KvSequence>> sequences_;
};

class VirtualKeeper final : public Keeper {
 public:
  static Result<std::unique_ptr<Keeper>> Create(Model& model, uint64_t limit, uint64_t granule,
                                                int64_t context) {
    auto keeper = std::unique_ptr<VirtualKeeper>(new VirtualKeeper(model));
    LARDER_ASSIGN(keeper->kv_,
                  VirtualKv::Create(model.kv_shape(),
                                    {.limit_bytes = limit, .max_rows = context, .granule_bytes = granule}));
    return keeper;
  }

  Result<bool> Admit(uint64_t /*i*/, const Prompt& prompt) override {
    if (prompt.prefix >= 0 && !prefixes_.contains(prompt.prefix)) {
      LARDER_ASSIGN(auto first, kv_->Open(kPrefixLength));
      VirtualSequence& held = *(prefixes_[prompt.prefix] = std::move(first));
      LARDER_ASSIGN(const bool fits, Write(held, kPrefixLength));
      if (!fits) return false;
    }
    auto opened = Taking([&] {
      return prompt.prefix >= 0 ? kv_->Fork(*prefixes_[prompt.prefix], kPrefixLength)
                                : kv_->Open(prompt.length);
    });
    if (!opened) return false;
    sequences_.push_back(*std::move(opened));
    return Write(*sequences_.back(), prompt.length);
  }
  void CloseAll() override {
    sequences_.clear();
    prefixes_.clear();
  }
  uint64_t mappings_made() const override { return kv_->stats().map_calls; }
  uint64_t used_bytes() const override { return kv_->stats().used_bytes + kv_->stats().table_bytes; }
  RowStore& store(size_t i) override { return *sequences_[i]; }

 private:
  explicit VirtualKeeper(Model& model) : Keeper(model) {}
  Result<bool> Write(VirtualSequence& sequence, int64_t end) {
    return Append(
        sequence, sequence.length(), end, [&](int64_t n) { return kv_->Reserve(sequence, n); },
        [&](int64_t, int64_t n) { kv_->Publish(sequence, n); });
  }
  std::unique_ptr<VirtualKv> kv_;
  std::map<int64_t, std::unique_ptr<VirtualSequence>> prefixes_;
  std::vector<std::unique_ptr<VirtualSequence>> sequences_;
};

// A buffer for the longest context, a lane's pages one after another.
class ContiguousRows final : public RowStore {
 public:
  static Result<std::unique_ptr<ContiguousRows>> Create(const KvShape& shape, int64_t context) {
    auto rows = std::unique_ptr<ContiguousRows>(new ContiguousRows(shape, context));
    LARDER_ASSIGN(rows->memory_, AlignedBuffer::Allocate(Bytes(shape, context)));
    return rows;
  }
  static uint64_t Bytes(const KvShape& shape, int64_t context) {
    return LaneBytes(shape, context) * static_cast<uint64_t>(shape.layers() * shape.kv_heads());
  }
  void set_length(int64_t length) { length_ = length; }
  int64_t Entries(int, int) const override { return length_; }
  KvPage Page(int layer, int kv_head, int64_t page, std::byte*) const override {
    KvPage out = StoredPage(shape_.type(), shape_.head_dim(), memory_.data() + Offset(layer, kv_head, page));
    out.first_position = static_cast<int32_t>(page * kPageTokens);
    out.entries = static_cast<int32_t>(std::min<int64_t>(kPageTokens, length_ - page * kPageTokens));
    return out;
  }
  std::byte* WritablePage(int layer, int kv_head, int64_t position) override {
    return memory_.data() + Offset(layer, kv_head, position / kPageTokens);
  }

 private:
  ContiguousRows(const KvShape& shape, int64_t context) : shape_(shape), context_(context) {}
  static uint64_t LaneBytes(const KvShape& shape, int64_t context) {
    return shape.page_bytes() * static_cast<uint64_t>((context + kPageTokens - 1) / kPageTokens);
  }
  size_t Offset(int layer, int kv_head, int64_t page) const {
    return static_cast<size_t>(layer * shape_.kv_heads() + kv_head) * LaneBytes(shape_, context_) +
           static_cast<size_t>(page) * shape_.page_bytes();
  }
  const KvShape& shape_;
  const int64_t context_;
  AlignedBuffer memory_;
  int64_t length_ = 0;
};

class ContiguousKeeper final : public Keeper {
 public:
  ContiguousKeeper(Model& model, uint64_t limit, int64_t context)
      : Keeper(model), limit_(limit), context_(context) {}

  Result<bool> Admit(uint64_t /*i*/, const Prompt& prompt) override {
    const uint64_t bytes = ContiguousRows::Bytes(model_.kv_shape(), context_);
    if (open_ == rows_.size()) {
      if ((open_ + 1) * bytes > limit_) return false;
      LARDER_ASSIGN(auto rows, Taking([&] { return ContiguousRows::Create(model_.kv_shape(), context_); }));
      rows_.push_back(std::move(rows));
    }
    ContiguousRows& rows = *rows_[open_++];
    rows.set_length(prompt.length);
    return Append(rows, 0, prompt.length, [](int64_t) { return Status(); }, [](int64_t, int64_t) {});
  }
  void CloseAll() override { open_ = 0; }
  uint64_t used_bytes() const override {
    return rows_.size() * ContiguousRows::Bytes(model_.kv_shape(), context_);
  }
  RowStore& store(size_t i) override { return *rows_[i]; }

 private:
  const uint64_t limit_;
  const int64_t context_;
  std::vector<std::unique_ptr<ContiguousRows>> rows_;
  size_t open_ = 0;  // the first ones are in use
};

constexpr std::array<const char*, 4> kWays = {"paged", "virtual, 64 KiB", "virtual, 2 MiB", "contiguous"};
constexpr size_t kContiguous = 3;  // what the others are compared with

Result<std::unique_ptr<Keeper>> CreateKeeper(size_t way, Model& model, uint64_t limit, int64_t context) {
  switch (way) {
    case 0:
      return PagedKeeper::Create(model, limit);
    case 1:
      return VirtualKeeper::Create(model, limit, 64 << 10, context);
    case 2:
      return VirtualKeeper::Create(model, limit, 2 << 20, context);
    default:
      return std::make_unique<ContiguousKeeper>(model, limit, context);
  }
}

double MinorFaults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_minflt);
}

// What one way did with the same bytes, round after round.
struct Filled {
  int64_t sequences = 0, tokens = 0, rows = 0;
  double used_mib = 0;
  struct Cost {  // of 1000 rows
    std::vector<double> us, faults, mappings;
  };
  Cost first, again;  // into fresh memory; after all of that has ended
};

Status FillOnce(Keeper& keeper, int64_t context, bool keep, Filled& to, Filled::Cost& cost) {
  const double faults = MinorFaults(), mappings = static_cast<double>(keeper.mappings_made());
  keeper.StartCounting();
  to.sequences = to.tokens = 0;
  while (true) {
    const Prompt prompt = PromptOf(static_cast<uint64_t>(to.sequences), context);
    LARDER_ASSIGN(const bool fits, keeper.Admit(static_cast<uint64_t>(to.sequences), prompt));
    if (!fits) break;
    ++to.sequences;
    to.tokens += prompt.length;
  }
  to.rows = keeper.rows_written();
  to.used_mib = static_cast<double>(keeper.used_bytes()) / (1 << 20);
  if (!keep) return {};
  const double thousands = static_cast<double>(to.rows) / 1e3;
  cost.us.push_back(keeper.taking_seconds() * 1e6 / thousands);
  cost.faults.push_back((MinorFaults() - faults) / thousands);
  cost.mappings.push_back((static_cast<double>(keeper.mappings_made()) - mappings) / thousands);
  return {};
}

Status Fill(size_t way, Model& model, int64_t context, bool keep, Filled& to) {
  LARDER_ASSIGN(const auto keeper, CreateKeeper(way, model, kLimitBytes, context));
  LARDER_TRY(FillOnce(*keeper, context, keep, to, to.first));
  keeper->CloseAll();
  return FillOnce(*keeper, context, keep, to, to.again);
}

Status BenchHolding(Model& model, const BenchSettings& settings, int64_t context) {
  FigureReport report = BeginReport("memory", model, settings);
  report.threads = model.pool().threads();
  report.note = fmt::format(
      "sequences of {} tokens on average (log-normal), every other one behind one of {} prefixes of {}, "
      "admitted "
      "until {} are full;\nthe last {} rows of each are taken singly. tokens: that can be read, shared ones "
      "by each "
      "sequence; rows: that were written;\nus, faults, maps: for 1000 rows, taking their memory, page "
      "faults, and "
      "mapping calls; first: fresh from the operating system, again: after all sequences have ended",
      kMeanLength, kPrefixes, kPrefixLength, FormatSize(kLimitBytes), kDecoded);
  std::array<Filled, kWays.size()> filled;
  ProgressBar bar("filling");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    for (size_t way = 0; way < kWays.size(); ++way)
      LARDER_TRY(Fill(way, model, context, round > 0, filled[way]));
  }
  bar.Clear();
  for (size_t way = 0; way < kWays.size(); ++way) {
    const Filled& f = filled[way];
    report.rows.push_back(
        {.labels = {{"kept", kWays[way]}},
         .values = {SingleValue("sequences", static_cast<double>(f.sequences), 0),
                    SingleValue("tokens", static_cast<double>(f.tokens), 0),
                    SingleValue(
                        "over_contiguous",
                        static_cast<double>(f.tokens) / static_cast<double>(filled[kContiguous].tokens), 1),
                    SingleValue("rows", static_cast<double>(f.rows), 0),
                    SingleValue("used_mib", f.used_mib, 1), SpreadValue("first_us", f.first.us, 0),
                    SpreadValue("again_us", f.again.us, 0), SpreadValue("first_faults", f.first.faults, 0),
                    SpreadValue("again_faults", f.again.faults, 0),
                    SpreadValue("first_maps", f.first.mappings), SpreadValue("again_maps", f.again.mappings)},
         .warning = {}});
  }
  report.Print(settings.json);
  return {};
}

// What sequences of different lengths take beyond the bytes of their rows. Nothing is shared, and nothing
// depends on time.
Status BenchWaste(Model& model, const BenchSettings& settings, int64_t context) {
  FigureReport report = BeginReport("memory-waste", model, settings);
  report.threads = model.pool().threads();
  report.rounds = 1;
  report.note = fmt::format(
      "{} sequences of {} tokens on average (log-normal) that share nothing; mapped: bytes that they take, "
      "tables "
      "included; waste:\nthe part of it that holds no row. contiguous: what its buffers reserve",
      kWasteSequences, kMeanLength);
  for (size_t way = 0; way < kWays.size(); ++way) {
    LARDER_ASSIGN(const auto keeper, CreateKeeper(way, model, kWasteLimitBytes, context));
    int64_t tokens = 0;
    for (int64_t i = 0; i < kWasteSequences; ++i) {
      const Prompt prompt = PromptOf(static_cast<uint64_t>(2 * i + 1), context);  // of those without a prefix
      tokens += prompt.length;
      if (way == kContiguous) continue;
      LARDER_ASSIGN(const bool fits, keeper->Admit(static_cast<uint64_t>(i), prompt));
      if (!fits) return Fail(ErrorKind::kExhausted, "{}: no memory for {} sequences", kWays[way], i + 1);
    }
    const auto rows = static_cast<double>(tokens) * static_cast<double>(model.kv_shape().BytesPerToken());
    const double mapped = way == kContiguous
                              ? static_cast<double>(kWasteSequences) *
                                    static_cast<double>(ContiguousRows::Bytes(model.kv_shape(), context))
                              : static_cast<double>(keeper->used_bytes());
    report.rows.push_back({.labels = {{"kept", kWays[way]}},
                           .values = {SingleValue("tokens", static_cast<double>(tokens), 0),
                                      SingleValue("rows_mib", rows / (1 << 20), 1),
                                      SingleValue("mapped_mib", mapped / (1 << 20), 1),
                                      SingleValue("waste_pct", 100 * (mapped - rows) / mapped, 1)},
                           .warning = {}});
  }
  report.Print(settings.json);
  return {};
}

Status BenchReading(Model& model, const BenchSettings& settings, const std::vector<int64_t>& lengths,
                    int64_t context) {
  FigureReport report = BeginReport("memory-decode", model, settings);
  report.threads = model.pool().threads();
  report.note =
      fmt::format("decode: one token through the model, {} times; attention_ms: its attention alone", kSteps);
  const auto count = static_cast<uint64_t>(lengths.size());
  const uint64_t limit = (count + 1) * (ContiguousRows::Bytes(model.kv_shape(), context) + (64u << 20));
  std::array<std::unique_ptr<Keeper>, kWays.size()> keepers;
  for (size_t way = 0; way < kWays.size(); ++way) {
    LARDER_ASSIGN(keepers[way], CreateKeeper(way, model, limit, context));
    for (size_t i = 0; i < lengths.size(); ++i) {
      LARDER_ASSIGN(const bool fits, keepers[way]->Admit(i, {-1, lengths[i]}));
      if (!fits) return Fail(ErrorKind::kExhausted, "no memory for a context of {} tokens", lengths[i]);
    }
  }
  std::vector<TimedWork> decode(kWays.size() * lengths.size(), TimedWork(report.threads)), attend = decode;
  DecodeAttention attention(model);
  std::vector<float> hidden(static_cast<size_t>(model.spec().width));
  ProgressBar bar("measuring");
  for (int64_t round = 0; round <= settings.rounds; ++round) {
    bar.Update(static_cast<double>(round) / static_cast<double>(settings.rounds + 1));
    for (size_t i = 0; i < decode.size(); ++i) {
      const int64_t length = lengths[i / kWays.size()];
      RowStore& store = keepers[i % kWays.size()]->store(i / kWays.size());
      Row row;
      row.token = 1;
      row.position = static_cast<int32_t>(length - 1);
      row.kv = &store;
      row.writes_kv = false;
      row.wants_hidden = true;
      AddTimed(decode[i], round > 0, [&] {
        for (int step = 0; step < kSteps; ++step) model.Forward(std::span(&row, 1), hidden.data());
      });
      const TileProvider* const one = &store;
      AddTimed(attend[i], round > 0, [&] {
        for (int step = 0; step < kSteps; ++step) attention.Run(std::span(&one, 1), length);
      });
    }
  }
  bar.Clear();
  for (size_t i = 0; i < decode.size(); ++i) {
    const double contiguous = attend[i / kWays.size() * kWays.size() + kContiguous].Median();
    std::vector<double> attention_ms = attend[i].seconds;
    for (double& s : attention_ms) s *= 1e3 / kSteps;
    report.rows.push_back(
        {.labels = {{"kept", kWays[i % kWays.size()]}, {"length", std::to_string(lengths[i / kWays.size()])}},
         .values = {RateOf("tokens_per_s", decode[i].seconds, kSteps),
                    SpreadValue("attention_ms", attention_ms, 2),
                    SingleValue("over_contiguous", attend[i].Median() / contiguous)},
         .warning = decode[i].busy.Warning()});
  }
  report.Print(settings.json);
  return {};
}

}  // namespace

Status BenchMemory(const BenchSettings& settings) {
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  const int64_t context = std::min(model->spec().context, kLongestContext);
  LARDER_ASSIGN(const auto lengths, settings.Lengths(context > 4096 ? "512,2048,4096,end" : "512,2048,end",
                                                     model->spec().context, 0));
  for (const int64_t length : lengths)
    if (length > context)
      return Fail(ErrorKind::kInvalid, "contexts of at most {} tokens are compared, not {}", context, length);
  LARDER_TRY(BenchWaste(*model, settings, context));
  LARDER_TRY(BenchHolding(*model, settings, context));
  return BenchReading(*model, settings, lengths, context);
}

}  // namespace larder
