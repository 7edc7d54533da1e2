// larder calibrate: what a codec of the cache has to know about a model. Today the mean of its keys.
#include <fmt/core.h>

#include <filesystem>
#include <system_error>

#include "base/file.h"
#include "larder/calibration.h"
#include "larder/command.h"
#include "larder/model_flags.h"
#include "larder/terminal.h"

namespace larder {
namespace {

class Calibrate final : public Command {
 public:
  void Declare(Params& params) override {
    flags_.Declare(params);
    params.String("text", &text_, "file with text like what will be cached");
    params.Int("max-tokens", &max_tokens_, 1, int64_t{1} << 40, "of the text, from its beginning");
    params.Int("window", &window_, 1, 1 << 24, "tokens that are in context at most");
    params.String("out", &out_,
                  "file of key means to write; auto: where --kv-type t4 looks for this model's, in the cache "
                  "directory");
  }

  Status Run(const std::string&) override {
    if (text_.empty()) return Fail(ErrorKind::kInvalid, "no text is given; add --text FILE");
    LARDER_ASSIGN(const auto model, flags_.LoadAs(flags_.math, "f16"));
    LARDER_ASSIGN(const std::string content, ReadFile(text_, 1u << 30));
    auto tokens = model->tokenizer().Encode(content, {.add_special = false, .parse_special = false});
    if (std::ssize(tokens) > max_tokens_) tokens.resize(static_cast<size_t>(max_tokens_));
    LARDER_ASSIGN(const std::string path, Path(*model));
    ProgressBar bar("calibrating");
    LARDER_ASSIGN(const KeyMeans means, MeanKeys(*model, tokens, std::min(window_, model->spec().context - 1),
                                                 [&](double done) { bar.Update(done); }));
    bar.Clear();
    LARDER_TRY(means.Write(path));
    fmt::print("{}: means of {} layers, {} heads, {} dimensions over {} tokens, {}\n", path, means.layers,
               means.kv_heads, means.head_dim, tokens.size(), means.digest().ShortHex());
    return {};
  }

 private:
  Result<std::string> Path(const Model& model) const {
    if (out_ != "auto") return out_;
    const std::string folder = KeyMeansFolder();
    if (folder.empty())
      return Fail(ErrorKind::kNotFound, "there is no cache directory; give a file with --out");
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    if (error) return Fail(ErrorKind::kIo, "{} cannot be made: {}", folder, error.message());
    return folder + "/" + KeyMeansFile(model.weights_digest());
  }

  ModelFlags flags_;
  std::string text_, out_ = "auto";
  int64_t max_tokens_ = 16384, window_ = 2048;
};

}  // namespace

std::unique_ptr<Command> CreateCalibrate() { return std::make_unique<Calibrate>(); }

}  // namespace larder
