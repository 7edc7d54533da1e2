// Readers of events who wait for the next one. No thread waits with them: the engine says when there are
// events, a timer when somebody's time is over.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "serve/backend.h"
#include "serve/http.h"

namespace boost::asio {
class io_context;
}

namespace larder {

// A reader who has read everything up to `after`.
struct EventWait {
  std::string tenant;
  bool all = false;
  EventCursor after;
  size_t limit = 0;
  int64_t wait_ms = 0;
  std::shared_ptr<Exchange> exchange;
  std::function<HttpResponse(const EventPage&)> answer;
};

class EventWaits {
 public:
  // On the thread of `io`, which outlives this, as the backend does.
  EventWaits(boost::asio::io_context& io, ServeBackend* backend);
  ~EventWaits();
  EventWaits(const EventWaits&) = delete;
  EventWaits& operator=(const EventWaits&) = delete;

  // From any thread. Answers when there are events, with an empty page when its time is over; not at all if
  // the client has left. A reader who falls behind what is remembered gets an empty page, asks again and is
  // told to begin anew.
  void Add(EventWait wait);
  // From any thread: all are answered now, later ones at once.
  void End();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace larder
