// Completions on their way to JavaScript: rank threads post, the JavaScript thread delivers each to the one callback.
// Thread rule: the thread-safe function is called under mutex_ and only while open_, so that no rank touches it after
// the environment ended.
// Lifetime rule: it is referenced only while tickets are pending, else an idle process could not exit.
#pragma once
#include <memory>
#include <mutex>
#include <vector>

#include "addon/napi_setup.h"
#include "core/completion.h"

namespace heddle::addon {

class Mailbox {
 public:
  static std::shared_ptr<Mailbox> create(const Napi::Function& on_completion);

  void expect();                                      // JavaScript thread: one more ticket will complete
  void unexpect();                                    // JavaScript thread: its call failed, so it will not
  void post(Completion completion) noexcept;          // any thread; dropped after close
  void close() noexcept;                              // JavaScript thread, when the environment ends

 private:
  Mailbox() = default;
  static void on_call(napi_env env, napi_value callback, void* context, void* data);
  void deliver(napi_env env, napi_value callback);

  napi_env env_ = nullptr;
  size_t pending_ = 0;                                // JavaScript thread
  std::mutex mutex_;
  napi_threadsafe_function function_ = nullptr;
  bool open_ = true;
  bool scheduled_ = false;                            // a call is on its way that will take all of queue_
  std::vector<Completion> queue_;                     // at most one entry per pending ticket
};

}  // namespace heddle::addon
