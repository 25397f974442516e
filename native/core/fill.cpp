#include "core/fill.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "core/error.h"

namespace heddle {

namespace {

constexpr uint64_t kScratch = 256u << 10;  // bytes read at once where elements are converted or picked out of rows
static_assert(2 * kScratch <= kLargestClaim);         // conversion doubles them at most

[[noreturn]] void invalid(const std::string& text) {
  throw Error(ErrorCode::invalid_argument, "CreateTensor: " + text);
}

// base + steps * stride + length; false where that overflows.
bool end_of(uint64_t base, uint64_t steps, uint64_t stride, uint64_t length, uint64_t& end) {
  uint64_t product = 0;
  return !__builtin_mul_overflow(steps, stride, &product) && !__builtin_add_overflow(base, product, &end) &&
         !__builtin_add_overflow(end, length, &end);
}

void check_target(const Piece& piece, int64_t count) {
  if (piece.rows < 0 || piece.row_elements < 0 || piece.target_offset < 0 || piece.target_stride < 0) {
    invalid("expected rows, elements and target offsets of at least 0");
  }
  if (piece.rows == 0 || piece.row_elements == 0) return;
  uint64_t end = 0;
  const bool fits = end_of(static_cast<uint64_t>(piece.target_offset), static_cast<uint64_t>(piece.rows - 1),
                           static_cast<uint64_t>(piece.target_stride), static_cast<uint64_t>(piece.row_elements), end);
  if (fits && end <= static_cast<uint64_t>(count)) return;
  invalid("expected a piece inside the tensor's " + std::to_string(count) + " elements, got " +
          std::to_string(piece.rows) + " rows of " + std::to_string(piece.row_elements) + " from element " +
          std::to_string(piece.target_offset));
}

// Where the source of a piece is: a file or bytes, of a known size.
class Source {
 public:
  Source(const Piece& piece, SourceFiles& files) : bytes_(piece.path.empty() ? piece.bytes.get() : nullptr) {
    if (!piece.path.empty()) {
      file_ = &files.open(piece.path);
    } else if (!bytes_) {
      invalid("a piece has neither a path nor bytes");
    }
  }

  bool is_file() const { return file_ != nullptr; }
  uint64_t size() const { return file_ ? file_->size() : bytes_->size(); }

  void read(uint64_t offset, void* target, uint64_t count) const {
    if (file_) {
      file_->read(offset, target, count);
    } else {
      std::memcpy(target, bytes_->data() + offset, count);
    }
  }

  [[noreturn]] void too_short(const std::string& expected) const {
    const std::string got = ", got " + std::to_string(size());
    if (file_)
      throw Error(ErrorCode::corrupt_file,
                  file_->path() + ": expected a file of at least " + expected + " bytes" + got);
    invalid("expected at least " + expected + " bytes to fill a piece" + got);
  }

 private:
  const std::vector<uint8_t>* bytes_;
  SourceFile* file_ = nullptr;
};

void check_source(const Piece& piece, SourceFiles& files) {
  const Source source(piece, files);
  if (piece.rows == 0 || piece.row_elements == 0) return;
  uint64_t line_bytes = 0;
  uint64_t end = 0;
  const bool counts =
      !__builtin_mul_overflow(static_cast<uint64_t>(piece.line_elements()), size_of(piece.dtype), &line_bytes) &&
      end_of(piece.offset, static_cast<uint64_t>(piece.lines() - 1), piece.row_stride, line_bytes, end);
  if (!counts) source.too_short("2^64");
  if (end > source.size()) source.too_short(std::to_string(end));
}

// Fills one piece. Runs of elements go straight into the target or, where the dtypes differ, through a small buffer.
class PieceFiller {
 public:
  PieceFiller(FillTarget& target, DType dtype, const Piece& piece, SourceFiles& files, FileCounters& counters,
              const std::atomic<bool>& cancelled)
      : target_(target),
        dtype_(dtype),
        piece_(piece),
        source_(piece, files),
        counters_(counters),
        cancelled_(cancelled) {}

  void fill() {
    const auto rows = static_cast<uint64_t>(piece_.rows);
    const auto elements = static_cast<uint64_t>(piece_.row_elements);
    if (rows == 0 || elements == 0) return;
    if (piece_.transposed) return fill_transposed(rows, elements);
    const uint64_t row_bytes = elements * size_of(piece_.dtype);
    const bool dense = rows == 1 || (piece_.row_stride == row_bytes && is_dense_in_target());
    if (dense) return fill_run(piece_.offset, offset_of(0), rows * elements);
    const bool spans = row_bytes < kShortPart && piece_.row_stride >= row_bytes && piece_.row_stride <= 2 * row_bytes;
    if (spans) return fill_spans(rows, elements, row_bytes);
    for (uint64_t row = 0; row < rows; ++row)
      fill_run(piece_.offset + row * piece_.row_stride, offset_of(row), elements);
  }

 private:
  bool is_dense_in_target() const { return piece_.target_stride == piece_.row_elements; }

  // In bytes, from the start of the tensor.
  uint64_t offset_of(uint64_t row) const {
    const uint64_t element =
        static_cast<uint64_t>(piece_.target_offset) + row * static_cast<uint64_t>(piece_.target_stride);
    return element * size_of(dtype_);
  }

  char* scratch() {
    if (!scratch_) scratch_.reset(new char[kScratch]);
    return scratch_.get();
  }

  void read(uint64_t offset, void* target, uint64_t bytes) {
    if (cancelled_.load(std::memory_order_relaxed))
      throw Error(ErrorCode::closed, "CreateTensor: the group was closed while it was filled");
    source_.read(offset, target, bytes);
    if (source_.is_file()) counters_.read.fetch_add(bytes, std::memory_order_relaxed);
  }

  void count_used(uint64_t bytes) {
    if (source_.is_file()) counters_.used.fetch_add(bytes, std::memory_order_relaxed);
  }

  // `elements` that lie together in the source and in the tensor.
  void fill_run(uint64_t source, uint64_t target, uint64_t elements) {
    const uint64_t element = size_of(piece_.dtype);
    const bool straight = piece_.dtype == dtype_;
    const uint64_t at_once = (straight ? kLargestClaim : kScratch) / element;
    for (uint64_t done = 0; done < elements;) {
      const uint64_t count = std::min(at_once, elements - done);
      char* part = target_.claim(target + done * size_of(dtype_), count * size_of(dtype_));
      read(source + done * element, straight ? part : scratch(), count * element);
      if (!straight) convert(scratch(), piece_.dtype, part, dtype_, count);
      increment(part, count);
      count_used(count * element);
      done += count;
    }
  }

  // Short rows, with the gaps between them.
  void fill_spans(uint64_t rows, uint64_t elements, uint64_t row_bytes) {
    const uint64_t target_row = elements * size_of(dtype_);
    std::vector<char> aligned(row_bytes);             // of a row: parts begin at any byte of the span
    read_lines(piece_.offset, rows, row_bytes, [&](uint64_t first, uint64_t count, uint64_t pitch) {
      char* together = is_dense_in_target() ? target_.claim(offset_of(first), count * target_row) : nullptr;
      for (uint64_t row = 0; row < count; ++row) {
        const char* part = scratch() + row * pitch;
        char* target = together ? together + row * target_row : target_.claim(offset_of(first + row), target_row);
        if (piece_.dtype == dtype_) {
          std::memcpy(target, part, row_bytes);
        } else {
          std::memcpy(aligned.data(), part, row_bytes);
          convert(aligned.data(), piece_.dtype, target, dtype_, elements);
        }
        increment(target, elements);
      }
      count_used(count * row_bytes);
    });
  }

  // Lines of the source in scratch memory, as many as fit. `use` is told the first, their number, and the bytes from
  // one to the next.
  template <class Use>
  void read_lines(uint64_t offset, uint64_t lines, uint64_t line_bytes, Use&& use) {
    const uint64_t stride = piece_.row_stride;
    const bool together =
        stride == line_bytes || (line_bytes < kShortPart && stride > line_bytes && stride <= 2 * line_bytes);
    const uint64_t pitch = together ? stride : line_bytes;
    const uint64_t at_once = 1 + (kScratch - line_bytes) / pitch;
    for (uint64_t first = 0; first < lines; first += at_once) {
      const uint64_t count = std::min(at_once, lines - first);
      const uint64_t reads = together ? 1 : count;
      const uint64_t bytes = together ? (count - 1) * pitch + line_bytes : line_bytes;
      for (uint64_t i = 0; i < reads; ++i) read(offset + (first + i) * stride, scratch() + i * pitch, bytes);
      use(first, count, pitch);
    }
  }

  // Every column of the source has an element of each row of the tensor: rows are filled in blocks, column by column.
  void fill_transposed(uint64_t rows, uint64_t columns) {
    const uint64_t element = size_of(piece_.dtype);
    const uint64_t columns_at_once = std::min(columns, kLargestClaim / size_of(dtype_));
    const bool whole = is_dense_in_target() && columns_at_once == columns;
    const uint64_t fitting = std::min(kLargestClaim / (columns_at_once * size_of(dtype_)), kScratch / element);
    const uint64_t rows_at_once = whole ? fitting : 1;
    for (uint64_t row = 0; row < rows; row += rows_at_once) {
      for (uint64_t column = 0; column < columns; column += columns_at_once) {
        fill_block(row, std::min(rows_at_once, rows - row), column, std::min(columns_at_once, columns - column));
      }
    }
  }

  // Of more than one row only where these are whole and lie together in the tensor.
  void fill_block(uint64_t first_row, uint64_t rows, uint64_t first_column, uint64_t columns) {
    const uint64_t element = size_of(piece_.dtype);
    const uint64_t target_element = size_of(dtype_);
    char* block =
        target_.claim(offset_of(first_row) + first_column * target_element, rows * columns * target_element);
    const uint64_t offset = piece_.offset + first_column * piece_.row_stride + first_row * element;
    std::vector<char> part;
    read_lines(offset, columns, rows * element, [&](uint64_t first, uint64_t count, uint64_t pitch) {
      part.resize(count * element);
      for (uint64_t row = 0; row < rows; ++row) {
        const char* source = scratch() + row * element;
        for (uint64_t i = 0; i < count; ++i) copy_element(part.data() + i * element, source + i * pitch);
        char* target = block + (row * columns + first) * target_element;
        convert(part.data(), piece_.dtype, target, dtype_, count);
        increment(target, count);
      }
      count_used(count * rows * element);
    });
  }

  void copy_element(char* target, const char* source) const {
    if (size_of(piece_.dtype) == 4) {
      std::memcpy(target, source, 4);
    } else {
      std::memcpy(target, source, 2);
    }
  }

  void increment(char* part, uint64_t elements) const {
    if (piece_.increment == 0) return;
    auto* values = reinterpret_cast<float*>(part);
    for (uint64_t i = 0; i < elements; ++i) values[i] += piece_.increment;
  }

  FillTarget& target_;
  DType dtype_;
  const Piece& piece_;
  Source source_;
  FileCounters& counters_;
  const std::atomic<bool>& cancelled_;
  std::unique_ptr<char[]> scratch_;
};

}  // namespace

int64_t checked_count(const std::vector<int64_t>& shape, DType dtype) {
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  bool empty = false;
  for (const int64_t length : shape) {
    if (length < 0) invalid("expected a shape of lengths of at least 0, got " + std::to_string(length));
    if (length == 0) empty = true;
    // as if a 0 were a 1: the other lengths are multiplied elsewhere too, for the width of a row
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(length, 1), &bytes))
      invalid("expected a shape that fits into memory, got one of more than 2^63 bytes");
  }
  return empty ? 0 : bytes / static_cast<int64_t>(size_of(dtype));
}

void check_pieces(const CreateTensor& message, SourceFiles& files) {
  const int64_t count = checked_count(message.shape, message.dtype);
  for (const Piece& piece : message.pieces) {
    if (piece.increment != 0 && message.dtype != DType::float32) invalid("expected a float32 tensor for an increment");
    check_target(piece, count);
    check_source(piece, files);
  }
}

void fill(FillTarget& target, const CreateTensor& message, SourceFiles& files, FileCounters& counters,
          const std::atomic<bool>& cancelled) {
  for (const Piece& piece : message.pieces)
    PieceFiller(target, message.dtype, piece, files, counters, cancelled).fill();
  target.finish();
}

}  // namespace heddle
