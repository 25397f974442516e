#include "core/source_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/error.h"

namespace heddle {

namespace {

constexpr size_t kOpenFiles = 8;

[[noreturn]] void corrupt(const std::string& path, const std::string& text) {
  throw Error(ErrorCode::corrupt_file, path + ": " + text);
}

[[noreturn]] void cannot(const char* what, const std::string& path, int error) {
  const bool ours = error == EMFILE || error == ENFILE || error == ENOMEM;  // not the file's fault
  throw Error(ours ? ErrorCode::unavailable : ErrorCode::corrupt_file,
              path + ": expected a file to read, got an error of " + what + ": " + std::strerror(error));
}

int open_to_read(const std::string& path) {
  for (;;) {
    const int descriptor =
        ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // O_NONBLOCK: a pipe would wait for a writer
    if (descriptor >= 0) return descriptor;
    if (errno != EINTR) cannot("open", path, errno);
  }
}

}  // namespace

SourceFile::SourceFile(const std::string& path) : path_(path), descriptor_(open_to_read(path)) {
  struct stat status{};
  if (::fstat(descriptor_, &status) == 0 && S_ISREG(status.st_mode)) return;
  ::close(descriptor_);
  corrupt(path, "expected a regular file, got a directory, a device or a pipe");
}

SourceFile::~SourceFile() { ::close(descriptor_); }

uint64_t SourceFile::size() const {
  struct stat status{};
  if (::fstat(descriptor_, &status) != 0) cannot("fstat", path_, errno);
  return static_cast<uint64_t>(status.st_size);
}

bool SourceFile::is_current() const {
  struct stat opened{};
  struct stat named{};
  if (::fstat(descriptor_, &opened) != 0 || ::stat(path_.c_str(), &named) != 0) return false;
  return opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

void SourceFile::read(uint64_t offset, void* target, uint64_t bytes) const {
  uint64_t done = 0;
  while (done < bytes) {
    const ssize_t got =
        ::pread(descriptor_, static_cast<char*>(target) + done, bytes - done, static_cast<off_t>(offset + done));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) cannot("pread", path_, errno);
    if (got == 0) {
      corrupt(path_, "expected " + std::to_string(bytes) + " bytes at offset " + std::to_string(offset) + ", got " +
                         std::to_string(done) + " (the file became shorter while it was read)");
    }
    done += static_cast<uint64_t>(got);
  }
}

SourceFile& SourceFiles::open(const std::string& path) {
  const auto found =
      std::find_if(files_.begin(), files_.end(), [&](const SourceFile& file) { return file.path() == path; });
  if (found != files_.end() && found->is_current()) {
    files_.splice(files_.begin(), files_, found);
    return files_.front();
  }
  if (found != files_.end()) files_.erase(found);
  files_.emplace_front(path);
  if (files_.size() > kOpenFiles) files_.pop_back();
  return files_.front();
}

}  // namespace heddle
