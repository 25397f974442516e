#include "comm/local/local.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <numeric>

#include "comm/local/checks.h"
#include "comm/local/hub.h"
#include "comm/local/sum.h"
#include "core/error.h"

namespace heddle::comm {

namespace {

enum class Kind : uint8_t { all_reduce, all_gather, reduce_scatter, send_receive, exchange };

const char* name_of(Kind kind) {
  switch (kind) {
    case Kind::all_reduce: return "all-reduce";
    case Kind::all_gather: return "all-gather";
    case Kind::reduce_scatter: return "reduce-scatter";
    case Kind::send_receive: return "send-receive";
    case Kind::exchange: return "exchange";
  }
  return "collective";
}

// One collective as its ranks must agree on it; travels as the note of the barrier.
struct Signature {
  Kind kind;
  DType dtype;
  uint64_t bytes;

  uint64_t note() const { return bytes << 8 | static_cast<uint64_t>(dtype) << 4 | static_cast<uint64_t>(kind); }
  static Signature of(uint64_t note) {
    return {static_cast<Kind>(note & 15), static_cast<DType>(note >> 4 & 15), note >> 8};
  }
  std::string text() const { return std::string("(") + std::to_string(bytes) + " B, " + heddle::name_of(dtype) + ")"; }
};

std::string seconds(std::chrono::milliseconds duration) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.1f s", static_cast<double>(duration.count()) / 1000);
  return text;
}

class LocalCommunicator final : public Communicator {
 public:
  LocalCommunicator(int rank, std::shared_ptr<Hub> hub) : rank_(rank), hub_(std::move(hub)) {
    sources_.resize(static_cast<size_t>(size()));
  }

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  void abort(const std::string& reason) noexcept override { hub_->abort(reason); }

  void all_reduce(View x) override {
    if (size() == 1) return;
    const size_t count = static_cast<size_t>(x.rows * x.width);
    const size_t bytes = count * size_of(x.dtype);
    enter({Kind::all_reduce, x.dtype, bytes});
    if (bytes <= kStagingBytes) {
      std::memcpy(staging_of(rank_), x.data, bytes);
      meet();
      for (int peer = 0; peer < size(); ++peer) sources_[static_cast<size_t>(peer)] = staging_of(peer);
      sum(sources_, x.dtype, count, x.data);
    } else {
      meet_to_touch(x.data);
      reduce_slice(x.dtype, count);
      meet_after_touch();
    }
    leave();
  }

  void all_gather(View x, const std::vector<int64_t>& widths, View y) override {
    check_all_gather(rank_, size(), x, widths, y);
    std::vector<size_t>& bytes = part_bytes_;
    bytes.clear();
    for (const int64_t width : widths) bytes.push_back(static_cast<size_t>(width) * size_of(x.dtype));
    gather({Kind::all_gather, x.dtype, static_cast<uint64_t>(y.rows * y.width) * size_of(y.dtype)}, x.data,
           static_cast<size_t>(x.rows), y.data);
  }

  void reduce_scatter(View x, const std::vector<int64_t>& widths, View y) override {
    check_reduce_scatter(rank_, size(), x, widths, y);
    const size_t bytes = static_cast<size_t>(x.rows * x.width) * size_of(x.dtype);
    if (size() == 1) return copy(x.data, bytes, y.data);
    enter({Kind::reduce_scatter, x.dtype, bytes});
    const int64_t first = std::accumulate(widths.begin(), widths.begin() + rank_, int64_t{0});
    give(x.data, bytes);
    reduce_columns(x, first, y, is_staged(bytes));
    finish(bytes);
  }

  void send_receive(View x, int to, View y, int from) override {
    check_send_receive(size(), x, to, y, from);
    const size_t bytes = static_cast<size_t>(x.rows * x.width) * size_of(x.dtype);
    if (size() == 1) return copy(x.data, bytes, y.data);
    enter({Kind::send_receive, x.dtype, bytes});
    own_seat().receiver[number_ & 1].store(to, std::memory_order_relaxed);
    give(x.data, bytes);
    expect_receiver(from);
    copy(given_by(from, is_staged(bytes)), bytes, y.data);
    finish(bytes);
  }

  void exchange(const void* mine, size_t bytes, void* all) override {
    part_bytes_.assign(static_cast<size_t>(size()), bytes);
    gather({Kind::exchange, DType::float32, bytes}, const_cast<void*>(mine), 1, all);
  }

 private:
  std::byte* staging_of(int rank) const { return hub_->seat(rank).staging[number_ & 1]; }
  Seat& own_seat() const { return hub_->seat(rank_); }
  void* data_of(int rank) const { return hub_->seat(rank).data.load(std::memory_order_relaxed); }

  void enter(Signature signature) {
    signature_ = signature;
    ++number_;
    own_seat().entered.store(number_, std::memory_order_relaxed);
  }

  void leave() { own_seat().finished.store(number_, std::memory_order_relaxed); }

  // Waits for every rank to arrive at the same point of the same collective.
  void meet() {
    hub_->barrier().arrive(rank_, signature_.note());
    const Barrier::Outcome outcome = hub_->barrier().wait(rank_);
    if (outcome == Barrier::Outcome::aborted) fail_aborted();
    if (outcome == Barrier::Outcome::timed_out) fail(ErrorCode::timeout, timeout_text());
    for (int peer = 0; peer < size(); ++peer) {
      const uint64_t note = hub_->barrier().note_of(peer, rank_);
      if (note != signature_.note()) fail(ErrorCode::collective_failed, mismatch_text(peer, Signature::of(note)));
    }
  }

  // After it the buffers that all ranks gave may be touched, until meet_after_touch.
  void meet_to_touch(void* mine) {
    own_seat().data.store(mine, std::memory_order_relaxed);
    meet();
    own_seat().touching.store(true, std::memory_order_seq_cst);
    if (!hub_->aborted()) return;
    own_seat().touching.store(false, std::memory_order_release);
    fail_aborted();
  }

  void meet_after_touch() {
    own_seat().touching.store(false, std::memory_order_release);
    meet();
  }

  // Small messages are staged, and then one meeting is enough; of large ones peers read the memory itself.
  static bool is_staged(size_t bytes) { return bytes <= kStagingBytes; }
  void give(void* mine, size_t bytes) {
    if (!is_staged(bytes)) return meet_to_touch(mine);
    copy(mine, bytes, staging_of(rank_));
    meet();
  }
  const std::byte* given_by(int peer, bool staged) const {
    return staged ? staging_of(peer) : static_cast<const std::byte*>(data_of(peer));
  }
  void finish(size_t bytes) {
    if (!is_staged(bytes)) meet_after_touch();
    leave();
  }

  static void copy(const void* from, size_t bytes, void* to) {
    if (bytes > 0 && from != to) std::memcpy(to, from, bytes);
  }

  // y := the sum of what all ranks gave, of the columns of x from `first` on. No peer reads these columns of this rank's
  // x, so y may lie there.
  void reduce_columns(View x, int64_t first, View y, bool staged) {
    constexpr int64_t kChunk = 2048;
    const size_t element = size_of(x.dtype);
    alignas(64) std::byte total[kChunk * sizeof(float)];
    for (int64_t row = 0; row < y.rows; ++row) {
      for (int64_t column = 0; column < y.width; column += kChunk) {
        const auto count = static_cast<size_t>(std::min(kChunk, y.width - column));
        const size_t start = static_cast<size_t>(row * x.width + first + column) * element;
        for (int peer = 0; peer < size(); ++peer) {
          sources_[static_cast<size_t>(peer)] = given_by(peer, staged) + start;
        }
        sum(sources_, x.dtype, count, total);
        std::memcpy(static_cast<std::byte*>(y.data) + static_cast<size_t>(row * y.width + column) * element, total,
                    count * element);
      }
    }
  }

  void expect_receiver(int from) {
    const int receiver = hub_->seat(from).receiver[number_ & 1].load(std::memory_order_relaxed);
    if (receiver == rank_) return;
    if (!is_staged(signature_.bytes)) own_seat().touching.store(false, std::memory_order_release);
    fail(ErrorCode::collective_failed, title() + " of rank " + std::to_string(rank_) + " expected to receive from rank " +
                                           std::to_string(from) + ", which sends to rank " + std::to_string(receiver));
  }

  // Adds up this rank's share of the elements and writes it to every rank.
  void reduce_slice(DType dtype, size_t count) {
    constexpr size_t kLine = 64;                      // elements; shares begin at cache lines where the buffers do
    constexpr size_t kChunk = 2048;
    const size_t lines = (count + kLine - 1) / kLine;
    const auto boundary = [&](int part) {
      return std::min(count, lines * static_cast<size_t>(part) / static_cast<size_t>(size()) * kLine);
    };
    const size_t element = size_of(dtype);
    alignas(64) std::byte total[kChunk * sizeof(float)];
    for (size_t start = boundary(rank_); start < boundary(rank_ + 1); start += kChunk) {
      const size_t part = std::min(kChunk, boundary(rank_ + 1) - start);
      for (int peer = 0; peer < size(); ++peer) {
        sources_[static_cast<size_t>(peer)] = static_cast<std::byte*>(data_of(peer)) + start * element;
      }
      sum(sources_, dtype, part, total);
      for (int peer = 0; peer < size(); ++peer) {
        std::memcpy(static_cast<std::byte*>(data_of(peer)) + start * element, total, part * element);
      }
    }
  }

  // Row by row, part_bytes_[rank] bytes from each rank, in rank order.
  void gather(Signature signature, void* mine, size_t rows, void* all) {
    if (size() == 1) return copy(mine, rows * part_bytes_[0], all);
    const size_t largest = rows * *std::max_element(part_bytes_.begin(), part_bytes_.end());
    enter(signature);
    if (largest <= kStagingBytes) {
      const size_t bytes = rows * part_bytes_[static_cast<size_t>(rank_)];
      if (bytes > 0) std::memcpy(staging_of(rank_), mine, bytes);
      meet();
      for (int peer = 0; peer < size(); ++peer) sources_[static_cast<size_t>(peer)] = staging_of(peer);
      copy_parts(rows, all);
    } else {
      meet_to_touch(mine);
      for (int peer = 0; peer < size(); ++peer) sources_[static_cast<size_t>(peer)] = data_of(peer);
      copy_parts(rows, all);
      meet_after_touch();
    }
    leave();
  }

  void copy_parts(size_t rows, void* all) const {
    auto* target = static_cast<std::byte*>(all);
    for (size_t row = 0; row < rows; ++row) {
      for (size_t peer = 0; peer < part_bytes_.size(); ++peer) {
        const size_t bytes = part_bytes_[peer];
        copy(static_cast<const std::byte*>(sources_[peer]) + row * bytes, bytes, target);
        target += bytes;
      }
    }
  }

  std::string title() const {
    return std::string(name_of(signature_.kind)) + " #" + std::to_string(number_) + " " + signature_.text();
  }

  std::string mismatch_text(int peer, Signature other) const {
    return title() + " of rank " + std::to_string(rank_) + " met " + name_of(other.kind) + " " + other.text() +
           " of rank " + std::to_string(peer);
  }

  // One line per rank, and an arrow at those that are missing.
  std::string timeout_text() const {
    std::string text = title() + " not finished after " + std::to_string(hub_->timeout().count()) + " ms";
    for (int peer = 0; peer < size(); ++peer) {
      const uint64_t entered = hub_->seat(peer).entered.load(std::memory_order_relaxed);
      const uint64_t finished = hub_->seat(peer).finished.load(std::memory_order_relaxed);
      text += "\n  rank " + std::to_string(peer) + "  entered #" + std::to_string(entered) + "  finished #" +
              std::to_string(finished);
      if (peer == rank_) {
        text += "  waiting " + seconds(hub_->timeout());
      } else if (!hub_->barrier().caught_up(peer, rank_)) {
        text += (entered < number_ ? "  <-- never reached #" : "  <-- stuck in #") + std::to_string(number_);
      }
    }
    return text;
  }

  [[noreturn]] void fail_aborted() { fail(ErrorCode::peer_failed, hub_->reason()); }

  // Nobody may use this rank's buffers once the error has left the collective.
  [[noreturn]] void fail(ErrorCode code, const std::string& text) {
    hub_->abort(text);
    hub_->retreat(rank_);
    throw Error(code, text);
  }

  int rank_;
  std::shared_ptr<Hub> hub_;
  uint64_t number_ = 0;                               // of the current collective, from 1
  Signature signature_{};
  std::vector<const void*> sources_;                  // [size]; kept, so that a collective allocates nothing
  std::vector<size_t> part_bytes_;                    // [size] of a gather: bytes of a row
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> create_local(int size, const LocalOptions& options) {
  if (size < 1)
    throw Error(ErrorCode::invalid_argument,
                "create_local: expected a size of at least 1, got " + std::to_string(size));
  const auto hub = std::make_shared<Hub>(size, options);
  std::vector<std::unique_ptr<Communicator>> communicators;
  for (int rank = 0; rank < size; ++rank) communicators.push_back(std::make_unique<LocalCommunicator>(rank, hub));
  return communicators;
}

}  // namespace heddle::comm
