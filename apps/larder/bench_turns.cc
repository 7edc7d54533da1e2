// larder bench turns: many conversations take turns, and memory holds a quarter of what they say. How soon
// the next answer begins where memory is all there is, and where a disk lies below it; and what is left of
// that when clients drop the oldest turn of what they send.
#include "base/log.h"
#include "base/params.h"
#include "larder/bench_figures.h"
#include "larder/bench_folder.h"
#include "larder/bench_stepped.h"
#include "larder/conversation.h"
#include "larder/session.h"
#include "larder/terminal.h"
#include "store/disk/disk_tier.h"

namespace larder {
namespace {

constexpr int64_t kSessions = 20, kLeastSessions = 8;
constexpr int64_t kEarlierTurns = 8;            // that a conversation brings along
constexpr int64_t kQuestion = 32, kAnswer = 4;  // tokens of a turn
constexpr int64_t kTimesMemory = 4;             // what all conversations have in the end
constexpr uint64_t kDiskLimit = uint64_t{1} << 40;

// Where rows are kept, and what was measured with it.
struct Arm {
  std::string name;
  std::unique_ptr<DiskTier> disk = nullptr;         // may be null
  std::unique_ptr<SteppedEngine> engine = nullptr;  // goes before the disk
  std::vector<Conversation> sessions = {};
  bool whole = true;                  // no turns are dropped, so that its answers are those of the others
  std::vector<double> first_ms = {};  // of every turn but the first
  double seconds = 0;                 // of all turns
  int64_t prompt_rows = 0, memory_rows = 0, disk_rows = 0;
  BusyWatch busy;

  double first_median() const { return SpreadOf(first_ms).median; }
  double Percent(int64_t rows) const {
    return 100 * static_cast<double>(rows) / static_cast<double>(prompt_rows);
  }
};

class TurnsBench {
 public:
  TurnsBench(Model& model, const BenchSettings& settings, const BenchFolder& folder, int64_t earlier)
      : model_(model),
        settings_(settings),
        folder_(folder),
        earlier_(earlier),
        sessions_(settings.sequences > 0 ? settings.sequences : kSessions) {}

  int64_t sessions() const { return sessions_; }
  int64_t last_length() const { return earlier_ + settings_.turns * (kQuestion + kAnswer); }
  uint64_t memory_limit() const {
    return static_cast<uint64_t>(sessions_ * last_length() / kTimesMemory) *
           model_.kv_shape().BytesPerToken();
  }

  Status Prepare() {
    if (sessions_ < kLeastSessions)
      return Fail(ErrorKind::kInvalid,
                  "a quarter of {} conversations is hardly one; give --sequences {} or more", sessions_,
                  kLeastSessions);
    const uint64_t limit = memory_limit();
    LARDER_TRY(Add("memory", limit, "", 0));
    LARDER_TRY(Add("memory and disk", limit, "disk", 0));
    LARDER_TRY(Add("memory for all", KvLimitOrDefault(0), "", 0));
    // Half of the turns come when there are as many as are sent.
    const auto most = static_cast<size_t>(kEarlierTurns + settings_.turns / 2);
    return Add("memory and disk, the oldest turn dropped", limit, "disk-dropped", most);
  }

  // All conversations have a turn with each arm.
  Status Turn(int64_t turn) {
    answers_.assign(static_cast<size_t>(sessions_), {});
    for (Arm& arm : arms_) {
      const double busy = SystemBusySeconds();
      const Stopwatch watch;
      for (int64_t session = 0; session < sessions_; ++session) LARDER_TRY(Ask(arm, turn, session));
      const double wall = watch.WallSeconds(), cpu = watch.CpuSeconds();
      arm.seconds += wall;
      arm.busy.Add(wall, cpu, SystemBusySeconds() - busy);
      arm.engine->core().cache().FlushTiers();  // it does not write while another one is measured
    }
    return {};
  }

  void AddRows(FigureReport& report) const {
    const Arm& memory = arms_.front();
    for (const Arm& arm : arms_) {
      report.rows.push_back(
          {.labels = {{"kept_in", arm.name}},
           .values = {SpreadValue("first_token_ms", arm.first_ms, 0),
                      SingleValue("sooner", memory.first_median() / arm.first_median(), 1),
                      SingleValue("hit_pct", arm.Percent(arm.memory_rows + arm.disk_rows), 1),
                      SingleValue("from_disk_pct", arm.Percent(arm.disk_rows), 1),
                      SingleValue("seconds", arm.seconds, 1),
                      SingleValue("faster", memory.seconds / arm.seconds, 1)},
           .warning = arm.busy.Warning()});
    }
  }

 private:
  Status Add(std::string name, uint64_t limit, const std::string& disk, size_t most_turns) {
    Arm arm{.name = std::move(name), .whole = most_turns == 0, .busy = BusyWatch(model_.pool().threads())};
    EngineOptions options;
    options.cache.limit_bytes = limit;
    if (!disk.empty()) {
      const DiskOptions on_disk{.directory = folder_ / disk, .limit_bytes = kDiskLimit};
      LARDER_ASSIGN(arm.disk, OpenDiskTier(on_disk, RealFileSystem(), nullptr, &clock_));
      options.tiers = {arm.disk.get()};
    }
    LARDER_ASSIGN(arm.engine, SteppedEngine::Create(model_, options));
    for (int64_t session = 0; session < sessions_; ++session) {
      Conversation& conversation = arm.sessions.emplace_back(most_turns);
      for (int64_t turn = 0; turn < kEarlierTurns; ++turn)
        conversation.Ask(Tokens(session, turn, earlier_ / kEarlierTurns));
    }
    arms_.push_back(std::move(arm));
    return {};
  }

  // What is said in a turn of a conversation, with every arm.
  std::vector<int32_t> Tokens(int64_t session, int64_t turn, int64_t count) const {
    return FillerTokens(count, model_.tokenizer().size(), static_cast<uint64_t>(1 + session * 65536 + turn));
  }

  Status Ask(Arm& arm, int64_t turn, int64_t session) {
    Conversation& conversation = arm.sessions[static_cast<size_t>(session)];
    conversation.Ask(Tokens(session, kEarlierTurns + turn, kQuestion));
    std::vector<int32_t> prompt = conversation.Prompt();
    arm.prompt_rows += std::ssize(prompt);
    LARDER_ASSIGN(const SteppedAnswer answer,
                  arm.engine->Run(SteppedEngine::RequestOf(std::move(prompt), kAnswer)));
    conversation.Answer(answer.tokens);
    // A fast wrong answer is no figure.
    std::vector<int32_t>& right = answers_[static_cast<size_t>(session)];
    if (right.empty()) right = answer.tokens;
    if (arm.whole && answer.tokens != right)
      return Fail(ErrorKind::kCorrupt, "{}: another answer than the first", arm.name);
    if (turn > 0) arm.first_ms.push_back(answer.first_s * 1e3);
    arm.memory_rows += answer.report.read_memory;
    arm.disk_rows += answer.rows_from_tiers();
    return {};
  }

  Model& model_;
  const BenchSettings& settings_;
  const BenchFolder& folder_;
  const int64_t earlier_, sessions_;
  SystemClock clock_;
  std::vector<Arm> arms_;
  std::vector<std::vector<int32_t>> answers_;  // by conversation, of this turn
};

}  // namespace

Status BenchTurns(const BenchSettings& settings) {
  SetLogLevel(LogLevel::kWarn);
  LARDER_ASSIGN(const auto model, settings.flags.Load());
  const int64_t added = settings.turns * (kQuestion + kAnswer);
  LARDER_ASSIGN(const auto lengths, settings.Lengths("512", model->spec().context, added));
  if (lengths.size() != 1 || lengths[0] < kEarlierTurns)
    return Fail(ErrorKind::kInvalid,
                "bench turns takes one length of at least {}, that of a conversation's beginning; give "
                "--lengths 512",
                kEarlierTurns);
  LARDER_ASSIGN(const auto folder, BenchFolder::Create(settings.disk.empty() ? "." : settings.disk));
  TurnsBench bench(*model, settings, *folder, lengths[0]);
  LARDER_TRY(bench.Prepare());
  ProgressBar bar("measuring");
  for (int64_t turn = 0; turn < settings.turns; ++turn) {
    bar.Update(static_cast<double>(turn) / static_cast<double>(settings.turns));
    LARDER_TRY(bench.Turn(turn));
  }
  bar.Clear();
  FigureReport report = BeginReport("turns", *model, settings);
  report.threads = model->pool().threads();
  report.rounds = settings.turns;
  report.note = fmt::format(
      "{} conversations of {} tokens have {} further turns of {} and {}, one after the other; {} of memory "
      "are "
      "a quarter of\nthem. first_token_ms: of all turns but the first; sooner, faster: than with memory "
      "alone, "
      "by first tokens, by the time of\nall turns; hit_pct: prompt rows that were found; dropped: from the "
      "middle on, each turn drops the oldest one",
      bench.sessions(), lengths[0], settings.turns, kQuestion, kAnswer, FormatSize(bench.memory_limit()));
  bench.AddRows(report);
  report.Print(settings.json);
  return {};
}

}  // namespace larder
