#include "larder/bench_folder.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace larder {

namespace fs = std::filesystem;

Result<std::unique_ptr<BenchFolder>> BenchFolder::Create(const std::string& parent) {
  std::string path = (fs::path(parent) / "larder-bench-XXXXXX").string();
  if (mkdtemp(path.data()) == nullptr)
    return Fail(ErrorKind::kIo, "cannot make a folder in {}: {}", parent, std::strerror(errno));
  return std::unique_ptr<BenchFolder>(new BenchFolder(std::move(path)));
}

BenchFolder::~BenchFolder() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void BenchFolder::Empty() const {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(path_, ignored)) fs::remove_all(entry.path(), ignored);
}

void DropFromPageCache(const std::string& path) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

}  // namespace larder
