#include "comm/local/hub.h"

#include <thread>

namespace heddle::comm {

namespace {

// Pauses: some 200 to 700 µs. Longer than waking a sleeper costs, on purpose: ranks that read memory share its bandwidth unevenly
// from one layer to the next, and each sleep in such a wait came back late (3 to 5 % of a decode step with 2000 pauses).
constexpr int kSpins = 16000;

}  // namespace

Hub::Hub(int size, const LocalOptions& options)
    : size_(size),
      timeout_(options.timeout),
      barrier_(size, size <= usable_cores() ? kSpins : 0, options.timeout),
      seats_(std::make_unique<Seat[]>(static_cast<size_t>(size))) {}

std::string Hub::reason() const {
  const std::lock_guard lock(reason_mutex_);
  return reason_;
}

void Hub::abort(const std::string& reason) noexcept {
  try {
    const std::lock_guard lock(reason_mutex_);
    if (!aborted()) reason_ = reason;
    aborted_.store(true, std::memory_order_seq_cst);
  } catch (...) {  // no memory for the reason: an abort without one
    aborted_.store(true, std::memory_order_seq_cst);
  }
  barrier_.abort();
}

void Hub::retreat(int rank) {
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank) continue;
    while (seat(peer).touching.load(std::memory_order_seq_cst))
      std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
}

}  // namespace heddle::comm
