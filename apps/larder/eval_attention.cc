#include "larder/eval_attention.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "larder/arm_oracle.h"
#include "larder/bench_form.h"
#include "larder/terminal.h"

namespace larder {

double TopShare(std::vector<float> sums, double share) {
  const auto top = std::max<int64_t>(1, static_cast<int64_t>(share * static_cast<double>(sums.size())));
  std::ranges::nth_element(sums, sums.begin() + top - 1, std::greater<>{});
  const double most = std::accumulate(sums.begin(), sums.begin() + top, 0.0);
  return most / std::accumulate(sums.begin() + top, sums.end(), most);
}

Result<std::vector<double>> AttentionShares(Model& model, const EvaluationText& text, double share) {
  const ModelSpec& spec = model.spec();
  std::vector<double> shares(spec.layers.size());
  int64_t longest = 0;
  for (const TextWindow& window : text.windows) longest = std::max(longest, window.end - window.begin + 1);
  LARDER_ASSIGN(auto session, Session::Create(model, longest, 1));
  FutureAttention attention;
  ColumnScratch scratch;
  ProgressBar bar("attending");
  double done = 0;
  for (const TextWindow& window : text.windows) {
    std::vector<int32_t> tokens(text.tokens.begin() + window.begin, text.tokens.begin() + window.end);
    if (text.bos) tokens.insert(tokens.begin(), model.tokenizer().bos());
    LARDER_ASSIGN(auto sequence, session->Open());
    attention.Reset(spec, std::ssize(tokens));
    FutureAttention::Capture capture(attention, model, scratch, *sequence, 0);
    LARDER_TRY(session->Append(*sequence, tokens, std::ssize(tokens), nullptr, &capture));
    for (size_t layer = 0; layer < shares.size(); ++layer) {
      for (int head = 0; head < spec.kv_heads; ++head) {
        const auto sums = attention.Of(static_cast<int>(layer), head).first(tokens.size());
        shares[layer] += TopShare({sums.begin(), sums.end()}, share) / spec.kv_heads;
      }
    }
    session->Close(std::move(sequence));
    bar.Update(++done / static_cast<double>(text.windows.size()));
  }
  bar.Clear();
  for (double& value : shares) value /= static_cast<double>(text.windows.size());
  return shares;
}

void AttentionEval::Declare(Params& params) {
  params.Float("share", &share_, 0.0001, 1, "attention: of the tokens, the heaviest");
}

Status AttentionEval::Run(const ModelFlags& flags, const std::string& text_path, int64_t window,
                          int64_t max_tokens, const std::string& json) {
  LARDER_ASSIGN(auto model, LoadBase(flags));
  LARDER_ASSIGN(const EvaluationText text,
                ReadEvaluationText(text_path, model->tokenizer(), window, window, max_tokens));
  LARDER_ASSIGN(const std::vector<double> shares, AttentionShares(*model, text, share_));
  // If every row looked at all that it sees alike: a token's weight is then the logarithm of how far back it
  // is.
  const double flat = share_ - share_ * std::log(share_);
  if (!json.empty()) {
    const nlohmann::ordered_json out = {{"eval", "attention"},
                                        {"model", model->name()},
                                        {"weights", model->weights_digest().Hex()},
                                        {"text", text_path},
                                        {"windows", text.windows.size()},
                                        {"window", window},
                                        {"share", share_},
                                        {"flat", flat},
                                        {"layers", shares}};
    return WriteText(json, out.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  }
  fmt::print("{} on {}: attention on the heaviest {} of the tokens, {} windows of {} tokens\n\n",
             model->name(), text_path, share_, text.windows.size(), window);
  fmt::print("if all tokens were looked at alike: {:.3f}\n\nlayer  attention\n", flat);
  for (size_t layer = 0; layer < shares.size(); ++layer) {
    const int own = model->spec().layers[layer].window;
    fmt::print("{:>5}  {:>9.3f}{}\n", layer, shares[layer], own > 0 ? fmt::format("  window {}", own) : "");
  }
  return {};
}

}  // namespace larder
