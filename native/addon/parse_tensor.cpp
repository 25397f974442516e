// TensorSpec[] → CreateTensor, with the elements of host arrays cut out and copied.
#include <cstring>

#include "addon/parse.h"
#include "addon/read.h"
#include "core/error.h"

namespace heddle::addon {

namespace {

constexpr uint32_t kMaxPieces = 1u << 16;
constexpr size_t kMaxPath = 4096;

// Bytes from the first to the last element of the rectangle; strides may not make rows overlap.
int64_t source_extent(const Piece& piece, const std::string& where) {
  if (piece.rows == 0 || piece.row_elements == 0) return 0;
  const int64_t line_bytes = product_of(piece.line_elements(), static_cast<int64_t>(size_of(piece.dtype)), where);
  const auto stride = static_cast<int64_t>(piece.row_stride);
  if (piece.lines() > 1 && stride < line_bytes) {
    const char* line = piece.transposed ? "column" : "row";
    refuse(where, "a rowStride of at least a " + std::string(line) + "'s " + std::to_string(line_bytes) + " bytes",
           std::to_string(stride));
  }
  return sum_of(product_of(piece.lines() - 1, stride, where), line_bytes, where);
}

void check_target(const Piece& piece, int64_t count, const std::string& where) {
  if (piece.rows == 0 || piece.row_elements == 0) return;
  if (piece.rows > 1 && piece.target_stride < piece.row_elements) {
    refuse(where, "a targetStride of at least rowElements " + std::to_string(piece.row_elements),
           std::to_string(piece.target_stride));
  }
  const int64_t last_row = sum_of(piece.target_offset, product_of(piece.rows - 1, piece.target_stride, where), where);
  const int64_t end = sum_of(last_row, piece.row_elements, where);
  if (end > count) {
    refuse(where, "to end within the tensor's " + std::to_string(count) + " elements", std::to_string(end));
  }
}

// Takes the described rectangle alone, line after line, and describes it anew.
void copy_elements(Piece& piece, const Napi::Value& data, const std::string& where) {
  const int64_t extent = source_extent(piece, where);
  const Elements elements = read_typed_array(data, where);
  const auto wanted = piece.dtype == DType::float32 ? napi_float32_array : napi_uint16_array;
  if (elements.type != wanted) {
    refuse(where, piece.dtype == DType::float32 ? "a Float32Array" : "a Uint16Array", "another typed array");
  }
  const auto available = static_cast<int64_t>(elements.count * size_of(piece.dtype));
  const int64_t end = sum_of(static_cast<int64_t>(piece.offset), extent, where);
  if (end > available) {
    refuse(where, "to end within the array's " + std::to_string(available) + " bytes", std::to_string(end));
  }

  const size_t line_bytes = static_cast<size_t>(piece.line_elements()) * size_of(piece.dtype);
  auto bytes = std::make_shared<std::vector<uint8_t>>();
  if (extent > 0) {
    const uint8_t* source = elements.data + piece.offset;
    bytes->reserve(static_cast<size_t>(piece.lines()) * line_bytes);
    for (int64_t line = 0; line < piece.lines(); ++line) {
      bytes->insert(bytes->end(), source, source + line_bytes);
      if (line + 1 < piece.lines()) source += piece.row_stride;
    }
  }
  piece.bytes = std::move(bytes);
  piece.offset = 0;
  piece.row_stride = line_bytes;
}

Piece parse_piece(const Napi::Value& value, int64_t count, const std::string& where) {
  const auto object = read_object(value, where);
  const auto integer = [&](const char* name) {
    return read_integer(object.Get(name), 0, kMaxSafeInteger, where + "." + name);
  };
  Piece piece;
  piece.dtype = read_dtype(object.Get("dtype"), where + ".dtype");
  piece.offset = static_cast<uint64_t>(integer("offset"));
  piece.rows = integer("rows");
  piece.row_elements = integer("rowElements");
  piece.row_stride = static_cast<uint64_t>(integer("rowStride"));
  piece.target_offset = integer("targetOffset");
  piece.target_stride = integer("targetStride");
  const Napi::Value transposed = object.Get("transposed");
  piece.transposed = !transposed.IsUndefined() && read_flag(transposed, where + ".transposed");
  const Napi::Value increment = object.Get("increment");
  if (!increment.IsUndefined()) piece.increment = static_cast<float>(read_number(increment, where + ".increment"));
  check_target(piece, count, where);
  const auto source = read_object(object.Get("source"), where + ".source");
  const Napi::Value path = source.Get("path");
  if (path.IsUndefined()) {
    copy_elements(piece, source.Get("data"), where + ".source.data");
  } else {
    piece.path = read_text(path, kMaxPath, where + ".source.path");
    sum_of(static_cast<int64_t>(piece.offset), source_extent(piece, where), where);
  }
  return piece;
}

TensorRole parse_role(const Napi::Value& value, const std::string& where) {
  const std::string role = value.IsString() ? read_text(value, 16, where) : "";
  if (role == "weight") return TensorRole::weight;
  if (role == "cache") return TensorRole::cache;
  refuse(where, "weight or cache", value);
}

CreateTensor parse_spec(int64_t id, const Napi::Value& value, const std::string& where) {
  const auto object = read_object(value, where);
  CreateTensor message;
  message.id = id;
  message.dtype = read_dtype(object.Get("dtype"), where + ".dtype");
  message.shape = read_shape(object.Get("shape"), where + ".shape");
  message.role = parse_role(object.Get("role"), where + ".role");
  const int64_t count = count_of(message.shape, where + ".shape");
  product_of(count, static_cast<int64_t>(size_of(message.dtype)), where + ".shape");
  const auto pieces = read_array(object.Get("pieces"), kMaxPieces, where + ".pieces");
  const uint32_t length = pieces.Length();
  for (uint32_t i = 0; i < length; ++i) {
    message.pieces.push_back(parse_piece(pieces.Get(i), count, element(where + ".pieces", i)));
  }
  return message;
}

}  // namespace

std::vector<Message> parse_create_tensor(int64_t id, const Napi::Value& specs, int size) {
  const auto array = read_array(specs, kMaxGroupSize, "createTensor: specs");
  if (array.Length() != static_cast<uint32_t>(size)) {
    refuse("createTensor: specs", "one for each of " + std::to_string(size) + " ranks", std::to_string(array.Length()));
  }
  std::vector<Message> messages;
  for (uint32_t rank = 0; rank < static_cast<uint32_t>(size); ++rank) {
    messages.emplace_back(parse_spec(id, array.Get(rank), element("createTensor: specs", rank)));
  }
  return messages;
}

}  // namespace heddle::addon
