#include "store/redis/router.h"

#include <algorithm>
#include <boost/asio/post.hpp>
#include <set>
#include <utility>

namespace larder {
namespace {

constexpr int kMaxRedirections = 5;
constexpr size_t kMaxNodes = 256;  // a server that names more is not believed
constexpr size_t kMaxSlotsReplyBytes = 4u << 20;
constexpr int64_t kRefreshEveryNs = 1'000'000'000;

Error ServerError(const std::string& text, const RedisEndpoint& endpoint) {
  constexpr size_t kMostShown = 200;
  const std::string shown = text.substr(0, kMostShown);
  if (text.starts_with("OOM "))
    return {
        ErrorKind::kExhausted,
        fmt::format(
            "the Redis server {} is full; raise its maxmemory or let it evict (maxmemory-policy allkeys-lru)",
            endpoint.ToString())};
  if (text.starts_with("MOVED ") || text.starts_with("ASK "))
    return {ErrorKind::kUnavailable,
            fmt::format("the Redis server {} is one of a cluster; name several of its nodes in the URL",
                        endpoint.ToString())};
  return {ErrorKind::kIo, fmt::format("the Redis server {} refuses: {}", endpoint.ToString(), shown)};
}

bool IsOf(RedisReply reply, const RespValue& value) {
  switch (reply) {
    case RedisReply::kAny:
      return true;
    case RedisReply::kInteger:
      return value.type == RespValue::Type::kInteger;
    case RedisReply::kString:
      return value.IsString();
    case RedisReply::kArray:
      return value.type == RespValue::Type::kArray;
    case RedisReply::kStored:
      return value.IsStatus("OK") || value.IsNil();
  }
  return false;
}

}  // namespace

RedisRouter::RedisRouter(boost::asio::io_context& io, const RedisOptions& options, const RedisUrl& url,
                         boost::asio::ssl::context* tls, Clock& clock)
    : io_(io),
      url_(url),
      clock_(clock),
      context_{.io = io, .options = options, .url = url, .tls = tls, .clock = clock, .on_failure = [this] {
                 ++failures_;
                 RefreshSoon();
               }} {
  // Until the map is known any node will do: it redirects.
  slots_.resize(kRedisSlots);
  for (size_t slot = 0; slot < kRedisSlots; ++slot)
    slots_[slot] = NodeAt(url.endpoints[slot * url.endpoints.size() / kRedisSlots]);
}

void RedisRouter::Start() {
  if (cluster()) return RefreshSoon();
  SubmitTo(slots_[0], {.text = std::make_shared<RespCommand>(RespCommand{"PING"}), .done = [](auto&&) {}});
}

RedisRouter::Node RedisRouter::NodeAt(const RedisEndpoint& endpoint) {
  const std::string key = endpoint.ToString();
  if (const auto it = nodes_.find(key); it != nodes_.end()) return it->second;
  if (nodes_.size() >= kMaxNodes) return nullptr;
  return nodes_.emplace(key, std::make_shared<RedisNode>(context_, endpoint)).first->second;
}

void RedisRouter::Submit(std::string_view key, RedisRequest request) {
  SubmitTo(slots_[RedisSlot(key)], std::move(request));
}

void RedisRouter::SubmitTo(const Node& node, RedisRequest request) {
  Dispatch(std::make_shared<Routed>(Routed{.request = std::move(request)}), node, false);
}

void RedisRouter::Dispatch(const std::shared_ptr<Routed>& routed, const Node& node, bool asking) {
  if (closed_) {
    boost::asio::post(
        io_, [routed] { routed->request.done(Fail(ErrorKind::kUnavailable, "the Redis tier ends")); });
    return;
  }
  const RedisRequest& request = routed->request;
  node->Submit({.text = request.text,
                .max_reply_bytes = request.max_reply_bytes,
                .lane = request.lane,
                .asking = asking,
                .abandoned = request.abandoned,
                .done = [this, routed, node](Result<RespValue> answer) {
                  Answered(routed, node, std::move(answer));
                }});
}

void RedisRouter::Answered(const std::shared_ptr<Routed>& routed, const Node& node,
                           Result<RespValue> answer) {
  if (!answer) {
    if (answer.error().kind == ErrorKind::kUnavailable) RefreshSoon();
    return routed->request.done(std::move(answer));
  }
  if (answer->type != RespValue::Type::kError) {
    if (IsOf(routed->request.reply, *answer)) return routed->request.done(std::move(answer));
    const char* what = "an answer of another type than the command has";
    node->AnsweredWrong(what);
    return routed->request.done(
        Fail(ErrorKind::kUnavailable, "the Redis server {}: {}", node->endpoint().ToString(), what));
  }
  if (cluster() && Follow(routed, node, answer->text)) return;
  routed->request.done(std::unexpected(ServerError(answer->text, node->endpoint())));
}

bool RedisRouter::Follow(const std::shared_ptr<Routed>& routed, const Node& node, std::string_view error) {
  const auto redirection = ParseRedirection(error, node->endpoint());
  if (!redirection) {
    if (error.starts_with("CLUSTERDOWN")) RefreshSoon();
    return false;
  }
  if (++routed->redirections > kMaxRedirections) return false;
  const Node to = NodeAt(redirection->to);
  if (!to) return false;
  if (!redirection->ask) {
    slots_[redirection->slot] = to;
    RefreshSoon();
  }
  Dispatch(routed, to, redirection->ask);
  return true;
}

void RedisRouter::RefreshSoon() {
  if (!cluster() || refreshing_ || closed_ || clock_.NowNs() < next_refresh_ns_) return;
  next_refresh_ns_ = clock_.NowNs() + kRefreshEveryNs;
  refreshing_ = true;
  Refresh([this](const Status&) { refreshing_ = false; });
}

void RedisRouter::Refresh(std::function<void(Status)> done) {
  if (!cluster()) {
    boost::asio::post(io_, [done = std::move(done)] { done({}); });
    return;
  }
  // One after another, those that answer first.
  std::vector<Node> nodes;
  for (const auto& [name, node] : nodes_) nodes.push_back(node);
  std::ranges::rotate(nodes, nodes.begin() + static_cast<ptrdiff_t>(next_asked_++ % nodes.size()));
  const auto healthy = std::ranges::find_if(nodes, [](const Node& node) { return node->healthy(); });
  const Node asked = healthy == nodes.end() ? nodes.front() : *healthy;
  SubmitTo(asked, {.text = std::make_shared<RespCommand>(RespCommand{"CLUSTER", "SLOTS"}),
                   .max_reply_bytes = kMaxSlotsReplyBytes,
                   .done = [this, asked, done = std::move(done)](Result<RespValue> reply) {
                     if (!reply) return done(std::unexpected(std::move(reply).error()));
                     done(Apply(*reply, asked->endpoint()));
                   }});
}

Status RedisRouter::Apply(const RespValue& reply, const RedisEndpoint& asked) {
  LARDER_ASSIGN(const std::vector<RedisSlotRange> ranges, ParseClusterSlots(reply, asked));
  for (const RedisSlotRange& range : ranges) {
    const Node node = NodeAt(range.master);
    if (!node) return Fail(ErrorKind::kExhausted, "the Redis cluster names more than {} nodes", kMaxNodes);
    std::fill(slots_.begin() + range.first, slots_.begin() + range.last + 1, node);
  }
  // Nodes that left are forgotten, or a cluster whose addresses change would fill the list.
  const std::set<Node> owners(slots_.begin(), slots_.end());
  std::erase_if(nodes_, [&](const auto& entry) {
    const Node& node = entry.second;
    const bool seed = std::ranges::find(url_.endpoints, node->endpoint()) != url_.endpoints.end();
    if (seed || owners.contains(node) || !node->idle()) return false;
    node->Close();
    return true;
  });
  return {};
}

std::vector<RedisRouter::Node> RedisRouter::Masters() const {
  std::vector<Node> out;
  for (const Node& node : slots_) {
    if (std::ranges::find(out, node) == out.end()) out.push_back(node);
  }
  std::ranges::sort(out, {}, [](const Node& node) { return node->endpoint().ToString(); });
  return out;
}

void RedisRouter::Close() {
  closed_ = true;
  for (const auto& [name, node] : nodes_) node->Close();
}

}  // namespace larder
