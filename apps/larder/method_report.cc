// The report of larder eval methods: JSON for programs, a page for people.
#include <algorithm>
#include <array>
#include <cmath>
#include <map>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "larder/eval_methods.h"

namespace larder {
namespace {

using Json = nlohmann::ordered_json;

std::string Escape(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

// A plane with logarithmic axes, in pixels.
struct Plane {
  static constexpr double kWidth = 860, kHeight = 460, kLeft = 70, kRight = 190, kTop = 20, kBottom = 50;
  double x_low, x_high, y_low, y_high;

  double X(double value) const {
    return kLeft + (kWidth - kLeft - kRight) * std::log(value / x_low) / std::log(x_high / x_low);
  }
  double Y(double value) const {
    return kHeight - kBottom -
           (kHeight - kTop - kBottom) * std::log(value / y_low) / std::log(y_high / y_low);
  }
};

constexpr double kLeastKl = 1e-6;  // below it a point is drawn at it

Plane PlaneOf(const MethodsResult& result) {
  Plane plane{1e300, 0, 1e300, 0};
  for (const ArmSummary& s : result.arms) {
    const double x = s.private_bytes / static_cast<double>(result.full_bytes);
    plane.x_low = std::min(plane.x_low, x / 1.15);
    plane.x_high = std::max(plane.x_high, x * 1.15);
    plane.y_low = std::min(plane.y_low, std::max(kLeastKl, s.kl_low) / 1.5);
    plane.y_high = std::max(plane.y_high, std::max(kLeastKl, s.kl_high) * 1.5);
  }
  return plane;
}

std::string Axes(const Plane& p) {
  std::string svg;
  const double bottom = Plane::kHeight - Plane::kBottom, right = Plane::kWidth - Plane::kRight;
  for (int power = -6; power <= 1; ++power) {
    for (const int step : {1, 3}) {
      const double value = step * std::pow(10.0, power);
      if (value < p.y_low || value > p.y_high) continue;
      svg += fmt::format(
          "<line class=grid x1={} x2={} y1={:.1f} y2={:.1f} /><text x={} y={:.1f} "
          "text-anchor=end>{:g}</text>\n",
          Plane::kLeft, right, p.Y(value), p.Y(value), Plane::kLeft - 6, p.Y(value) + 4, value);
    }
  }
  for (const double value : {0.01, 0.02, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0}) {
    if (value < p.x_low || value > p.x_high) continue;
    svg += fmt::format(
        "<line class=grid x1={:.1f} x2={:.1f} y1={} y2={} /><text x={:.1f} y={} text-anchor=middle>{:g} "
        "%</text>\n",
        p.X(value), p.X(value), Plane::kTop, bottom, p.X(value), bottom + 18, 100 * value);
  }
  svg += fmt::format("<text x={:.0f} y={} text-anchor=middle>bytes resident, of the full cache</text>\n",
                     (Plane::kLeft + right) / 2, bottom + 40);
  svg += fmt::format(
      "<text transform='translate(16 {:.0f}) rotate(-90)' text-anchor=middle>mean KL to the full cache, nats "
      "a token</text>\n",
      (Plane::kTop + bottom) / 2);
  return svg;
}

// A line a method, from its smallest budget to its largest, with the error of each point.
std::string Lines(const MethodsResult& result, const Plane& p) {
  constexpr std::array kColours = {"#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951",
                                   "#ff8ab7", "#a463f2", "#97bbf5", "#9c6b4e", "#555"};
  std::vector<std::string> order;
  std::map<std::string, std::vector<const ArmSummary*>> lines;
  for (const ArmSummary& s : result.arms) {
    if (!lines.contains(s.arm.method)) order.push_back(s.arm.method);
    lines[s.arm.method].push_back(&s);
  }
  std::string svg;
  for (size_t i = 0; i < order.size(); ++i) {
    auto& points = lines[order[i]];
    std::sort(points.begin(), points.end(),
              [](auto* a, auto* b) { return a->private_bytes < b->private_bytes; });
    const char* colour = kColours[i % kColours.size()];
    std::string path;
    for (const ArmSummary* s : points) {
      const double x = p.X(s->private_bytes / static_cast<double>(result.full_bytes));
      const double y = p.Y(std::max(kLeastKl, s->kl_mean));
      path += fmt::format("{:.1f},{:.1f} ", x, y);
      svg += fmt::format("<line stroke='{}' x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} />", colour, x, x,
                         p.Y(std::max(kLeastKl, s->kl_low)), p.Y(std::max(kLeastKl, s->kl_high)));
      svg += fmt::format(
          "<circle fill='{}' cx={:.1f} cy={:.1f} r=4><title>{} at {}: KL {:.4g}</title></circle>\n", colour,
          x, y, Escape(s->arm.method), Escape(s->arm.budget), s->kl_mean);
    }
    svg += fmt::format("<polyline fill=none stroke='{}' stroke-width=2 points='{}' />\n", colour, path);
    const double y = Plane::kTop + 14 + 22 * static_cast<double>(i), x = Plane::kWidth - Plane::kRight + 16;
    svg += fmt::format("<circle fill='{}' cx={} cy={} r=5 /><text x={} y={}>{}</text>\n", colour, x, y - 4,
                       x + 12, y, Escape(order[i]));
  }
  return svg;
}

std::string Table(const MethodsResult& result) {
  std::string html =
      "<table><tr><th>method<th>budget<th>KL mean<th>95 %<th>median<th>99 %<th>same first "
      "choice<th>perplexity ratio"
      "<th>entries<th>bytes<th>peak bytes<th>ms a prompt</tr>\n";
  for (const ArmSummary& s : result.arms) {
    html += fmt::format(
        "<tr><td>{}<td>{}<td>{:.5f}<td>{:.5f} .. {:.5f}<td>{:.5f}<td>{:.4f}<td>{:.2f} "
        "%<td>{:.4f}<td>{:.0f}<td>{:.1f} "
        "%<td>{:.1f} %<td>{:.0f}</tr>\n",
        Escape(s.arm.method), Escape(s.arm.budget), s.kl_mean, s.kl_low, s.kl_high, s.kl_median, s.kl_99,
        100 * s.same_top, s.perplexity_ratio, s.entries,
        100 * s.private_bytes / static_cast<double>(result.full_bytes),
        100 * s.peak_bytes / static_cast<double>(result.full_bytes), s.method_ms);
  }
  return html + "</table>\n";
}

}  // namespace

std::string MethodsJson(const MethodsResult& result) {
  Json json = {{"eval", "methods"},
               {"model", result.model},
               {"weights", result.weights},
               {"text", result.text},
               {"command", result.command},
               {"documents", result.documents},
               {"prompt_tokens", result.prompt_tokens},
               {"scored_tokens", result.scored_tokens},
               {"sinks", result.sinks},
               {"last", result.last},
               {"full_bytes", result.full_bytes},
               {"arms", Json::array()}};
  for (const ArmSummary& s : result.arms) {
    json["arms"].push_back({{"method", s.arm.method},
                            {"budget", s.arm.budget},
                            {"spec", s.arm.spec},
                            {"kl_mean", s.kl_mean},
                            {"kl_low", s.kl_low},
                            {"kl_high", s.kl_high},
                            {"kl_median", s.kl_median},
                            {"kl_99", s.kl_99},
                            {"same_top", s.same_top},
                            {"perplexity_ratio", s.perplexity_ratio},
                            {"entries", s.entries},
                            {"private_bytes", s.private_bytes},
                            {"peak_bytes", s.peak_bytes},
                            {"method_ms", s.method_ms}});
  }
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string MethodsHtml(const MethodsResult& result) {
  const Plane plane = PlaneOf(result);
  std::string html =
      "<!doctype html><html lang=en><meta charset=utf-8><title>Eviction methods</title><style>"
      "body{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}"
      "svg text{font:12px "
      "system-ui,sans-serif;fill:#444}.grid{stroke:#ddd}table{border-collapse:collapse;font-size:13px}"
      "th,td{padding:3px 8px;border-bottom:1px solid "
      "#ddd;text-align:right}th:first-child,td:first-child{text-align:left}"
      "code{background:#f3f3f3;padding:2px 4px;overflow-wrap:anywhere}</style>\n";
  html += fmt::format("<h1>Eviction methods on {}</h1>\n", Escape(result.model));
  html += fmt::format(
      "<p>Each of {} documents has a prompt of {} tokens. Every method drops part of what the model has "
      "cached about "
      "it, and the {} tokens that follow in the text are read with what is left. The divergence (KL) tells "
      "how far the "
      "predictions are from those with the full cache: 0 is no difference, and lower is better at the same "
      "bytes. All "
      "methods keep the first {} and the newest {} tokens unless their name says otherwise. Bars are 95 % of "
      "1,000 "
      "draws of the documents. <em>oracle</em> knows what will be looked at, and is the bound of methods "
      "that choose "
      "once.</p>\n",
      result.documents, result.prompt_tokens, result.scored_tokens, result.sinks, result.last);
  html += fmt::format("<svg viewBox='0 0 {} {}' role=img>\n{}{}</svg>\n", Plane::kWidth, Plane::kHeight,
                      Axes(plane), Lines(result, plane));
  html += Table(result);
  html += fmt::format(
      "<p>Bytes are of pages and tables that the allocator counted, beside the full cache's {} bytes; "
      "the peak is what was held before the choice. Made by <code>{}</code>, weights <code>{}</code>.</p>",
      result.full_bytes, Escape(result.command), result.weights);
  return html + "</html>";
}

}  // namespace larder
