#include "tests/store/redis/scripted_server.h"

#include <arpa/inet.h>
#include <hiredis/hiredis.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

namespace larder {

ScriptedServer::ScriptedServer(Script script) : script_(std::move(script)) {
  listener_ = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
  socklen_t size = sizeof address;
  if (bind(listener_, reinterpret_cast<sockaddr*>(&address), size) != 0 || listen(listener_, 64) != 0 ||
      getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0)
    std::abort();
  port_ = ntohs(address.sin_port);
  acceptor_ = std::thread([this] { Accept(); });
}

ScriptedServer::~ScriptedServer() {
  stopping_ = true;
  shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  {
    const std::lock_guard guard(mutex_);
    for (const int client : clients_) shutdown(client, SHUT_RDWR);
  }
  for (auto& thread : threads_) thread.join();
  for (const int client : clients_) close(client);
  close(listener_);
}

void ScriptedServer::Accept() {
  while (!stopping_) {
    const int client = accept(listener_, nullptr, nullptr);
    if (client < 0) continue;
    ++connections_;
    const std::lock_guard guard(mutex_);
    clients_.push_back(client);
    threads_.emplace_back([this, client] { Serve(client); });
  }
}

void ScriptedServer::Serve(int client) {
  const std::unique_ptr<redisReader, void (*)(redisReader*)> reader(redisReaderCreate(), redisReaderFree);
  char buffer[65536];
  while (true) {
    const ssize_t got = recv(client, buffer, sizeof buffer, 0);
    if (got <= 0) return;
    redisReaderFeed(reader.get(), buffer, static_cast<size_t>(got));
    void* object = nullptr;
    while (redisReaderGetReply(reader.get(), &object) == REDIS_OK && object != nullptr) {
      const std::unique_ptr<redisReply, void (*)(void*)> command(static_cast<redisReply*>(object),
                                                                 freeReplyObject);
      Arguments arguments;
      for (size_t i = 0; i < command->elements; ++i)
        arguments.emplace_back(command->element[i]->str, command->element[i]->len);
      const auto answer = script_(arguments);
      if (!answer) {
        shutdown(client, SHUT_RDWR);
        return;
      }
      size_t sent = 0;
      while (sent < answer->size()) {
        const ssize_t n = send(client, answer->data() + sent, answer->size() - sent, MSG_NOSIGNAL);
        if (n <= 0) return;
        sent += static_cast<size_t>(n);
      }
    }
  }
}

}  // namespace larder
