// Fills a new tensor from pieces of files and of messages.
// Rule: no byte is read and no memory taken for a piece before its region was checked against the source as it is and
// the tensor.
//
// What is read beside a rank's own bytes: nothing, except where the part of a line (a row of the source, or a column of
// a transposed one) is shorter than kShortPart and the line's stride at most twice that part; there whole spans are
// read. So a fill reads less than twice the bytes that it uses.
#pragma once
#include <atomic>
#include <cstdint>

#include "core/fill_target.h"
#include "core/message.h"
#include "core/source_files.h"

namespace heddle {

constexpr uint64_t kShortPart = 1024;                 // bytes; about where a system call costs as much as its copy

struct FileCounters {
  std::atomic<uint64_t> read{0};                      // bytes
  std::atomic<uint64_t> used{0};                      // the part of them that went into tensors
};

// Elements of the shape; throws invalid_argument where one is negative or their bytes overflow.
int64_t checked_count(const std::vector<int64_t>& shape, DType dtype);

// Every region of every piece: invalid_argument where it leaves the tensor or the bytes sent, corrupt_file where it
// leaves its file.
void check_pieces(const CreateTensor& message, SourceFiles& files);

// `target`: of a tensor that is all zero. `cancelled` is read between chunks of a few MB: then throws closed.
void fill(FillTarget& target, const CreateTensor& message, SourceFiles& files, FileCounters& counters,
          const std::atomic<bool>& cancelled);

}  // namespace heddle
