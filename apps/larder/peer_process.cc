#include "larder/peer_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "larder/cache_directory.h"

namespace larder {
namespace {

namespace fs = std::filesystem;

// A prefill of a full context on a busy machine, after the search for the faster setting.
constexpr int kPatienceMs = 30 * 60 * 1000;

std::unexpected<Error> OsError(const char* what) {
  return Fail(ErrorKind::kIo, "cannot {}: {}", what, std::strerror(errno));
}

}  // namespace

Result<std::unique_ptr<PeerProcess>> PeerProcess::Start(const std::string& python,
                                                        const std::string& script) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) return OsError("make a socket pair");
  const pid_t pid = fork();
  if (pid < 0) {
    close(ends[0]);
    close(ends[1]);
    return OsError("start a process");
  }
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a killed benchmark leaves nothing that computes
    dup2(ends[1], STDIN_FILENO);
    dup2(ends[1], STDOUT_FILENO);
    execl(python.c_str(), python.c_str(), script.c_str(), nullptr);
    _exit(127);
  }
  close(ends[1]);
  return std::unique_ptr<PeerProcess>(new PeerProcess(pid, ends[0]));
}

PeerProcess::~PeerProcess() {
  close(socket_);
  kill(pid_, SIGKILL);  // it holds nothing worth an orderly end
  waitpid(pid_, nullptr, 0);
}

Result<std::string> PeerProcess::Ask(const std::string& line) {
  const std::string request = line + '\n';
  for (size_t sent = 0; sent < request.size();) {
    const ssize_t n = send(socket_, request.data() + sent, request.size() - sent, MSG_NOSIGNAL);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return Fail(ErrorKind::kUnavailable, "the process has ended");
    sent += static_cast<size_t>(n);
  }
  while (true) {
    if (const size_t end = buffered_.find('\n'); end != std::string::npos) {
      std::string answer = buffered_.substr(0, end);
      buffered_.erase(0, end + 1);
      return answer;
    }
    pollfd waiting{socket_, POLLIN, 0};
    const int ready = poll(&waiting, 1, kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready <= 0) return Fail(ErrorKind::kUnavailable, "the process has not answered for half an hour");
    char bytes[4096];
    const ssize_t n = recv(socket_, bytes, sizeof bytes, 0);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      return Fail(ErrorKind::kUnavailable, "the process has ended; its interpreter may lack the packages");
    buffered_.append(bytes, static_cast<size_t>(n));
  }
}

std::string FindPeersPython() {
  std::error_code error;
  fs::path newest;
  fs::file_time_type newest_time;
  for (const auto& entry : fs::directory_iterator(fs::path(CacheDirectory()) / "python", error)) {
    if (!entry.path().filename().string().starts_with("peers-")) continue;
    const auto time = fs::last_write_time(entry.path() / "complete", error);
    if (error) continue;  // never finished
    if (newest.empty() || time > newest_time) {
      newest = entry.path() / "bin" / "python";
      newest_time = time;
    }
  }
  return newest.string();
}

Result<std::string> FindScript(const std::string& name) {
  std::error_code error;
  for (fs::path folder : {fs::read_symlink("/proc/self/exe", error).parent_path(), fs::current_path(error)}) {
    for (; !folder.empty(); folder = folder.parent_path()) {
      if (fs::exists(folder / "scripts" / name, error)) return (folder / "scripts" / name).string();
      if (folder == folder.root_path()) break;
    }
  }
  return Fail(ErrorKind::kNotFound, "scripts/{} is not found; run the program from its source tree", name);
}

}  // namespace larder
