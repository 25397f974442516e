#include "addon/client.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "addon/read.h"
#include "core/error.h"

namespace heddle::addon {

namespace {

constexpr napi_type_tag kClientTag = {0x6ba3d0f2c4e94d11, 0x9f27b1c35a8e60d7};
constexpr napi_type_tag kGroupTag = {0x2f8c1e9a7d5b4c36, 0xa14e73d20b6f98c5};

// A group that JavaScript lost: closed on a thread of its own, since a finalizer must not make the collector wait.
void close_apart(std::shared_ptr<RankGroup> group) noexcept {
  try {
    std::thread([group] { group->close(); }).detach();
  } catch (...) {
    group->close();                                   // no thread to be had: wait here, a second at most
  }
}

template <typename T, typename Finalizer>
Napi::Value wrap_tagged(Napi::Env env, const napi_type_tag& tag, std::unique_ptr<T> data, Finalizer finalizer) {
  auto external = Napi::External<T>::New(env, data.get(), finalizer);
  data.release();
  external.TypeTag(&tag);
  return external;
}

template <typename T>
T& unwrap_tagged(const Napi::Value& value, const napi_type_tag& tag, const char* where, const char* expected) {
  if (!value.IsExternal()) refuse(where, expected, value);
  const auto external = value.As<Napi::External<T>>();
  if (!external.CheckTypeTag(&tag)) refuse(where, expected, "another handle");
  return *external.Data();
}

}  // namespace

std::shared_ptr<Client> Client::create(const Napi::Function& on_completion) {
  auto client = std::make_shared<Client>();
  client->mailbox_ = Mailbox::create(on_completion);
  // Registered after the mailbox's thread-safe function and therefore run before Node takes that down.
  auto holder = std::make_unique<std::shared_ptr<Client>>(client);
  if (napi_add_env_cleanup_hook(on_completion.Env(), on_environment_end, holder.get()) != napi_ok) {
    client->mailbox_->close();
    throw Error(ErrorCode::unavailable, "initialize: expected a running environment, got one that ends");
  }
  holder.release();
  return client;
}

OpenedGroup Client::open(const GroupOptions& options, int64_t ticket) {
  std::erase_if(groups_, [](const std::weak_ptr<RankGroup>& group) { return group.expired(); });
  groups_.reserve(groups_.size() + 1);                // nothing may fail once the ranks run
  mailbox_->expect();
  try {
    const auto post = [mailbox = mailbox_](Completion&& completion) { mailbox->post(std::move(completion)); };
    OpenedGroup opened = open_group(options, ticket, post);
    groups_.push_back(opened.group);
    return opened;
  } catch (...) {
    mailbox_->unexpect();
    throw;
  }
}

void Client::on_environment_end(void* data) noexcept {
  const std::unique_ptr<std::shared_ptr<Client>> holder(static_cast<std::shared_ptr<Client>*>(data));
  (*holder)->end();
}

// The mailbox first: what completes from here on has nobody to go to. Groups close side by side, in a second at most.
void Client::end() noexcept {
  ended_ = true;
  mailbox_->close();
  std::vector<std::thread> threads;
  for (const std::weak_ptr<RankGroup>& weak : groups_) {
    const std::shared_ptr<RankGroup> group = weak.lock();
    if (!group) continue;
    try {
      threads.emplace_back([group] { group->close(); });
    } catch (...) {
      group->close();
    }
  }
  for (std::thread& thread : threads) thread.join();
  groups_.clear();
}

Napi::Value wrap(Napi::Env env, std::shared_ptr<Client> client) {
  const auto drop = [](Napi::Env, std::shared_ptr<Client>* data) { delete data; };
  return wrap_tagged(env, kClientTag, std::make_unique<std::shared_ptr<Client>>(std::move(client)), drop);
}

Napi::Value wrap(Napi::Env env, GroupHandle handle) {
  const auto drop = [](Napi::Env, GroupHandle* data) {
    const std::unique_ptr<GroupHandle> owner(data);
    if (!owner->client->ended()) close_apart(std::move(owner->group));
  };
  return wrap_tagged(env, kGroupTag, std::make_unique<GroupHandle>(std::move(handle)), drop);
}

std::shared_ptr<Client> unwrap_client(const Napi::Value& value) {
  return unwrap_tagged<std::shared_ptr<Client>>(value, kClientTag, "mailbox", "the handle that initialize returned");
}

GroupHandle unwrap_group(const Napi::Value& value) {
  return unwrap_tagged<GroupHandle>(value, kGroupTag, "group", "the handle of a group");
}

}  // namespace heddle::addon
