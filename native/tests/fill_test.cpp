// Filling tensors from files and bytes: every layout and conversion against a plain reference, what is read, and
// hostile input.
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <thread>
#include <utility>

#include "core/fill.h"
#include "core/wait.h"
#include "test.h"

namespace heddle::test {
namespace {

// A file of its own in a folder of its own, removed at the end.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::vector<uint8_t>& bytes) {
    const char* base = std::getenv("TMPDIR");
    folder_ = std::string(base ? base : "/tmp") + "/heddle-fill-XXXXXX";
    check(::mkdtemp(folder_.data()) != nullptr, "a temporary folder");
    path_ = folder_ + "/weights.bin";
    write(bytes);
  }
  ~TemporaryFile() {
    ::unlink(path_.c_str());
    ::rmdir(folder_.c_str());
  }
  const std::string& path() const { return path_; }
  const std::string& folder() const { return folder_; }
  void write(const std::vector<uint8_t>& bytes) const {
    FILE* file = std::fopen(path_.c_str(), "wb");
    if (!check(file != nullptr, "a temporary file")) return;
    if (!bytes.empty())
      check(std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size(), "a temporary file's bytes");
    std::fclose(file);
  }

 private:
  std::string folder_;
  std::string path_;
};

struct Filled {
  std::vector<uint8_t> memory;
  uint64_t read = 0;
  uint64_t used = 0;
};

Filled fill_all(const CreateTensor& message) {
  SourceFiles files;
  FileCounters counters;
  const std::atomic<bool> cancelled{false};
  check_pieces(message, files);
  Filled filled;
  filled.memory.resize(static_cast<size_t>(checked_count(message.shape, message.dtype)) * size_of(message.dtype));
  HostFillTarget target(filled.memory.data());
  fill(target, message, files, counters, cancelled);
  filled.read = counters.read;
  filled.used = counters.used;
  return filled;
}

// Memory of a device that no other thread writes: every claim is staged in memory of exactly its size, and copied at the next call.
class StagedTarget final : public FillTarget {
 public:
  explicit StagedTarget(size_t bytes) : memory_(bytes) {}
  ~StagedTarget() override { check(!finished_ || !staged_, "nothing is left behind"); }

  char* claim(size_t offset, size_t bytes) override {
    copy();
    check(bytes > 0 && bytes <= kLargestClaim && offset + bytes <= memory_.size(), "a claim of ", bytes, " bytes at ", offset);
    largest_ = std::max(largest_, bytes);
    ++claims_;
    staged_.reset(new char[bytes]);
    offset_ = offset;
    bytes_ = bytes;
    return staged_.get();
  }
  void finish() override {
    copy();
    finished_ = true;
  }

  const std::vector<uint8_t>& memory() const { return memory_; }
  size_t largest() const { return largest_; }
  size_t claims() const { return claims_; }
  bool finished() const { return finished_; }
  void fail_after(size_t copies) { copies_left_ = copies; }

 private:
  void copy() {
    if (!staged_) return;
    if (copies_left_-- == 0) throw Error(ErrorCode::device_failed, "StagedTarget: the copy failed");
    std::memcpy(memory_.data() + offset_, staged_.get(), bytes_);
    staged_.reset();
  }

  std::vector<uint8_t> memory_;
  std::unique_ptr<char[]> staged_;
  size_t offset_ = 0;
  size_t bytes_ = 0;
  size_t largest_ = 0;
  size_t claims_ = 0;
  size_t copies_left_ = SIZE_MAX;
  bool finished_ = false;
};

void fill_staged(StagedTarget& target, const CreateTensor& message, bool cancel = false) {
  SourceFiles files;
  FileCounters counters;
  const std::atomic<bool> cancelled{cancel};
  check_pieces(message, files);
  fill(target, message, files, counters, cancelled);
}

std::vector<uint8_t> random_elements(DType dtype, size_t count, uint64_t seed) {
  const std::vector<float> values = Random(seed).uniform_vector(count, -100, 100);
  std::vector<uint8_t> bytes(count * size_of(dtype));
  convert(values.data(), DType::float32, bytes.data(), dtype, count);
  return bytes;
}

// The definition, element by element.
std::vector<uint8_t> reference(const CreateTensor& message, const std::vector<uint8_t>& source) {
  std::vector<uint8_t> memory(static_cast<size_t>(checked_count(message.shape, message.dtype)) *
                              size_of(message.dtype));
  for (const Piece& piece : message.pieces) {
    for (int64_t row = 0; row < piece.rows; ++row) {
      for (int64_t i = 0; i < piece.row_elements; ++i) {
        uint32_t element = 0;
        const auto line = static_cast<uint64_t>(piece.transposed ? i : row);
        const auto place = static_cast<uint64_t>(piece.transposed ? row : i);
        std::memcpy(&element, source.data() + piece.offset + line * piece.row_stride + place * size_of(piece.dtype),
                    size_of(piece.dtype));
        const int64_t target = piece.target_offset + row * piece.target_stride + i;
        uint8_t* kept = memory.data() + static_cast<size_t>(target) * size_of(message.dtype);
        convert(&element, piece.dtype, kept, message.dtype, 1);
        if (piece.increment != 0) *reinterpret_cast<float*>(kept) += piece.increment;
      }
    }
  }
  return memory;
}

// Columns [first, first + width) of a stored matrix, as a shard of its own.
CreateTensor column_shard(const std::string& path, DType stored, DType kept, uint64_t offset, int64_t rows,
                          int64_t columns, int64_t first, int64_t width) {
  CreateTensor message;
  message.dtype = kept;
  message.shape = {rows, width};
  Piece piece;
  piece.path = path;
  piece.dtype = stored;
  piece.offset = offset + static_cast<uint64_t>(first) * size_of(stored);
  piece.rows = rows;
  piece.row_elements = width;
  piece.row_stride = static_cast<uint64_t>(columns) * size_of(stored);
  piece.target_stride = width;
  message.pieces = {piece};
  return message;
}

// Rows [first, first + count) of a matrix that is stored by columns, as a shard of its own.
CreateTensor transposed_shard(const std::string& path, DType stored, DType kept, uint64_t offset, int64_t rows,
                              int64_t columns, int64_t first, int64_t count) {
  CreateTensor message;
  message.dtype = kept;
  message.shape = {count, columns};
  Piece piece;
  piece.path = path;
  piece.dtype = stored;
  piece.offset = offset + static_cast<uint64_t>(first) * size_of(stored);
  piece.rows = count;
  piece.row_elements = columns;
  piece.row_stride = static_cast<uint64_t>(rows) * size_of(stored);
  piece.target_stride = columns;
  piece.transposed = true;
  message.pieces = {piece};
  return message;
}

std::string message_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

}  // namespace

HEDDLE_TEST(fill_equals_the_reference_for_every_layout_and_type) {
  constexpr uint64_t header = 13;  // parts begin at odd bytes
  for (const DType stored : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const DType kept : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const int64_t columns : {1, 7, 64, 3000}) {
        const int64_t rows = columns > 1000 ? 40 : 333;
        std::vector<uint8_t> bytes(header, 0xee);
        const std::vector<uint8_t> elements = random_elements(stored, static_cast<size_t>(rows * columns), 3);
        bytes.insert(bytes.end(), elements.begin(), elements.end());
        const TemporaryFile file(bytes);
        for (const int64_t width : {columns, (columns + 1) / 2, (columns + 7) / 8}) {
          CreateTensor message = column_shard(file.path(), stored, kept, header, rows, columns, columns - width, width);
          const Filled filled = fill_all(message);
          check(filled.memory == reference(message, bytes), name_of(stored), " to ", name_of(kept), ", ", width, " of ",
                columns, " columns");
          check(filled.used == static_cast<uint64_t>(rows * width) * size_of(stored), "bytes used");
          check(filled.read >= filled.used && filled.read <= 2 * filled.used, "read ", filled.read, " to use ",
                filled.used);
          if (width * static_cast<int64_t>(size_of(stored)) >= static_cast<int64_t>(kShortPart) || width == columns) {
            check(filled.read == filled.used, "long parts are read alone");
          }
          StagedTarget staged(filled.memory.size());
          fill_staged(staged, message);
          check(staged.memory() == filled.memory && staged.finished(), "the same through staging");
          message.pieces[0].bytes = std::make_shared<const std::vector<uint8_t>>(bytes);
          message.pieces[0].path.clear();
          const Filled from_bytes = fill_all(message);
          check(from_bytes.memory == filled.memory && from_bytes.read == 0,
                "the same from bytes, without reading a file");
        }
      }
    }
  }
}

HEDDLE_TEST(fill_transposes_what_is_stored_by_columns) {
  constexpr uint64_t header = 13;
  for (const DType stored : {DType::float32, DType::bfloat16, DType::float16}) {
    for (const DType kept : {DType::float32, DType::bfloat16, DType::float16}) {
      for (const auto& [rows, columns] : {std::pair<int64_t, int64_t>{1, 9}, {333, 7}, {7, 333}, {2999, 41}, {1, 1}}) {
        std::vector<uint8_t> bytes(header, 0xee);
        const std::vector<uint8_t> elements = random_elements(stored, static_cast<size_t>(rows * columns), 3);
        bytes.insert(bytes.end(), elements.begin(), elements.end());
        const TemporaryFile file(bytes);
        for (const int64_t count : {rows, (rows + 1) / 2, (rows + 7) / 8}) {
          CreateTensor message = transposed_shard(file.path(), stored, kept, header, rows, columns, rows - count, count);
          const Filled filled = fill_all(message);
          const std::string what = std::string(name_of(stored)) + " to " + name_of(kept) + ", " + std::to_string(count) +
                                   " of " + std::to_string(rows) + " rows";
          check(filled.memory == reference(message, bytes), what);
          check(filled.used == static_cast<uint64_t>(count * columns) * size_of(stored), what, ": bytes used");
          check(filled.read >= filled.used && filled.read <= 2 * filled.used, what, ": read ", filled.read);
          StagedTarget staged(filled.memory.size());
          fill_staged(staged, message);
          check(staged.memory() == filled.memory && staged.finished(), what, ", through staging");
          message.shape = {count, columns + 3};       // rows apart in the tensor
          message.pieces[0].target_stride = columns + 3;
          message.pieces[0].target_offset = 2;
          check(fill_all(message).memory == reference(message, bytes), what, ", rows apart");
        }
      }
    }
  }
}

HEDDLE_TEST(fill_transposes_more_than_one_claim_holds) {
  constexpr int64_t rows = 90000, columns = 40;       // blocks of rows: 14 MB of float32, whose lines exceed the scratch memory
  const std::vector<uint8_t> bytes = random_elements(DType::float32, static_cast<size_t>(rows * columns), 12);
  const TemporaryFile file(bytes);
  for (const auto& [height, width] : {std::pair{rows, columns}, {int64_t{1}, rows * columns}}) {  // and one row of several claims
    const CreateTensor message = transposed_shard(file.path(), DType::float32, DType::float32, 0, height, width, 0, height);
    StagedTarget staged(bytes.size());
    fill_staged(staged, message);
    check(staged.memory() == reference(message, bytes) && staged.claims() > 1, height, " rows of ", width);
  }
}

HEDDLE_TEST(fill_increments_every_element_of_a_float32_tensor) {
  for (const DType stored : {DType::float32, DType::bfloat16, DType::float16}) {
    const std::vector<uint8_t> bytes = random_elements(stored, 30 * 20, 8);
    const TemporaryFile file(bytes);
    for (CreateTensor message : {column_shard(file.path(), stored, DType::float32, 0, 30, 20, 0, 20),
                                 column_shard(file.path(), stored, DType::float32, 0, 30, 20, 4, 11),
                                 transposed_shard(file.path(), stored, DType::float32, 0, 30, 20, 4, 11)}) {
      message.pieces[0].increment = 1;
      check(fill_all(message).memory == reference(message, bytes), name_of(stored));
      message.dtype = DType::bfloat16;
      check_throws(ErrorCode::invalid_argument, [&] { fill_all(message); }, "an increment of bfloat16");
    }
  }
}

// Runs of several claims, straight and converted, and rows whose claims are dense or apart.
HEDDLE_TEST(fill_stages_tensors_of_any_size_in_claims_of_at_most_8_mb) {
  constexpr int64_t columns = 5000;
  constexpr int64_t rows = 1100;                      // 22 MB of float32
  const std::vector<uint8_t> bytes = random_elements(DType::float32, static_cast<size_t>(rows * columns), 11);
  const TemporaryFile file(bytes);
  const auto same = [&](const CreateTensor& message, const char* what) {
    StagedTarget staged(static_cast<size_t>(checked_count(message.shape, message.dtype)) * size_of(message.dtype));
    fill_staged(staged, message);
    check(staged.memory() == reference(message, bytes) && staged.finished(), what);
    return std::pair{staged.claims(), staged.largest()};
  };
  const auto whole = same(column_shard(file.path(), DType::float32, DType::float32, 0, rows, columns, 0, columns), "as stored");
  check(whole == std::pair{size_t{3}, kLargestClaim}, whole.first, " claims of up to ", whole.second);
  const auto converted = same(column_shard(file.path(), DType::float32, DType::bfloat16, 0, rows, columns, 0, columns), "converted");
  check(converted.second <= kLargestClaim / 2, "claims of ", converted.second);
  same(column_shard(file.path(), DType::float32, DType::float16, 0, rows, columns, 300, 600), "long rows of a slice");

  CreateTensor slice = column_shard(file.path(), DType::float32, DType::bfloat16, 0, 4400, 250, 50, 200);
  const auto dense = same(slice, "short rows, dense in the tensor");
  check(dense.first < 30, dense.first, " claims for 4400 rows that are neighbours");
  slice.shape = {4400, 300};
  slice.pieces[0].target_stride = 300;
  same(slice, "short rows, apart in the tensor");
}

HEDDLE_TEST(fill_passes_on_what_its_target_throws_and_finishes_nothing) {
  const TemporaryFile file(random_elements(DType::float32, 3u << 20, 13));
  const CreateTensor message = column_shard(file.path(), DType::float32, DType::float32, 0, 3, 1 << 20, 0, 1 << 20);
  for (const size_t copies : {0, 1}) {                // of two
    StagedTarget target(12u << 20);
    target.fail_after(copies);
    check_throws(ErrorCode::device_failed, [&] { fill_staged(target, message); });
    check(!target.finished(), "not finished");
  }
  StagedTarget target(12u << 20);
  check_throws(ErrorCode::closed, [&] { fill_staged(target, message, true); });
  check(!target.finished(), "not finished");
}

HEDDLE_TEST(fill_places_several_pieces_and_leaves_the_rest_zero) {
  const std::vector<uint8_t> bytes = random_elements(DType::float32, 100, 5);
  const TemporaryFile file(bytes);
  CreateTensor message;
  message.shape = {10, 6};
  Piece rows;                                         // rows 0 and 1, columns 1 to 3, from every second element on
  rows.path = file.path();
  rows.rows = 2;
  rows.row_elements = 3;
  rows.row_stride = 40;
  rows.target_offset = 1;
  rows.target_stride = 6;
  Piece repeated = rows;                              // one source row for four rows
  repeated.offset = 80;
  repeated.rows = 4;
  repeated.row_stride = 0;
  repeated.target_offset = 30;
  Piece empty = rows;
  empty.rows = 0;
  message.pieces = {rows, repeated, empty};
  check(fill_all(message).memory == reference(message, bytes), "three pieces");
  StagedTarget staged(240);
  fill_staged(staged, message);
  check(staged.memory() == reference(message, bytes), "three pieces, staged");
  message.pieces.clear();
  StagedTarget untouched(240);
  fill_staged(untouched, message);
  check(untouched.finished() && untouched.claims() == 0, "no pieces: nothing but the end");
}

HEDDLE_TEST(fill_refuses_regions_outside_the_file) {
  const TemporaryFile file(std::vector<uint8_t>(100));
  const CreateTensor good = column_shard(file.path(), DType::float32, DType::float32, 4, 6, 4, 0, 4);
  check(fill_all(good).used == 96, "up to the last byte");
  const auto refused = [&](const char* what, const std::function<void(Piece&)>& change) {
    CreateTensor bad = good;
    change(bad.pieces[0]);
    check_throws(ErrorCode::corrupt_file, [&] { fill_all(bad); }, what);
    const std::string text = message_of([&] { fill_all(bad); });
    check(text.find(file.path()) != std::string::npos && text.find("got 100") != std::string::npos, what, ": ", text);
  };
  constexpr uint64_t most = std::numeric_limits<uint64_t>::max();
  refused("one byte too far", [](Piece& piece) { piece.offset += 1; });
  refused("offset overflows", [](Piece& piece) { piece.offset = most; });
  refused("stride overflows", [](Piece& piece) { piece.row_stride = most; });
  refused("stride times rows overflows", [](Piece& piece) { piece.row_stride = most / 4; });
  const CreateTensor stored_by_columns = transposed_shard(file.path(), DType::float32, DType::float32, 4, 6, 4, 0, 6);
  check(fill_all(stored_by_columns).used == 96, "up to the last byte of the last column");
  refused("columns one byte too far", [&](Piece& piece) {
    piece = stored_by_columns.pieces[0];
    piece.offset += 1;
  });
}

HEDDLE_TEST(fill_refuses_regions_outside_the_tensor) {
  CreateTensor good;
  good.shape = {4, 4};
  Piece piece;
  piece.bytes = std::make_shared<const std::vector<uint8_t>>(64);
  piece.rows = 4;
  piece.row_elements = 4;
  piece.row_stride = 16;
  piece.target_stride = 4;
  good.pieces = {piece};
  check(fill_all(good).memory.size() == 64, "exactly full");
  constexpr int64_t most = std::numeric_limits<int64_t>::max();
  const auto refused = [&](const char* what, const std::function<void(CreateTensor&)>& change) {
    CreateTensor bad = good;
    change(bad);
    check_throws(ErrorCode::invalid_argument, [&] { fill_all(bad); }, what);
  };
  refused("one element too far", [](CreateTensor& bad) { bad.pieces[0].target_offset = 1; });
  refused("offset overflows", [](CreateTensor& bad) { bad.pieces[0].target_offset = most; });
  refused("stride overflows", [](CreateTensor& bad) { bad.pieces[0].target_stride = most; });
  refused("negative offset", [](CreateTensor& bad) { bad.pieces[0].target_offset = -1; });
  refused("negative stride", [](CreateTensor& bad) { bad.pieces[0].target_stride = -4; });
  refused("negative rows", [](CreateTensor& bad) { bad.pieces[0].rows = -4; });
  refused("negative elements", [](CreateTensor& bad) { bad.pieces[0].row_elements = -1; });
  refused("bytes too few", [](CreateTensor& bad) { bad.pieces[0].offset = 4; });
  refused("neither path nor bytes", [](CreateTensor& bad) { bad.pieces[0].bytes.reset(); });
  refused("negative shape", [](CreateTensor& bad) { bad.shape = {4, -4}; });
  refused("shape overflows", [](CreateTensor& bad) { bad.shape = {most, 4}; });
  refused("row of nothing overflows", [](CreateTensor& bad) {
    bad.shape = {0, most, 4};
    bad.pieces.clear();
  });
  refused("elements overflow", [](CreateTensor& bad) { bad.pieces[0].row_elements = most; });
}

HEDDLE_TEST(fill_refuses_what_is_no_regular_file) {
  const TemporaryFile file({});
  const std::string pipe = file.folder() + "/pipe";
  check(::mkfifo(pipe.c_str(), 0600) == 0, "a pipe");
  for (const std::string& path : {file.folder(), pipe, file.folder() + "/missing", std::string("/dev/zero")}) {
    const CreateTensor message = column_shard(path, DType::float32, DType::float32, 0, 1, 1, 0, 1);
    check_throws(ErrorCode::corrupt_file, [&] { fill_all(message); }, path);
    const std::string text = message_of([&] { fill_all(message); });
    check(text.find(path) == 0, "names the file: ", text);
  }
  ::unlink(pipe.c_str());
}

HEDDLE_TEST(fill_opens_a_file_once_and_sees_a_new_one_of_its_name) {
  const std::vector<uint8_t> first = random_elements(DType::float32, 8, 1);
  const std::vector<uint8_t> second = random_elements(DType::float32, 8, 2);
  const TemporaryFile file(first);
  SourceFiles files;
  const SourceFile* opened = &files.open(file.path());
  check(&files.open(file.path()) == opened, "one descriptor for two uses");
  ::unlink(file.path().c_str());
  file.write(second);
  std::vector<uint8_t> bytes(32);
  files.open(file.path()).read(0, bytes.data(), bytes.size());
  check(bytes == second, "the new file");
  files.close_all();
}

HEDDLE_TEST(fill_ends_with_closed_when_cancelled) {
  const TemporaryFile file(std::vector<uint8_t>(64));
  const CreateTensor message = column_shard(file.path(), DType::float32, DType::float32, 0, 4, 4, 0, 4);
  SourceFiles files;
  FileCounters counters;
  const std::atomic<bool> cancelled{true};
  std::vector<uint8_t> memory(64);
  HostFillTarget target(memory.data());
  check_throws(ErrorCode::closed, [&] { fill(target, message, files, counters, cancelled); });
}

// A file that shrinks after its size was checked: a typed error at the read, no signal, no garbage.
HEDDLE_TEST(fill_gives_an_error_where_the_file_shrinks_after_the_check) {
  const TemporaryFile file(std::vector<uint8_t>(4096, 1));
  for (const int64_t columns : {64, 1024}) {          // short parts in spans, and long ones
    file.write(std::vector<uint8_t>(static_cast<size_t>(columns) * 16 * 4, 1));
    const CreateTensor message =
        column_shard(file.path(), DType::float32, DType::float32, 0, 16, columns, 0, columns / 2);
    SourceFiles files;
    FileCounters counters;
    const std::atomic<bool> cancelled{false};
    check_pieces(message, files);
    check(::truncate(file.path().c_str(), 1000) == 0, "truncate");
    std::vector<uint8_t> memory(static_cast<size_t>(columns) * 16 * 2);
    HostFillTarget target(memory.data());
    check_throws(ErrorCode::corrupt_file, [&] { fill(target, message, files, counters, cancelled); });
  }
}

HEDDLE_TEST(fill_survives_another_process_that_truncates_the_file) {
  const std::vector<uint8_t> bytes(1 << 20, 7);
  const TemporaryFile file(bytes);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) {
    const timespec pause{0, 20000};
    for (int i = 0; ::getppid() == parent; ++i) {     // until it is ended
      if (::truncate(file.path().c_str(), i % 2 == 0 ? 1000 : 1 << 20) != 0) ::_exit(1);
      ::nanosleep(&pause, nullptr);
    }
    ::_exit(0);
  }
  if (!check(child > 0, "a second process")) return;
  const CreateTensor message = column_shard(file.path(), DType::float32, DType::bfloat16, 0, 256, 1024, 0, 512);
  constexpr int kFills = 1000;
  int errors = 0;
  const auto patience = Clock::now() + std::chrono::minutes(2);
  for (int i = 0; i < kFills || (errors == 0 && Clock::now() < patience); ++i) {
    try {
      fill_all(message);
    } catch (const Error& error) {
      ++errors;
      if (!check(error.code() == ErrorCode::corrupt_file, error.what())) break;
    }
  }
  ::kill(child, SIGKILL);
  int status = 0;
  ::waitpid(child, &status, 0);
  check(errors > 0, "the file was short at least once");
}

}  // namespace heddle::test
