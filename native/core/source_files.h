// The files that a rank reads weights from: a few open descriptors, each file opened once per batch of messages.
// Rule: a file is only ever read by its descriptor, never mapped, so one that shrinks gives a corrupt_file error and no
// signal.
#pragma once
#include <cstdint>
#include <list>
#include <string>

namespace heddle {

class SourceFile {
 public:
  explicit SourceFile(const std::string& path);       // throws corrupt_file where there is no such regular file
  ~SourceFile();
  SourceFile(const SourceFile&) = delete;
  SourceFile& operator=(const SourceFile&) = delete;

  const std::string& path() const { return path_; }
  uint64_t size() const;                              // as it is now
  bool is_current() const;                            // false: the path names another file now, or none
  void read(uint64_t offset, void* target, uint64_t bytes) const;  // all of it, or corrupt_file

 private:
  std::string path_;
  int descriptor_;
};

class SourceFiles {
 public:
  SourceFile& open(const std::string& path);          // valid until the next open or close_all
  void close_all() { files_.clear(); }

 private:
  std::list<SourceFile> files_;                       // most recently used first
};

}  // namespace heddle
