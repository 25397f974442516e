// A completion as arguments of the JavaScript callback. Rule: the environment may be ending at any moment, so each step
// checks its status, and whatever does not succeed is dropped without a sound; nothing throws here.
#pragma once
#include "addon/napi_setup.h"
#include "core/completion.h"

namespace heddle::addon {

// callback(ticket, code | undefined, message | undefined, rank | undefined, result | undefined)
void call_with(napi_env env, napi_value callback, Completion completion) noexcept;

}  // namespace heddle::addon
