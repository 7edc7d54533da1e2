// Plots for reports: lines over a logarithmic axis of bytes, as SVG that needs nothing else.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace larder {

struct PlotPoint {
  double x = 0, y = 0, low = 0, high = 0;  // x: share of the full cache's bytes; low, high: the error's ends
  std::string title;                       // shown under the pointer
};
struct PlotLine {
  std::string name;
  std::vector<PlotPoint> points;  // any order
};
struct Plot {
  std::string y_label;
  bool log_y = false;  // else from 0 to 1
  std::vector<PlotLine> lines;
};

// A line's colour follows from its place, so that the plots of one page agree.
std::string PlotSvg(const Plot& plot);

std::string EscapeHtml(std::string_view text);
// The head of a page, up to its title.
std::string HtmlHead(std::string_view title);

}  // namespace larder
