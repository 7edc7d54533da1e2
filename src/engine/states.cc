// Compressed states in the life of a request: found when it is admitted, kept when it ends; and how what is
// derived gives way to those who run.
#include <utility>

#include "engine/core_state.h"
#include "engine/evict_driver.h"

namespace larder {

// Once, so that it goes on with the same one after a preemption.
void EngineCore::FindState(Choice& choice, const EvictMethod& method) {
  const Request& request = choice.live->request;
  if (!request.keep_state || std::exchange(choice.matched, true)) return;
  choice.state = states_->Find(request.tenant, method.spec(), request.prompt);
}

// What the method has left becomes a state, if the request wants one and its prompt has been read.
void EngineCore::KeepState(Choice& choice) {
  const Live& live = *choice.live;
  if (!live.request.keep_state || choice.own == nullptr) return;
  const int64_t rows = choice.own->rows();
  if (rows < live.usage.prompt_tokens) return;
  choice.state = nullptr;  // it may go for this one
  auto& driver = static_cast<EvictDriver&>(*choice.own);
  Status settled = driver.Settle();
  while (!settled && DropUnused(choice)) settled = driver.Settle();
  if (!settled) return states_->Refuse();
  states_->Keep(live.request.tenant, std::span(choice.tokens).first(static_cast<size_t>(rows)),
                driver.Leave(), live.begun);
}

// Makes room that nobody who runs needs: a chunk or a state that is not in use, else those that waiting
// requests have found. Who was preempted would have to begin again without them, and does so only for one
// that has everything to itself. false: there is none.
bool EngineCore::DropUnused(const Choice& needy) {
  const int64_t itself = needy.scheduled.state == SequenceState::kRunning ? 1 : 0;
  const bool alone = scheduler_->running() == itself;
  return derived_->DropOldest() || (LetWaitingGo("", alone) && derived_->DropOldest());
}

// Those who wait for their turn let go of what they have found; "": of every tenant. `preempted`: also those
// who have begun.
bool EngineCore::LetWaitingGo(const std::string& tenant, bool preempted) {
  bool any = false;
  for (const auto& [id, choice] : choices_) {
    if (choice->kv != nullptr || choice->own != nullptr) continue;
    if (choice->spans.empty() && choice->state == nullptr) continue;
    if (choice->scheduled.preemptions > 0 && !preempted) continue;
    if (!tenant.empty() && choice->live->request.tenant != tenant) continue;
    choice->spans.clear();
    choice->state = nullptr;
    choice->matched = false;
    any = true;
  }
  return any;
}

}  // namespace larder
