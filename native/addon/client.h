// What JavaScript holds of native code: a mailbox, and groups opened through it. Both are externals with a type tag, so
// that a wrong handle is an error, never a crash. Rule: all state hangs on them; without globals any number of workers
// can load the addon.
#pragma once
#include <memory>
#include <vector>

#include "addon/mailbox.h"
#include "addon/napi_setup.h"
#include "factory.h"

namespace heddle::addon {

// One mailbox and its groups. The end of the environment closes them all. JavaScript thread only.
class Client {
 public:
  static std::shared_ptr<Client> create(const Napi::Function& on_completion);

  OpenedGroup open(const GroupOptions& options, int64_t ticket);
  Mailbox& mailbox() { return *mailbox_; }
  bool ended() const { return ended_; }

 private:
  static void on_environment_end(void* data) noexcept;
  void end() noexcept;

  std::shared_ptr<Mailbox> mailbox_;
  std::vector<std::weak_ptr<RankGroup>> groups_;
  bool ended_ = false;
};

struct GroupHandle {
  std::shared_ptr<Client> client;
  std::shared_ptr<RankGroup> group;
  std::shared_ptr<const GroupPlacement> placement;
};

Napi::Value wrap(Napi::Env env, std::shared_ptr<Client> client);
Napi::Value wrap(Napi::Env env, GroupHandle handle);
// Copies, so that what they hold stays even where a getter of a later argument makes JavaScript lose the handle.
std::shared_ptr<Client> unwrap_client(const Napi::Value& value);
GroupHandle unwrap_group(const Napi::Value& value);

}  // namespace heddle::addon
