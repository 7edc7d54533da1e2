#include "serve/event_waits.h"

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <list>
#include <optional>
#include <utility>
#include <vector>

namespace larder {

namespace net = boost::asio;
using Steady = std::chrono::steady_clock;

// Everything but Wake is for the thread of `io`.
struct EventWaits::State : std::enable_shared_from_this<EventWaits::State> {
  struct Waiting {
    EventWait wait;
    Steady::time_point until;
    uint64_t number;
  };

  State(net::io_context& context, ServeBackend* engine) : io(context), backend(engine), timer(context) {}

  void Wake();
  void Add(EventWait wait, Steady::time_point until);
  void Sweep();
  std::optional<EventPage> PageFor(const Waiting& one) const;
  void Forget(uint64_t number);
  void ArmTimer();

  net::io_context& io;
  ServeBackend* const backend;
  net::steady_timer timer;
  std::list<Waiting> waiting;
  uint64_t last_number = 0;
  bool ended = false;
  std::atomic<size_t> count = 0;    // of those that wait
  std::atomic<bool> woken = false;  // a sweep is coming
};

// From the engine's thread. One sweep serves all events until it begins.
void EventWaits::State::Wake() {
  if (count == 0 || woken.exchange(true)) return;
  net::post(io, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    self->woken = false;
    self->Sweep();
  });
}

void EventWaits::State::Add(EventWait wait, Steady::time_point until) {
  const uint64_t number = ++last_number;
  const auto exchange = wait.exchange;
  waiting.push_back({std::move(wait), until, number});
  ++count;
  // It is counted, so what happens from here on wakes it; what has happened before is found now.
  Sweep();
  if (waiting.empty() || waiting.back().number != number) return;
  exchange->OnGone([weak = weak_from_this(), number] {
    if (const auto self = weak.lock()) self->Forget(number);
  });
}

// Nothing: it goes on waiting.
std::optional<EventPage> EventWaits::State::PageFor(const Waiting& one) const {
  EventPage page;
  const EventWait& wait = one.wait;
  if (!backend->EventsNow(wait.tenant, wait.all, wait.after, wait.limit, page))
    return EventPage{.next = wait.after};
  if (page.events.empty() && !ended && Steady::now() < one.until) return std::nullopt;
  return page;
}

// Answers whom there is something to tell. A client may turn out to be gone then, so they are no longer in
// the list.
void EventWaits::State::Sweep() {
  std::list<Waiting> done;
  std::vector<EventPage> pages;
  for (auto at = waiting.begin(); at != waiting.end();) {
    const auto one = at++;
    auto page = PageFor(*one);
    if (!page) continue;
    pages.push_back(*std::move(page));
    done.splice(done.end(), waiting, one);
    --count;
  }
  ArmTimer();
  size_t place = 0;
  for (const Waiting& one : done) one.wait.exchange->Respond(one.wait.answer(pages[place++]));
}

void EventWaits::State::Forget(uint64_t number) {
  count -= std::erase_if(waiting, [number](const Waiting& one) { return one.number == number; });
  ArmTimer();
}

// For whose time is over first. Without anybody there is none, which would keep the server running.
void EventWaits::State::ArmTimer() {
  timer.cancel();
  if (waiting.empty()) return;
  const auto first = std::ranges::min_element(waiting, {}, &Waiting::until);
  timer.expires_at(first->until);
  timer.async_wait([weak = weak_from_this()](const boost::system::error_code& error) {
    const auto self = weak.lock();
    if (!error && self) self->Sweep();
  });
}

EventWaits::EventWaits(net::io_context& io, ServeBackend* backend)
    : state_(std::make_shared<State>(io, backend)) {
  backend->OnEvents([state = state_] { state->Wake(); });
}

EventWaits::~EventWaits() { state_->backend->OnEvents(nullptr); }

void EventWaits::Add(EventWait wait) {
  const auto until = Steady::now() + std::chrono::milliseconds(wait.wait_ms);
  const auto exchange = wait.exchange;  // whose thread this is
  exchange->Post([weak = std::weak_ptr(state_), wait = std::move(wait), until]() mutable {
    if (const auto state = weak.lock()) state->Add(std::move(wait), until);
  });
}

void EventWaits::End() {
  net::post(state_->io, [weak = std::weak_ptr(state_)] {
    const auto state = weak.lock();
    if (!state) return;
    state->ended = true;
    state->Sweep();
  });
}

}  // namespace larder
