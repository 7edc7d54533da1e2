// The program from outside: what it prints and how it ends.
#pragma once

#include <sys/wait.h>

#include <cstdio>
#include <string>

namespace larder {

struct Outcome {
  int code = -1;
  std::string out;  // standard output and error
};

inline Outcome Program(const std::string& arguments, const std::string& input = "/dev/null") {
  const std::string command = std::string(LARDER_PROGRAM) + " " + arguments + " 2>&1 <" + input;
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  char chunk[4096];
  for (size_t n; (n = fread(chunk, 1, sizeof chunk, pipe)) > 0;) outcome.out.append(chunk, n);
  const int status = pclose(pipe);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return outcome;
}

}  // namespace larder
