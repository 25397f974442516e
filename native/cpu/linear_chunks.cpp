// Blocks of the result, in each of them piece after piece: their sums stay in the second cache until they are added.
#include "cpu/linear_chunks.h"

#include <algorithm>

#include "core/sum_tree.h"

namespace heddle::cpu {
namespace {

constexpr int64_t kBlockRows = 256;         // rows of x: the block of the tile kernels
constexpr int64_t kFewRows = 24;            // up to here dot kernels stream the weights, and
constexpr int64_t kFewRowsBytes = 1 << 18;  // those of a block are to stay in the second cache: a line may hold parts of two pieces
constexpr int64_t kManyRowsColumns = 480;   // else each packed row of x is to serve many columns
constexpr int64_t kLeastColumns = 16;

int64_t block_columns(const LinearArgs& args) {
  if (args.rows > kFewRows) return kManyRowsColumns;
  const int64_t row_bytes = args.in * static_cast<int64_t>(size_of(args.weight_dtype));
  return std::max(kFewRowsBytes / row_bytes / kLeastColumns, int64_t{1}) * kLeastColumns;
}

// The block [rows, columns] of one piece, `first` elements into the contraction.
void run_piece(const LinearArgs& args, int64_t first, int64_t width, float* sums, LinearScratch& scratch, Isa isa) {
  if (width == 0) {
    std::fill_n(sums, args.rows * args.out, 0.0f);
    return;
  }
  LinearArgs piece = args;
  piece.x = args.x + first;
  piece.weight = static_cast<const std::byte*>(args.weight) + first * static_cast<int64_t>(size_of(args.weight_dtype));
  piece.in = width;
  piece.x_stride = args.x_row();
  piece.weight_stride = args.weight_row();
  piece.y = sums;
  piece.y_stride = args.out;
  linear(piece, scratch, isa);
}

// args.y_stride is that of the whole result.
void run_block(const LinearArgs& args, const Chunks& chunks, const ChunksScratch& scratch, Isa isa) {
  const int64_t size = args.rows * args.out;
  auto* sums = reinterpret_cast<float*>(scratch.sums.reserve(chunks.size() * static_cast<size_t>(size) * sizeof(float)));
  int64_t first = 0;
  for (size_t i = 0; i < chunks.size(); ++i) {
    run_piece(args, first, chunks[i], sums + static_cast<int64_t>(i) * size, scratch.linear, isa);
    first += chunks[i];
  }
  add_tree(sums, size, 0, chunks.size(), size);
  for (int64_t row = 0; row < args.rows; ++row) std::copy_n(sums + row * args.out, args.out, args.y + row * args.y_row());
}

}  // namespace

void add_tree(float* x, int64_t stride, size_t first, size_t count, int64_t length) {
  if (count == 1) return;
  const size_t branch = first_branch(count);
  add_tree(x, stride, first, branch, length);
  add_tree(x, stride, first + branch, count - branch, length);
  float* sum = x + static_cast<int64_t>(first) * stride;
  const float* term = x + static_cast<int64_t>(first + branch) * stride;
  for (int64_t i = 0; i < length; ++i) sum[i] += term[i];
}

void linear_chunks(const LinearArgs& args, const Chunks& chunks, const ChunksScratch& scratch, Isa isa) {
  const int64_t columns = block_columns(args);
  const auto element = static_cast<int64_t>(size_of(args.weight_dtype));
  for (int64_t row = 0; row < args.rows; row += kBlockRows) {
    for (int64_t column = 0; column < args.out; column += columns) {
      LinearArgs block = args;
      block.rows = std::min(kBlockRows, args.rows - row);
      block.out = std::min(columns, args.out - column);
      block.x = args.x + row * args.in;
      block.weight = static_cast<const std::byte*>(args.weight) + column * args.in * element;
      block.y = args.y + row * args.out + column;
      block.y_stride = args.out;
      run_block(block, chunks, scratch, isa);
    }
  }
}

}  // namespace heddle::cpu
