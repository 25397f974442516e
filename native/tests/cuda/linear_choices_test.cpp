// Algorithms kept from run to run: what is found again, and what must be as good as nothing.
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cuda/dynlib.h"
#include "cuda/linear_choices.h"
#include "cuda/linear_lt.h"
#include "on_device.h"

namespace heddle::test {
namespace {

namespace fs = std::filesystem;
using cuda::MatmulChoices;
using cuda::MatmulKey;
using cuda::nvabi::LtAlgo;

// A folder for a scope.
struct Folder {
  fs::path path;
  Folder() {
    std::string name = (fs::temp_directory_path() / "heddle-test-XXXXXX").string();
    if (mkdtemp(name.data())) path = name;
    check(!path.empty(), "a folder for the test");
  }
  ~Folder() {
    std::error_code failed;
    fs::remove_all(path, failed);
  }
  fs::path file() const { return files().empty() ? fs::path() : files().front(); }
  std::vector<fs::path> files() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(path)) found.push_back(entry.path());
    return found;
  }
};

std::string content_of(const fs::path& file) {
  std::ostringstream text;
  text << std::ifstream(file).rdbuf();
  return text.str();
}
void write(const fs::path& file, const std::string& text) { std::ofstream(file) << text; }

LtAlgo algorithm(uint64_t seed) {
  LtAlgo made = {};
  for (uint64_t& word : made.data) word = seed++ * 0x9e3779b97f4a7c15u;
  return made;
}
bool is(const LtAlgo* found, const LtAlgo& expected) { return found && std::memcmp(found, &expected, sizeof(LtAlgo)) == 0; }

const MatmulKey kKey = {512, 4096, 1024, DType::bfloat16, DType::float32, true};
const MatmulKey kOther = {512, 4096, 1024, DType::bfloat16, DType::bfloat16, false};

HEDDLE_TEST(linear_choices_are_found_again_and_shared) {
  const Folder folder;
  const std::string place = folder.path / "made" / "on demand";
  MatmulChoices first(place, "a GPU"), second(place, "a GPU");
  check(!first.find(kKey), "nothing yet");
  first.keep(kKey, algorithm(1));
  second.keep(kOther, algorithm(9));                  // does not know the first one's choice, and must not lose it
  const MatmulChoices later(place, "a GPU");
  check(is(later.find(kKey), algorithm(1)) && is(later.find(kOther), algorithm(9)), "both choices");
  check(!MatmulChoices(place, "another GPU").find(kKey), "a choice of another GPU");
  second.keep(kKey, algorithm(3));
  check(is(MatmulChoices(place, "a GPU").find(kKey), algorithm(3)), "the newest choice");
}

HEDDLE_TEST(linear_choices_of_a_damaged_or_foreign_file_are_none) {
  const Folder folder;
  MatmulChoices(folder.path, "a GPU").keep(kKey, algorithm(1));
  const fs::path file = folder.file();
  const std::string whole = content_of(file);
  const auto reads = [&](const std::string& text) {
    write(file, text);
    return MatmulChoices(folder.path, "a GPU").find(kKey) != nullptr;
  };
  check(reads(whole), "the whole file");
  for (size_t length = 0; length < whole.size(); ++length) {
    if (!check(!reads(whole.substr(0, length)), "a file cut to ", length, " bytes")) break;
  }
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string changed = whole;
    changed[i] ^= 1;
    if (!check(!reads(changed), "a file with byte ", i, " changed")) break;
  }
  check(!reads(whole + "more\n"), "a file with more behind it");
  check(!reads(std::string(3 << 20, 'x')), "a large file");
  write(file, whole);
  MatmulChoices(folder.path, "b GPU").keep(kOther, algorithm(2));
  for (const fs::path& other : folder.files()) {
    if (other != file) fs::rename(other, file);
  }
  check(!MatmulChoices(folder.path, "a GPU").find(kOther), "a file that another GPU's identity stands in");
  write(file, "garbage");
  MatmulChoices(folder.path, "a GPU").keep(kKey, algorithm(5));
  check(is(MatmulChoices(folder.path, "a GPU").find(kKey), algorithm(5)) && folder.files().size() == 1, "written anew, and nothing beside it");
}

HEDDLE_TEST(linear_choices_without_a_place_are_no_error) {
  const Folder folder;
  write(folder.path / "file", "");
  for (const std::string& place : {std::string(), (folder.path / "file" / "below").string(), std::string("/proc/heddle")}) {
    MatmulChoices choices(place, "a GPU");
    choices.keep(kKey, algorithm(1));
    check(!MatmulChoices(place, "a GPU").find(kKey), "nothing kept in '", place, "'");
  }
}

// A setting of the environment for a scope.
struct Variable {
  const char* name;
  std::string before;
  bool was_set;
  Variable(const char* variable, const char* value) : name(variable), was_set(std::getenv(variable) != nullptr) {
    if (was_set) before = std::getenv(variable);
    value ? setenv(name, value, 1) : unsetenv(name);
  }
  ~Variable() { was_set ? setenv(name, before.c_str(), 1) : unsetenv(name); }
};

HEDDLE_TEST(linear_choices_have_a_folder_of_the_users) {
  const Variable home("HOME", "/home/weaver");
  {
    const Variable unset("HEDDLE_CACHE", nullptr), base("XDG_CACHE_HOME", "/cache");
    check(cuda::cache_folder() == "/cache/heddle", "XDG: ", cuda::cache_folder());
    const Variable relative("XDG_CACHE_HOME", "cache");
    check(cuda::cache_folder() == "/home/weaver/.cache/heddle", "home: ", cuda::cache_folder());
  }
  const Variable named("HEDDLE_CACHE", "/elsewhere");
  check(cuda::cache_folder() == "/elsewhere", "named: ", cuda::cache_folder());
  const Variable nowhere("HEDDLE_CACHE", "");
  check(cuda::cache_folder().empty(), "nowhere: ", cuda::cache_folder());
}

#if defined(HEDDLE_CUDA_EMULATED)
int products = 0;
decltype(cuda::LtTable::cublasLtMatmul) real_matmul = nullptr;

// How often a first product of this shape asks the library to multiply: once, or many times where it is tuned.
int products_of_first_use(const cuda::LtTable& table, const std::string& folder) {
  cuda::LtTable counting = table;
  real_matmul = table.cublasLtMatmul;
  counting.cublasLtMatmul = [](auto... arguments) {
    ++products;
    return real_matmul(arguments...);
  };
  const cuda::Device device(0);
  cuda::MatmulLibrary library(counting, device, folder);
  const Tensor weight = tensor_on(device, std::vector<float>(64 * 40, 0.5f), {40, 64});
  const DeviceMatrix x(device, Matrix(24, 64, std::vector<float>(24 * 64, 2.0f))), y(device, 24, 40);
  cuda::LinearCall call;
  call.x = x.view();
  call.weight = &weight;
  call.y = y.view();
  products = 0;
  check(library.run(call), "the library takes it");
  for (const float value : y.read()) {
    if (!check(value == 64, "expected 64, got ", value)) break;
  }
  return products;
}

HEDDLE_TEST(linear_choices_spare_a_later_run_the_tuning) {
  const char* file = std::getenv("HEDDLE_CUBLASLT_LIB");
  std::string text;
  const auto table = file && *file ? cuda::load_cublaslt({}, 13, text) : nullptr;
  if (!table) return;
  const Folder folder;
  const Variable tuned("HEDDLE_MATMUL_TUNING", nullptr);
  const int tuning = products_of_first_use(*table, folder.path);
  check(tuning > 1, "a first run tunes");
  check(products_of_first_use(*table, folder.path) == 1, "a second does not");
  check(products_of_first_use(*table, "") == tuning, "without a folder every run does");
  const std::string kept = content_of(folder.file());
  write(folder.file(), kept.substr(0, kept.size() / 2));
  check(products_of_first_use(*table, folder.path) == tuning, "after damage it does");
  {
    const Variable version("HEDDLE_FAKE_CUBLASLT_VERSION", "130200");
    const auto newer = cuda::load_cublaslt({}, 13, text);
    check(products_of_first_use(*newer, folder.path) == tuning && folder.files().size() == 2, "another version has choices of its own");
  }
  const Folder other;
  const Variable untuned("HEDDLE_MATMUL_TUNING", "0");
  check(products_of_first_use(*table, other.path) == 1 && other.files().empty(), "without tuning nothing is kept");
}

// The words of an algorithm are the library's business: ones that it does not propose are never handed to it.
HEDDLE_TEST(linear_choices_that_the_library_does_not_propose_are_not_taken) {
  const char* file = std::getenv("HEDDLE_CUBLASLT_LIB");
  std::string text;
  const auto table = file && *file ? cuda::load_cublaslt({}, 13, text) : nullptr;
  if (!table) return;
  const Folder folder;
  const Variable tuned("HEDDLE_MATMUL_TUNING", nullptr);
  const int tuning = products_of_first_use(*table, folder.path);
  std::istringstream lines(content_of(folder.file()));
  std::string format, identity;
  std::getline(lines, format);
  std::getline(lines, identity);
  MatmulChoices(folder.path, identity).keep({32, 64, 40, DType::float32, DType::float32, false}, algorithm(77));
  check(products_of_first_use(*table, folder.path) == tuning, "tuned again");
  check(products_of_first_use(*table, folder.path) == 1, "and kept");
}
#endif

}  // namespace
}  // namespace heddle::test
