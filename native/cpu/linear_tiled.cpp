// Drives the tile kernels: yᵀ = weight · xᵀ in blocks of rows of x, weight rows and depth.
// Blocks are sized for the first two caches: a panel for the first, packed x of one depth block for the second.
// Where the contraction is in pieces, a block of yᵀ gets a sum for each, and these are added as core/sum_tree.h says before it leaves.
#include <algorithm>
#include <bit>
#include <numeric>
#include <span>

#include "cpu/linear_kernels.h"

namespace heddle::cpu {
namespace {

constexpr int64_t kMaxColumns = 256;    // rows of x in one block: a depth block of them fills half a second cache of 1 MB
constexpr int64_t kMaxBlockRows = 240;  // weight rows of one block, about: bounds the block of yᵀ
constexpr int64_t kLine = 64;
constexpr int64_t kSetSpan = 4096;  // bytes after which addresses meet the same sets of a first cache of 64 sets

int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// Lengths of the pieces of the contraction.
using Pieces = std::span<const int64_t>;

// One block of rows of x, and where its parts stand in the scratch memory.
struct Block {
  const LinearArgs& args;
  const Pieces pieces;
  const TileKernel& kernel;
  int64_t first_column;  // row of x
  int64_t column_count;
  int64_t padded_columns;
  int64_t block_rows;  // weight rows of a block, a multiple of panel_rows
  std::byte* columns;  // packed x, depth block after depth block
  std::byte* panel;
  float* c;  // [block_rows][c_stride], for as many sums as wait to be added at once
  int64_t c_stride;

  float* sum(int index) const { return c + index * block_rows * c_stride; }
};

// A part of one piece of the contraction that goes at once.
struct DepthBlock {
  int64_t k;  // first element
  int64_t depth;
  bool first;       // of its piece
  int64_t packed;   // elements of packed x before it, for each column
};

// The depth blocks of the piece of `length` elements from `k` on. `packed` moves on behind them.
template <class Visit>
void for_each_depth_block(const TileKernel& kernel, int64_t k, int64_t length, int64_t& packed, Visit visit) {
  for (int64_t done = 0; done < length; done += kernel.depth_block) {
    const int64_t depth = std::min(kernel.depth_block, length - done);
    visit(DepthBlock{k + done, depth, done == 0, packed});
    packed += round_up(depth, kernel.depth_multiple);
  }
}

int64_t weight_row_bytes(const LinearArgs& args) { return args.weight_row() * static_cast<int64_t>(size_of(args.weight_dtype)); }

// Tiles of a block: the widest while they fill, then the narrowest that holds the rest.
int tile_width_index(const TileKernel& kernel, int64_t columns_left) {
  for (int i = kMaxTileWidths - 1; i > 0; --i) {
    if (kernel.run[i] != nullptr && columns_left <= kernel.widths[i]) return i;
  }
  return 0;
}

int64_t padded_width(const TileKernel& kernel, int64_t columns) {
  int64_t width = 0;
  while (columns > width) width += kernel.widths[tile_width_index(kernel, columns - width)];
  return width;
}

int64_t padded_depth(const TileKernel& kernel, int64_t depth) { return round_up(depth, kernel.depth_multiple); }

void pack_columns(const Block& block) {
  const LinearArgs& args = block.args;
  const TileKernel& kernel = block.kernel;
  std::byte* target = block.columns;
  int64_t k = 0, packed = 0;
  for (const int64_t length : block.pieces) {
    for_each_depth_block(kernel, k, length, packed, [&](const DepthBlock& part) {
      for (int64_t column = 0; column < block.column_count;) {
        const int64_t width = kernel.widths[tile_width_index(kernel, block.column_count - column)];
        const float* x = args.x + (block.first_column + column) * args.x_row() + part.k;
        kernel.pack_columns({x, args.x_row(), std::min(width, block.column_count - column), part.depth, width,
                             args.round_inputs, target});
        target += padded_depth(kernel, part.depth) * width * kernel.x_element_size;
        column += width;
      }
    });
    k += length;
  }
}

// Weight rows for the tiles: a packed copy, or the weights themselves.
struct Panel {
  const std::byte* weights;
  int64_t stride;
  int64_t step;
  bool first;  // else c is added to
  int64_t depth;
};

Panel panel_of(const Block& block, const std::byte* weights, int64_t rows, const DepthBlock& part) {
  const TileKernel& kernel = block.kernel;
  const int64_t row_bytes = weight_row_bytes(block.args);
  const bool whole = rows == kernel.panel_rows && part.depth % kernel.depth_multiple == 0;
  // Rows a multiple of kSetSpan apart crowd into the same few cache sets.
  const bool direct = whole && block.column_count <= kernel.direct_columns && row_bytes % kSetSpan != 0;
  if (direct) return {weights, row_bytes, kLine, part.first, part.depth};
  kernel.pack_panel({weights, row_bytes, rows, part.depth, block.panel});
  return {block.panel, kernel.panel_stride, kernel.panel_step, part.first, part.depth};
}

// All tiles of one panel. Meanwhile the weights of the next panel come in, spread evenly over the tiles.
void run_panel(const Block& block, const Panel& panel, const std::byte* columns, float* c, const std::byte* next,
               int64_t next_rows) {
  const TileKernel& kernel = block.kernel;
  const int64_t row_bytes = weight_row_bytes(block.args);
  const int64_t depth = padded_depth(kernel, panel.depth);
  const int64_t tile_count = (block.column_count + kernel.widths[0] - 1) / kernel.widths[0];
  const int64_t share = (next_rows + tile_count - 1) / tile_count;
  int64_t fetched = 0;
  for (int64_t column = 0; column < block.column_count;) {
    const int index = tile_width_index(kernel, block.column_count - column);
    const int64_t fetch = std::min(share, next_rows - fetched);
    kernel.run[index]({panel.weights, panel.stride, panel.step, columns, depth, c + column, block.c_stride, !panel.first,
                       next + fetched * row_bytes, row_bytes, fetch});
    fetched += fetch;
    columns += depth * kernel.widths[index] * kernel.x_element_size;
    column += kernel.widths[index];
  }
}

const std::byte* weight_at(const LinearArgs& args, int64_t row, int64_t k) {
  return static_cast<const std::byte*>(args.weight) + row * weight_row_bytes(args) +
         k * static_cast<int64_t>(size_of(args.weight_dtype));
}

// One depth block of the weight rows [first, first + count): c += panel by panel.
void run_depth_block(const Block& block, int64_t first, int64_t count, const DepthBlock& part, float* c) {
  const LinearArgs& args = block.args;
  const TileKernel& kernel = block.kernel;
  const std::byte* columns = block.columns + part.packed * block.padded_columns * kernel.x_element_size;
  for (int64_t row = 0; row < count; row += kernel.panel_rows) {
    const int64_t rows = std::min(kernel.panel_rows, count - row);
    const Panel panel = panel_of(block, weight_at(args, first + row, part.k), rows, part);
    const int64_t next_row = first + row + kernel.panel_rows;
    const int64_t next_rows = std::clamp<int64_t>(args.out - next_row, 0, kernel.panel_rows);
    run_panel(block, panel, columns, c + row * block.c_stride, weight_at(args, next_row, part.k), next_rows);
  }
}

// sum(into) += the sum behind it.
void add_next(const Block& block, int64_t count, int into) {
  float* sum = block.sum(into);
  const float* next = block.sum(into + 1);
  for (int64_t row = 0; row < count; ++row, sum += block.c_stride, next += block.c_stride) {
    for (int64_t i = 0; i < block.padded_columns; ++i) sum[i] += next[i];
  }
}

// sum(0) = all pieces of the weight rows [first, first + count). Sums wait until a second one of as many pieces is there, as the digits of a
// binary counter do; those that are left are added from the last on. That is the tree, whatever the number of pieces.
void run_pieces(const Block& block, int64_t first, int64_t count) {
  int64_t k = 0, packed = 0;
  int waiting = 0;
  for (size_t i = 0; i < block.pieces.size(); ++i) {
    float* c = block.sum(waiting);
    const int64_t length = block.pieces[i];
    if (length == 0) std::fill_n(c, count * block.c_stride, 0.0f);
    for_each_depth_block(block.kernel, k, length, packed,
                         [&](const DepthBlock& part) { run_depth_block(block, first, count, part, c); });
    k += length;
    for (int pairs = std::countr_zero(i + 1); pairs > 0; --pairs) add_next(block, count, --waiting);
    ++waiting;
  }
  for (--waiting; waiting > 0;) add_next(block, count, --waiting);
}

void run_block(const Block& block) {
  const LinearArgs& args = block.args;
  pack_columns(block);
  for (int64_t first = 0; first < args.out; first += block.block_rows) {
    const int64_t count = std::min(block.block_rows, args.out - first);
    run_pieces(block, first, count);
    block.kernel.transpose(block.c, block.c_stride, count, block.column_count,
                           args.y + block.first_column * args.y_row() + first, args.y_row());
  }
}

void run(const LinearArgs& args, Pieces pieces, const TileKernel& kernel, LinearScratch& scratch) {
  // Blocks of equal size rather than full ones and a small rest.
  const int64_t block_count = (args.rows + kMaxColumns - 1) / kMaxColumns;
  const int64_t columns = std::min(round_up((args.rows + block_count - 1) / block_count, kernel.widths[0]), args.rows);
  const int64_t padded_columns = padded_width(kernel, columns);
  const int64_t block_rows =
      std::min(round_up(args.out, kernel.panel_rows), kMaxBlockRows / kernel.panel_rows * kernel.panel_rows);
  const int64_t c_stride = padded_columns + kLine / 4;  // rows of c start at different cache sets
  const auto sums = static_cast<int64_t>(std::bit_width(pieces.size()));
  const int64_t depth = std::accumulate(pieces.begin(), pieces.end(), int64_t{0}, [&](int64_t sum, int64_t length) {
    return sum + padded_depth(kernel, length);
  });
  const int64_t columns_bytes = depth * padded_columns * kernel.x_element_size;
  const int64_t panel_bytes = round_up(kernel.panel_bytes, kLine);

  std::byte* memory =
      scratch.reserve(static_cast<size_t>(columns_bytes + panel_bytes + sums * block_rows * c_stride * 4 + 3 * kLine));
  std::byte* panel = memory + round_up(columns_bytes, kLine);
  float* c = reinterpret_cast<float*>(panel + panel_bytes);
  if (kernel.begin != nullptr) kernel.begin();
  for (int64_t first = 0; first < args.rows; first += columns) {
    const int64_t count = std::min(columns, args.rows - first);
    run_block({args, pieces, kernel, first, count, padded_width(kernel, count), block_rows, memory, panel, c, c_stride});
  }
  if (kernel.end != nullptr) kernel.end();
}

}  // namespace

void run_tiled(const LinearArgs& args, const TileKernel& kernel, LinearScratch& scratch) {
  run(args, Pieces(&args.in, 1), kernel, scratch);
}

void run_tiled_chunks(const LinearArgs& args, const Chunks& chunks, const TileKernel& kernel, LinearScratch& scratch) {
  run(args, chunks, kernel, scratch);
}

}  // namespace heddle::cpu
