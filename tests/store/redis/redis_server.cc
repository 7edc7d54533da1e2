#include "tests/store/redis/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <hiredis/hiredis.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cstdlib>
#include <thread>

namespace larder {
namespace {

// Output goes to `log`.
pid_t Spawn(const std::vector<std::string>& arguments, const std::string& log) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t process = fork();
  if (process != 0) return process;
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(out, 1);
  dup2(out, 2);
  execvp(argv[0], argv.data());
  _exit(127);
}

std::string ToText(const redisReply& reply) {
  if (reply.type == REDIS_REPLY_INTEGER) return std::to_string(reply.integer);
  if (reply.type == REDIS_REPLY_ERROR) return "ERROR " + std::string(reply.str, reply.len);
  if (reply.type != REDIS_REPLY_ARRAY) return {reply.str == nullptr ? "" : reply.str, reply.len};
  std::string out;
  for (size_t i = 0; i < reply.elements; ++i) out += ToText(*reply.element[i]) + "\n";
  return out;
}

}  // namespace

bool HaveRedisServer() { return RunProgram({"redis-server", "--version"}) == 0; }

int FreePort() {
  const int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  if (bind(socket_fd, reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      getsockname(socket_fd, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    std::abort();
  close(socket_fd);
  return ntohs(address.sin_port);
}

bool Eventually(const std::function<bool()>& condition) {
  for (int i = 0; i < 4000; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return false;
}

int RunProgram(const std::vector<std::string>& arguments) {
  int status = 0;
  const pid_t process = Spawn(arguments, "/dev/null");
  if (process < 0 || waitpid(process, &status, 0) != process || !WIFEXITED(status)) return -1;
  return WEXITSTATUS(status);
}

RedisServer::RedisServer(std::vector<std::string> options)
    : port_(FreePort()), folder_("redis"), options_(std::move(options)) {
  Start();
}

RedisServer::~RedisServer() { Kill(); }

void RedisServer::Start() {
  std::vector<std::string> arguments{
      "redis-server", "--port", std::to_string(port_), "--bind", "127.0.0.1", "--dir", folder_.path(),
      "--save",       "",       "--appendonly",        "no"};
  arguments.insert(arguments.end(), options_.begin(), options_.end());
  process_ = Spawn(arguments, folder_ / "log");
  // Also a server that wants a password is there.
  const bool up = Eventually([this] {
    const std::string answer = Command({"PING"});
    return answer == "PONG" || answer.starts_with("ERROR NOAUTH");
  });
  if (!up) {
    ADD_FAILURE() << "redis-server did not start, see " << folder_.path();
    std::abort();
  }
}

void RedisServer::Kill() {
  if (process_ <= 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = -1;
}

void RedisServer::Pause() { kill(process_, SIGSTOP); }
void RedisServer::Resume() { kill(process_, SIGCONT); }

std::string RedisServer::Command(const std::vector<std::string>& arguments) const {
  const std::unique_ptr<redisContext, void (*)(redisContext*)> context(redisConnect("127.0.0.1", port_),
                                                                       redisFree);
  if (!context || context->err != 0) return "ERROR no connection";
  std::vector<const char*> texts;
  std::vector<size_t> sizes;
  for (const std::string& argument : arguments) {
    texts.push_back(argument.data());
    sizes.push_back(argument.size());
  }
  auto* reply = static_cast<redisReply*>(
      redisCommandArgv(context.get(), static_cast<int>(texts.size()), texts.data(), sizes.data()));
  if (reply == nullptr) return "ERROR no answer";
  std::string text = ToText(*reply);
  freeReplyObject(reply);
  return text;
}

}  // namespace larder
