// The file: a line that names the format, the identity, a line for each choice, and a sum over all of these.
#include "cuda/linear_choices.h"

#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>
#include <stdexcept>

namespace heddle::cuda {

namespace {

constexpr const char* kFormat = "heddle matmul choices 1";
constexpr uintmax_t kMostBytes = 1 << 20;             // a file that is larger is not ours
constexpr int kWords = sizeof(nvabi::LtAlgo::data) / sizeof(uint64_t);

// FNV-1a (Fowler, Noll, Vo), 64 bits.
uint64_t sum_of(const std::string& text) {
  uint64_t sum = 0xcbf29ce484222325u;
  for (const char byte : text) sum = (sum ^ static_cast<unsigned char>(byte)) * 0x100000001b3u;
  return sum;
}

std::string hex(uint64_t number) {
  std::ostringstream text;
  text << std::hex << number;
  return text.str();
}

std::string text_of(const MatmulKey& key, const nvabi::LtAlgo& algorithm) {
  std::ostringstream text;
  text << key.bucket << ' ' << key.in << ' ' << key.out << ' ' << static_cast<int>(key.dtype) << ' ' << static_cast<int>(key.y_dtype) << ' '
       << key.biased << std::hex;
  for (const uint64_t word : algorithm.data) text << ' ' << word;
  return text.str();
}

void read_choice(const std::string& line, std::map<MatmulKey, nvabi::LtAlgo>& algorithms) {
  std::istringstream text(line);
  MatmulKey key;
  int dtype = 0, y_dtype = 0;
  text >> key.bucket >> key.in >> key.out >> dtype >> y_dtype >> key.biased >> std::hex;
  key.dtype = static_cast<DType>(dtype);
  key.y_dtype = static_cast<DType>(y_dtype);
  nvabi::LtAlgo algorithm = {};
  for (int i = 0; i < kWords; ++i) text >> algorithm.data[i];
  if (!text) throw std::runtime_error("a line that is no choice");
  algorithms[key] = algorithm;
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

MatmulChoices::MatmulChoices(const std::string& folder, const std::string& identity) noexcept {
  try {
    if (folder.empty()) return;
    identity_ = identity;
    file_ = folder + "/matmul-" + hex(sum_of(identity)) + ".txt";
    algorithms_ = read();
  } catch (const std::exception&) {
    algorithms_.clear();
  }
}

const nvabi::LtAlgo* MatmulChoices::find(const MatmulKey& key) const {
  const auto found = algorithms_.find(key);
  return found == algorithms_.end() ? nullptr : &found->second;
}

void MatmulChoices::keep(const MatmulKey& key, const nvabi::LtAlgo& algorithm) noexcept {
  if (file_.empty()) return;
  try {
    for (const auto& [other, kept] : read()) algorithms_.try_emplace(other, kept);
    algorithms_[key] = algorithm;
    write();
  } catch (const std::exception&) {
    // the next run tunes again
  }
}

MatmulChoices::Algorithms MatmulChoices::read() const {
  std::error_code failed;
  const uintmax_t bytes = std::filesystem::file_size(file_, failed);
  if (failed || bytes > kMostBytes) return {};
  std::ifstream stream(file_, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const size_t last = text.rfind("\nsum ");
  if (last == std::string::npos || text.substr(last + 1) != "sum " + hex(sum_of(text.substr(0, last + 1))) + "\n") return {};
  std::istringstream lines(text.substr(0, last + 1));
  std::string line;
  if (!std::getline(lines, line) || line != kFormat || !std::getline(lines, line) || line != identity_) return {};
  Algorithms algorithms;
  while (std::getline(lines, line)) read_choice(line, algorithms);
  return algorithms;
}

// Under another name first: whoever reads meanwhile sees the old file or the new one.
void MatmulChoices::write() const {
  static std::atomic<unsigned> count{0};
  std::string text = std::string(kFormat) + "\n" + identity_ + "\n";
  for (const auto& [key, algorithm] : algorithms_) text += text_of(key, algorithm) + "\n";
  text += "sum " + hex(sum_of(text)) + "\n";
  const std::filesystem::path target(file_);
  std::error_code failed;
  std::filesystem::create_directories(target.parent_path(), failed);
  const std::string fresh = file_ + "." + std::to_string(getpid()) + "." + std::to_string(++count);
  std::ofstream stream(fresh, std::ios::binary);
  stream << text;
  stream.close();
  if (stream) std::filesystem::rename(fresh, target, failed);
  if (!stream || failed) std::filesystem::remove(fresh, failed);
}

std::string cache_folder() {
  if (const char* named = std::getenv("HEDDLE_CACHE")) return named;
  const std::string base = environment("XDG_CACHE_HOME"), home = environment("HOME");
  if (!base.empty() && base.front() == '/') return base + "/heddle";   // relative paths are to be ignored (XDG Base Directory)
  return home.empty() ? "" : home + "/.cache/heddle";
}

}  // namespace heddle::cuda
