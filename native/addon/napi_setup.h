// The one place that includes napi.h, so that every file of the addon sees it with the same switches.
#pragma once

// A worker that is being terminated refuses to take an exception: drop it instead of ending the process.
#define NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS
#define NAPI_CPP_EXCEPTIONS
#include <napi.h>
