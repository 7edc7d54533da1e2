// larder quantize IN OUT: a GGUF file with its weights in another format.
#include <fmt/core.h>

#include <filesystem>
#include <system_error>

#include "larder/command.h"
#include "larder/quantization.h"
#include "larder/terminal.h"

namespace larder {
namespace {

class Quantize final : public Command {
 public:
  void Declare(Params& params) override {
    params.String("out", &out_, "the GGUF file to write; may stand behind IN without --out");
    params.Choice(
        "type", &type_, QuantizationNames(),
        "format of the matrices; norms and biases are F32, and under 4-bit types the output head is Q6_K "
        "(Q8_0 where a row is no multiple of 256)");
    params.Bool("pure", &pure_, "every matrix in this format, the output head too");
    params.Int("threads", &threads_, 0, 1024, "threads that compute; 0: the cores this process may use");
  }

  Status Run(const std::string& in) override {
    if (out_.empty())
      return Fail(ErrorKind::kInvalid, "no output file is given; write larder quantize IN OUT");
    LARDER_ASSIGN(const auto file, GgufFile::Open(in));
    ThreadPool pool(threads_ > 0 ? static_cast<int>(threads_) : AvailableCores());
    {
      ProgressBar bar("writing " + out_.substr(out_.find_last_of('/') + 1));
      LARDER_TRY(QuantizeFile(*file, out_, *FindQuantization(type_), pure_, pool,
                              [&bar](double fraction) { bar.Update(fraction); }));
    }
    std::error_code error;
    fmt::print("{}: {} in, {} out\n", out_, FormatSize(file->bytes().size()),
               FormatSize(std::filesystem::file_size(out_, error)));
    return {};
  }

 private:
  std::string out_, type_ = "q4_0";
  bool pure_ = false;
  int64_t threads_ = 0;
};

}  // namespace

std::unique_ptr<Command> CreateQuantize() { return std::make_unique<Quantize>(); }

}  // namespace larder
