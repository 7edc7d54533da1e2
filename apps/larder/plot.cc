#include "larder/plot.h"

#include <algorithm>
#include <array>
#include <cmath>

#include <fmt/format.h>

namespace larder {
namespace {

constexpr double kWidth = 860, kHeight = 460, kLeft = 70, kRight = 190, kTop = 20, kBottom = 50;
constexpr double kLeast = 1e-6;  // on a logarithmic axis what is smaller is drawn here

// From values to pixels.
struct Plane {
  bool log_y;
  double x_low = 1e300, x_high = 0, y_low = 1e300, y_high = 0;

  explicit Plane(const Plot& plot) : log_y(plot.log_y) {
    for (const PlotLine& line : plot.lines) {
      for (const PlotPoint& p : line.points) {
        x_low = std::min(x_low, p.x / 1.15);
        x_high = std::max(x_high, p.x * 1.15);
        y_low = std::min(y_low, std::max(kLeast, p.low) / 1.5);
        y_high = std::max(y_high, std::max(kLeast, p.high) * 1.5);
      }
    }
    if (!log_y) y_low = 0, y_high = 1;
  }
  double X(double value) const {
    return kLeft + (kWidth - kLeft - kRight) * std::log(value / x_low) / std::log(x_high / x_low);
  }
  double Y(double value) const {
    const double height = kHeight - kTop - kBottom;
    if (!log_y) return kHeight - kBottom - height * value;
    return kHeight - kBottom - height * std::log(std::max(kLeast, value) / y_low) / std::log(y_high / y_low);
  }
  std::vector<double> YTicks() const {
    if (!log_y) return {0, 0.2, 0.4, 0.6, 0.8, 1};
    std::vector<double> ticks;
    for (int power = -6; power <= 1; ++power) {
      for (const int step : {1, 3}) {
        const double value = step * std::pow(10.0, power);
        if (value >= y_low && value <= y_high) ticks.push_back(value);
      }
    }
    return ticks;
  }
};

std::string Axes(const Plane& p, const std::string& label) {
  std::string svg;
  const double bottom = kHeight - kBottom, right = kWidth - kRight;
  for (const double value : p.YTicks()) {
    svg += fmt::format(
        "<line class=grid x1={} x2={} y1={:.1f} y2={:.1f} /><text x={} y={:.1f} "
        "text-anchor=end>{:g}</text>\n",
        kLeft, right, p.Y(value), p.Y(value), kLeft - 6, p.Y(value) + 4, value);
  }
  for (const double value : {0.01, 0.02, 0.03, 0.06, 0.125, 0.25, 0.5, 1.0}) {
    if (value < p.x_low || value > p.x_high) continue;
    svg += fmt::format(
        "<line class=grid x1={:.1f} x2={:.1f} y1={} y2={} /><text x={:.1f} y={} text-anchor=middle>{:g} "
        "%</text>\n",
        p.X(value), p.X(value), kTop, bottom, p.X(value), bottom + 18, 100 * value);
  }
  svg += fmt::format("<text x={:.0f} y={} text-anchor=middle>bytes resident, of the full cache</text>\n",
                     (kLeft + right) / 2, bottom + 40);
  return svg +
         fmt::format("<text transform='translate(16 {:.0f}) rotate(-90)' text-anchor=middle>{}</text>\n",
                     (kTop + bottom) / 2, EscapeHtml(label));
}

// From the fewest bytes to the most, with the error of each point.
std::string Line(const PlotLine& line, const Plane& p, size_t place) {
  constexpr std::array kColours = {"#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7",
                                   "#a463f2", "#97bbf5", "#9c6b4e", "#555",    "#0a7",    "#c33"};
  const char* colour = kColours[place % kColours.size()];
  std::vector<PlotPoint> points = line.points;
  std::ranges::sort(points, {}, &PlotPoint::x);
  std::string svg, path;
  for (const PlotPoint& point : points) {
    const double x = p.X(point.x), y = p.Y(point.y);
    path += fmt::format("{:.1f},{:.1f} ", x, y);
    svg += fmt::format("<line stroke='{}' x1={:.1f} x2={:.1f} y1={:.1f} y2={:.1f} />", colour, x, x,
                       p.Y(point.low), p.Y(point.high));
    svg += fmt::format("<circle fill='{}' cx={:.1f} cy={:.1f} r=4><title>{}</title></circle>\n", colour, x, y,
                       EscapeHtml(point.title));
  }
  svg += fmt::format("<polyline fill=none stroke='{}' stroke-width=2 points='{}' />\n", colour, path);
  const double y = kTop + 14 + 22 * static_cast<double>(place), x = kWidth - kRight + 16;
  return svg + fmt::format("<circle fill='{}' cx={} cy={} r=5 /><text x={} y={}>{}</text>\n", colour, x,
                           y - 4, x + 12, y, EscapeHtml(line.name));
}

}  // namespace

std::string EscapeHtml(std::string_view text) {
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

std::string HtmlHead(std::string_view title) {
  return fmt::format(
      "<!doctype html><html lang=en><meta charset=utf-8><title>{0}</title><style>"
      "body{{font:15px/1.5 system-ui,sans-serif;max-width:1180px;margin:2em auto;padding:0 1em;color:#222}}"
      "svg text{{font:12px system-ui,sans-serif;fill:#444}}.grid{{stroke:#ddd}}"
      "table{{border-collapse:collapse;font-size:13px}}"
      "th,td{{padding:3px 8px;border-bottom:1px solid #ddd;text-align:right}}"
      "th:first-child,td:first-child{{text-align:left}}"
      "code{{background:#f3f3f3;padding:2px 4px;overflow-wrap:anywhere}}</style>\n<h1>{0}</h1>\n",
      EscapeHtml(title));
}

std::string PlotSvg(const Plot& plot) {
  const Plane plane(plot);
  std::string svg =
      fmt::format("<svg viewBox='0 0 {} {}' role=img>\n{}", kWidth, kHeight, Axes(plane, plot.y_label));
  for (size_t i = 0; i < plot.lines.size(); ++i) svg += Line(plot.lines[i], plane, i);
  return svg + "</svg>\n";
}

}  // namespace larder
