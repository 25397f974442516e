#include "addon/mailbox.h"

#include <utility>

#include "addon/result.h"
#include "core/error.h"

namespace heddle::addon {

std::shared_ptr<Mailbox> Mailbox::create(const Napi::Function& on_completion) {
  const napi_env env = on_completion.Env();
  std::shared_ptr<Mailbox> mailbox(new Mailbox);
  mailbox->env_ = env;
  auto context = std::make_unique<std::shared_ptr<Mailbox>>(mailbox);
  const auto release = [](napi_env, void* data, void*) { delete static_cast<std::shared_ptr<Mailbox>*>(data); };
  const napi_value name = Napi::String::New(env, "heddle");
  const napi_status status = napi_create_threadsafe_function(env, on_completion, nullptr, name, 0, 1, context.get(),
                                                             release, context.get(), on_call, &mailbox->function_);
  if (status != napi_ok) throw Error(ErrorCode::unavailable, "initialize: the thread-safe function could not be made");
  context.release();
  napi_unref_threadsafe_function(env, mailbox->function_);
  return mailbox;
}

void Mailbox::expect() {
  if (pending_++ == 0) napi_ref_threadsafe_function(env_, function_);
}

void Mailbox::unexpect() {
  if (--pending_ == 0) napi_unref_threadsafe_function(env_, function_);
}

void Mailbox::post(Completion completion) noexcept {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  try {
    queue_.push_back(std::move(completion));
  } catch (...) {
    return;                                           // no memory for one entry: nothing better is left
  }
  if (!scheduled_) scheduled_ = napi_call_threadsafe_function(function_, nullptr, napi_tsfn_nonblocking) == napi_ok;
}

void Mailbox::close() noexcept {
  const std::lock_guard lock(mutex_);
  if (!open_) return;
  open_ = false;
  queue_.clear();
  napi_release_threadsafe_function(function_, napi_tsfn_abort);
}

void Mailbox::on_call(napi_env env, napi_value callback, void* context, void*) {
  if (!env || !callback) return;                      // the environment is ending
  const std::shared_ptr<Mailbox> mailbox = *static_cast<std::shared_ptr<Mailbox>*>(context);
  mailbox->deliver(env, callback);
}

void Mailbox::deliver(napi_env env, napi_value callback) {
  std::vector<Completion> completions;
  {
    const std::lock_guard lock(mutex_);
    completions.swap(queue_);
    scheduled_ = false;
  }
  for (Completion& completion : completions) {
    --pending_;
    call_with(env, callback, std::move(completion));
  }
  // After the callbacks, which may have submitted more: the count alone decides.
  if (pending_ == 0) napi_unref_threadsafe_function(env, function_);
}

}  // namespace heddle::addon
