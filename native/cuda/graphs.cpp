#include "cuda/graphs.h"

#include <algorithm>

#include "core/error.h"

namespace heddle::cuda {

namespace {

int64_t rounded_up(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

}  // namespace

int64_t bucket_of(int64_t sequences, int64_t max_sequences) {
  int64_t bucket = 1;
  while (bucket < std::min<int64_t>(sequences, 16)) bucket *= 2;
  if (sequences > 16) bucket = rounded_up(sequences, sequences <= 64 ? 8 : sequences <= 256 ? 32 : 64);
  return std::min(bucket, max_sequences);
}

void Graphs::run(const GraphKey& key, uint64_t step_epoch, const std::function<void()>& submit) {
  Entry* entry = find(key);
  if (!entry) {  // sizes scratch memory, tunes, loads kernels: nothing of which a capture may do
    entries_.push_back({key, false, {}, {}, ++uses_});
    ++eager_.count;
    const Lockstep lockstep(communicator_);
    return submit();
  }
  entry->last_use = ++uses_;
  const Epochs now{device_.scratch_epoch(), step_epoch};
  if (agreed_ != eager_.count || agreed_step_ != step_epoch) agree(now);
  if (!entry->attempted) build(*entry, now, submit);
  // Epochs differ here only where eager steps in place of a failed capture moved memory of this rank alone.
  if (!entry->graph || entry->epochs != now) return submit();
  check(cudaGraphLaunch(entry->graph.get(), device_.stream()), "graph");
}

size_t Graphs::captured() const {
  return static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), [](const Entry& entry) { return bool(entry.graph); }));
}

Graphs::Entry* Graphs::find(const GraphKey& key) {
  const auto found = std::find_if(entries_.begin(), entries_.end(), [&](const Entry& entry) { return entry.key == key; });
  return found == entries_.end() ? nullptr : &*found;
}

// Where memory moved on one rank, all capture anew.
void Graphs::agree(const Epochs& now) {
  agreed_ = eager_.count;
  agreed_step_ = now.step;
  if (std::none_of(entries_.begin(), entries_.end(), [](const Entry& entry) { return entry.attempted; })) return;
  const auto moved = [&](const Entry& entry) { return entry.attempted && entry.epochs != now; };
  const char stale = std::any_of(entries_.begin(), entries_.end(), moved);
  std::vector<char> all(static_cast<size_t>(communicator_.size()));
  communicator_.exchange(&stale, 1, all.data());
  if (std::find(all.begin(), all.end(), char{1}) != all.end()) drop_all();
}

void Graphs::drop_all() {
  check(cudaStreamSynchronize(device_.stream()), "graph");  // the last step may still run in one of them
  for (Entry& entry : entries_) {
    entry.graph = {};
    entry.attempted = false;
  }
}

void Graphs::make_room() {
  const auto attempted = [](const Entry& entry) { return entry.attempted; };
  if (static_cast<size_t>(std::count_if(entries_.begin(), entries_.end(), attempted)) < kMostGraphs) return;
  Entry* oldest = nullptr;
  for (Entry& entry : entries_) {
    if (entry.attempted && (!oldest || entry.last_use < oldest->last_use)) oldest = &entry;
  }
  check(cudaStreamSynchronize(device_.stream()), "graph");
  oldest->graph = {};
  oldest->attempted = false;
}

// The barrier comes whether or not the capture worked here: the peers wait in it.
void Graphs::build(Entry& entry, const Epochs& now, const std::function<void()>& submit) {
  make_room();
  entry.attempted = true;
  entry.epochs = now;
  try {
    entry.graph = capture(submit);
  } catch (const Error& error) {
    failure_ = error.what();
  }
  communicator_.barrier();
}

GraphExec Graphs::capture(const std::function<void()>& submit) {
  const Graph graph = record(submit);
  cudaGraphExec_t made = nullptr;
  check(cudaGraphInstantiate(&made, graph.get(), 0), "graph");
  GraphExec exec(made);
  check(cudaGraphUpload(exec.get(), device_.stream()), "graph");
  check(cudaStreamSynchronize(device_.stream()), "graph");
  return exec;
}

// Ends the capture in any case: a stream that is left capturing is of no more use.
Graph Graphs::record(const std::function<void()>& submit) {
  check(cudaStreamBeginCapture(device_.stream(), cudaStreamCaptureModeThreadLocal), "graph");
  cudaGraph_t recorded = nullptr;
  try {
    submit();
  } catch (...) {
    (void)cudaStreamEndCapture(device_.stream(), &recorded);
    const Graph discarded(recorded);
    (void)cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(device_.stream(), &recorded), "graph");
  return Graph(recorded);
}

}  // namespace heddle::cuda
