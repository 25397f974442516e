// A message that grows, and the same message as it came from every rank: what is put first is taken first.
#pragma once
#include <cstring>
#include <vector>

#include "core/communicator.h"

namespace heddle::cpu {

class Exchange {
 public:
  explicit Exchange(Communicator& communicator) : communicator_(communicator) {}

  template <class T>
  void put(const T* values, size_t count) {
    const auto* bytes = reinterpret_cast<const char*>(values);
    mine_.insert(mine_.end(), bytes, bytes + count * sizeof(T));
  }
  void run() {
    all_.resize(mine_.size() * static_cast<size_t>(communicator_.size()));
    communicator_.exchange(mine_.data(), mine_.size(), all_.data());
  }
  // The next `count` values of every rank, rank after rank: what the put of the same place wrote there.
  template <class T>
  std::vector<T> take(size_t count) {
    const auto ranks = static_cast<size_t>(communicator_.size());
    std::vector<T> values(count * ranks);
    for (size_t rank = 0; count > 0 && rank < ranks; ++rank) {
      std::memcpy(values.data() + rank * count, all_.data() + rank * mine_.size() + taken_, count * sizeof(T));
    }
    taken_ += count * sizeof(T);
    return values;
  }

 private:
  Communicator& communicator_;
  std::vector<char> mine_;
  std::vector<char> all_;
  size_t taken_ = 0;
};

}  // namespace heddle::cpu
