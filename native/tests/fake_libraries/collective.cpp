#include "collective.h"

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "core/dtype.h"
#include "cuda/nv_abi.h"
#include "find_emulator.h"

namespace heddle::fake {
namespace {

using namespace cuda::nvabi;

template <class T>
double read_as(const void* data, size_t i) {
  return static_cast<double>(static_cast<const T*>(data)[i]);
}

double read(const void* data, int type, size_t i) {
  switch (type) {
    case ncclInt8: return read_as<int8_t>(data, i);
    case ncclInt32: return read_as<int32_t>(data, i);
    case ncclInt64: return read_as<int64_t>(data, i);
    case ncclFloat16: return float16_to_float(static_cast<const uint16_t*>(data)[i]);
    case ncclBfloat16: return bfloat16_to_float(static_cast<const uint16_t*>(data)[i]);
    default: return read_as<float>(data, i);
  }
}

void write(void* data, int type, size_t i, double value) {
  switch (type) {
    case ncclInt8: static_cast<int8_t*>(data)[i] = static_cast<int8_t>(value); break;
    case ncclInt32: static_cast<int32_t*>(data)[i] = static_cast<int32_t>(value); break;
    case ncclInt64: static_cast<int64_t*>(data)[i] = static_cast<int64_t>(value); break;
    case ncclFloat16: static_cast<uint16_t*>(data)[i] = float_to_float16(static_cast<float>(value)); break;
    case ncclBfloat16: static_cast<uint16_t*>(data)[i] = float_to_bfloat16(static_cast<float>(value)); break;
    default: static_cast<float*>(data)[i] = static_cast<float>(value);
  }
}

size_t size_of_type(int type) {
  return type == ncclInt8 ? 1 : type == ncclFloat16 || type == ncclBfloat16 ? 2 : type == ncclInt64 ? 8 : 4;
}

double combined(int op, double a, double b) {
  switch (op) {
    case ncclProd: return a * b;
    case ncclMax: return std::max(a, b);
    case ncclMin: return std::min(a, b);
    default: return a + b;
  }
}

bool alike(const Collective& a, const Collective& b) {
  const bool same_root = a.root == b.root || a.kind == Kind::send_receive;
  return a.kind == b.kind && a.count == b.count && a.type == b.type && a.op == b.op && same_root;
}

std::vector<unsigned char> reduced(const std::vector<const Collective*>& work, size_t count) {
  const Collective& first = *work.front();
  std::vector<unsigned char> result(count * size_of_type(first.type));
  for (size_t i = 0; i < count; ++i) {
    double value = read(first.send, first.type, i);
    for (size_t rank = 1; rank < work.size(); ++rank) value = combined(first.op, value, read(work[rank]->send, first.type, i));
    write(result.data(), first.type, i, first.op == ncclAvg ? value / static_cast<double>(work.size()) : value);
  }
  return result;
}

std::vector<unsigned char> gathered(const std::vector<const Collective*>& work, size_t bytes) {
  std::vector<unsigned char> result(bytes * work.size());
  for (size_t rank = 0; rank < work.size() && bytes > 0; ++rank) std::memcpy(result.data() + rank * bytes, work[rank]->send, bytes);
  return result;
}

// What each rank receives; false: one waits for a rank that sends to another, and would wait for ever.
bool transferred(const std::vector<const Collective*>& work, size_t bytes, std::vector<std::vector<unsigned char>>& received) {
  received.resize(work.size());
  for (size_t rank = 0; rank < work.size(); ++rank) {
    const int from = work[rank]->from;
    const int to = work[rank]->root;
    if (to >= 0 && work[static_cast<size_t>(to)]->from != static_cast<int>(rank)) return false;
    if (from < 0) continue;
    const Collective& sender = *work[static_cast<size_t>(from)];
    if (sender.root != static_cast<int>(rank)) return false;
    const auto* data = static_cast<const unsigned char*>(sender.send);
    received[rank].assign(data, data + bytes);
  }
  return true;
}

}  // namespace

std::shared_ptr<Member> World::join(int rank, int device) {
  const std::lock_guard lock(mutex_);
  if (joined_[static_cast<size_t>(rank)]) return nullptr;
  joined_[static_cast<size_t>(rank)] = true;
  if (std::count(devices_.begin(), devices_.end(), device) > 0) refused_ = true;
  devices_.push_back(device);
  changed_.notify_all();
  return std::make_shared<Member>(shared_from_this(), rank, device);
}

// Results are complete before the first is written, since a buffer may be both sent and received.
void World::run() {
  const Collective& first = *work_.front();
  for (const Collective* collective : work_) {
    if (alike(first, *collective)) continue;
    std::fprintf(stderr, "fake NCCL: ranks called different collectives\n");
    broken_ = true;
    return;
  }
  const size_t bytes = first.count * size_of_type(first.type);
  if (first.kind == Kind::send_receive) {
    std::vector<std::vector<unsigned char>> received;
    broken_ = !transferred(work_, bytes, received);
    for (size_t rank = 0; rank < work_.size() && !broken_; ++rank) {
      if (!received[rank].empty()) std::memcpy(work_[rank]->receive, received[rank].data(), bytes);
    }
    return;
  }
  std::vector<unsigned char> result;
  switch (first.kind) {
    case Kind::all_reduce: result = reduced(work_, first.count); break;
    case Kind::reduce_scatter: result = reduced(work_, first.count * work_.size()); break;
    case Kind::all_gather: result = gathered(work_, bytes); break;
    case Kind::send_receive: break;
    case Kind::broadcast: result = gathered({work_[static_cast<size_t>(first.root)]}, bytes); break;
  }
  for (size_t rank = 0; rank < work_.size() && bytes > 0; ++rank) {
    const size_t begin = first.kind == Kind::reduce_scatter ? rank * bytes : 0;
    std::memcpy(work_[rank]->receive, result.data() + begin, first.kind == Kind::all_gather ? bytes * work_.size() : bytes);
  }
}

int Member::size() const { return world_->size(); }

bool Member::started() const {
  const std::lock_guard lock(world_->mutex_);
  return world_->complete();
}
bool Member::refused() const {
  const std::lock_guard lock(world_->mutex_);
  return world_->refused_;
}
bool Member::broken() const {
  const std::lock_guard lock(world_->mutex_);
  return world_->broken_;
}
bool Member::ready() const {
  const std::lock_guard lock(world_->mutex_);
  return world_->complete() && !world_->refused_ && !aborted_;
}

bool Member::wait_for_all() {
  std::unique_lock lock(world_->mutex_);
  world_->changed_.wait(lock, [&] { return world_->complete(); });
  return !world_->refused_;
}

void Member::abort() {
  const std::lock_guard lock(world_->mutex_);
  aborted_ = true;
  world_->changed_.notify_all();
}

void Member::arrive(const Collective& collective) {
  const std::lock_guard lock(world_->mutex_);
  const auto rank = static_cast<size_t>(rank_);
  if (aborted_) return;
  if (static_cast<long>(++collectives_) == setting("HEDDLE_FAKE_NCCL_BREAK", 0)) world_->broken_ = true;
  finished_ = world_->finished_;
  world_->copies_[rank] = collective;
  world_->work_[rank] = &world_->copies_[rank];
  if (world_->broken_ || std::count(world_->work_.begin(), world_->work_.end(), nullptr) > 0) return;
  world_->run();
  if (world_->broken_) return;
  std::fill(world_->work_.begin(), world_->work_.end(), nullptr);
  ++world_->finished_;
  world_->changed_.notify_all();
}

void Member::finish() {
  std::unique_lock lock(world_->mutex_);
  world_->changed_.wait(lock, [&] { return aborted_ || world_->finished_ > finished_; });
  if (world_->finished_ == finished_) world_->work_[static_cast<size_t>(rank_)] = nullptr;  // aborted: its buffers may go
}

}  // namespace heddle::fake
