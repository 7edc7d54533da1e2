// A folder that a measurement writes in.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"

namespace larder {

// Its own, empty at first, gone with everything in it when destroyed.
class BenchFolder {
 public:
  static Result<std::unique_ptr<BenchFolder>> Create(const std::string& parent);  // kIo
  ~BenchFolder();
  BenchFolder(const BenchFolder&) = delete;
  BenchFolder& operator=(const BenchFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  void Empty() const;

 private:
  explicit BenchFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// Asks the operating system to forget what it holds of a file. Pages that another process maps stay.
void DropFromPageCache(const std::string& path);

}  // namespace larder
