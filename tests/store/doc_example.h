// Examples in docs/formats: fenced blocks of hexadecimal bytes, so that a page and the program cannot drift.
#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <cstddef>
#include <fstream>
#include <span>
#include <sstream>
#include <string>

namespace larder {

// Lines of an offset and 16 bytes, as they stand in a page.
inline std::string HexDump(std::span<const std::byte> bytes) {
  std::string out;
  for (size_t at = 0; at < bytes.size(); ++at) {
    if (at % 16 == 0) out += fmt::format("{}{:03x} ", at > 0 ? "\n" : "", at);
    out += fmt::format(" {:02x}", std::to_integer<int>(bytes[at]));
  }
  return out + "\n";
}

// The block that begins with ```label in docs/formats/`page`.
inline std::string DocExample(const std::string& page, const std::string& label) {
  std::ifstream file(std::string(LARDER_DOCS) + "/formats/" + page);
  std::stringstream text;
  text << file.rdbuf();
  const std::string all = text.str(), fence = "```" + label + "\n";
  const size_t begin = all.find(fence);
  if (begin == std::string::npos) return page + " has no example " + label;
  const size_t end = all.find("```", begin + fence.size());
  return all.substr(begin + fence.size(), end - begin - fence.size());
}

}  // namespace larder
