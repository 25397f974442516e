// How a backend runs a compiled program. Speed hides here: fusion, graphs and overlap change no message and no TypeScript.
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "core/message.h"

namespace heddle {

struct CompiledNode;

// A program as every backend gets it: checked nodes in order, without places in memory.
struct ProgramPlan {
  std::vector<std::shared_ptr<CompiledNode>> nodes;
  int64_t max_tokens = 0;
  int64_t max_sequences = 0;
};

// One rank's way of running one program, used by that rank's thread alone. After an error that left the ranks out of step it is only
// destroyed, steps under way or not.
class Executor {
 public:
  virtual ~Executor() = default;

  virtual size_t workspace_bytes() const = 0;

  // True where another step may be started before `finish` of the last: at most two are then under way.
  virtual bool overlaps() const { return false; }

  // Submits a step that passed Program::check. invalid_argument means that nothing was submitted, on every rank alike;
  // any other error leaves the ranks out of step. `cancelled` is read between operations; when it is set: closed.
  virtual void start(const Step& step, const std::atomic<bool>& cancelled) = 0;

  // Whether `finish` would return at once. While it would not, a rank looks for a step to start meanwhile.
  virtual bool ready() const { return true; }

  // Waits for the oldest step that was started and gives its tokens and, on rank 0, its outputs. Every error leaves the ranks out of step.
  virtual RunResult finish(const std::atomic<bool>& cancelled) = 0;
};

}  // namespace heddle
