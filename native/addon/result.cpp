#include "addon/result.h"

#include <cstring>
#include <memory>
#include <utility>

namespace heddle::addon {

namespace {

// Below this a copy is cheaper than an array buffer that must be told of its memory's end.
constexpr size_t kExternalBytes = 16384;

// Makes JavaScript values until one fails; after that every call gives null and does nothing.
class Maker {
 public:
  explicit Maker(napi_env env) : env_(env) {}
  bool ok() const { return ok_; }

  napi_value undefined() {
    return make([](napi_env env, napi_value* value) { return napi_get_undefined(env, value); });
  }
  napi_value number(double number) {
    return make([=](napi_env env, napi_value* value) { return napi_create_double(env, number, value); });
  }
  napi_value text(const std::string& text) {
    return make([&](napi_env env, napi_value* value) {
      return napi_create_string_utf8(env, text.data(), text.size(), value);
    });
  }
  napi_value object() {
    return make([](napi_env env, napi_value* value) { return napi_create_object(env, value); });
  }
  void set(napi_value object, const std::string& name, napi_value value) {
    const napi_value key = text(name);
    if (ok_) ok_ = napi_set_property(env_, object, key, value) == napi_ok;
  }
  napi_value shape(const std::vector<int64_t>& shape) {
    const napi_value array = make([&](napi_env env, napi_value* value) {
      return napi_create_array_with_length(env, shape.size(), value);
    });
    for (uint32_t i = 0; i < shape.size(); ++i) {
      const napi_value length = number(static_cast<double>(shape[i]));
      if (ok_) ok_ = napi_set_element(env_, array, i, length) == napi_ok;
    }
    return array;
  }
  template <typename T>
  napi_value typed_array(napi_typedarray_type type, std::vector<T> data) {
    const size_t count = data.size();
    const napi_value buffer = array_buffer(std::move(data));
    return make([=](napi_env env, napi_value* value) {
      return napi_create_typedarray(env, type, count, buffer, 0, value);
    });
  }
  napi_value matrix(HostMatrix matrix) {
    const napi_value result = object();
    set(result, "data", typed_array(napi_float32_array, std::move(matrix.data)));
    set(result, "shape", shape(matrix.shape));
    return result;
  }

 private:
  template <typename Make>
  napi_value make(Make&& make) {
    napi_value value = nullptr;
    if (ok_) ok_ = make(env_, &value) == napi_ok;
    return value;
  }

  template <typename T>
  napi_value array_buffer(std::vector<T> data) {
    const size_t bytes = data.size() * sizeof(T);
    if (bytes >= kExternalBytes) {
      if (const napi_value moved = external_buffer(data)) return moved;
    }
    return make([&](napi_env env, napi_value* value) {
      void* target = nullptr;
      const napi_status status = napi_create_arraybuffer(env, bytes, &target, value);
      if (status == napi_ok && bytes) std::memcpy(target, data.data(), bytes);
      return status;
    });
  }

  // Hands the vector's memory over; null, with the vector as it was, where this runtime takes no external memory.
  template <typename T>
  napi_value external_buffer(std::vector<T>& data) {
    if (!ok_) return nullptr;
    auto owner = std::make_unique<std::vector<T>>(std::move(data));
    const auto release = [](napi_env, void*, void* hint) { delete static_cast<std::vector<T>*>(hint); };
    napi_value value = nullptr;
    const size_t bytes = owner->size() * sizeof(T);
    if (napi_create_external_arraybuffer(env_, owner->data(), bytes, release, owner.get(), &value) != napi_ok) {
      data = std::move(*owner);
      return nullptr;
    }
    owner.release();
    return value;
  }

  napi_env env_;
  bool ok_ = true;
};

napi_value make_result(Maker& maker, std::monostate) { return maker.undefined(); }

napi_value make_result(Maker& maker, HostMatrix matrix) { return maker.matrix(std::move(matrix)); }

napi_value make_logprobs(Maker& maker, const std::vector<TokenLogprob>& logprobs) {
  std::vector<int32_t> ids;
  std::vector<float> values;
  for (const auto& [id, logprob] : logprobs) {
    ids.push_back(id);
    values.push_back(logprob);
  }
  const napi_value result = maker.object();
  maker.set(result, "ids", maker.typed_array(napi_int32_array, std::move(ids)));
  maker.set(result, "values", maker.typed_array(napi_float32_array, std::move(values)));
  return result;
}

napi_value make_result(Maker& maker, RunResult run) {
  const napi_value outputs = maker.object();
  for (auto& [name, matrix] : run.outputs) maker.set(outputs, name, maker.matrix(std::move(matrix)));
  const napi_value result = maker.object();
  maker.set(result, "tokens", maker.typed_array(napi_int32_array, std::move(run.tokens)));
  maker.set(result, "outputs", outputs);
  if (!run.logprobs.empty()) maker.set(result, "logprobs", make_logprobs(maker, run.logprobs));
  return result;
}

// An error of the callback becomes an uncaught exception, as from any event handler; a worker that ends has none.
void report_exception(napi_env env) {
  bool pending = false;
  napi_value exception = nullptr;
  if (napi_is_exception_pending(env, &pending) != napi_ok || !pending) return;
  if (napi_get_and_clear_last_exception(env, &exception) == napi_ok) napi_fatal_exception(env, exception);
}

void call(napi_env env, napi_value callback, Completion completion) {
  Maker maker(env);
  napi_value arguments[5];
  arguments[0] = maker.number(static_cast<double>(completion.ticket));
  for (int i = 1; i < 5; ++i) arguments[i] = maker.undefined();
  if (completion.failure) {
    arguments[1] = maker.text(name_of(completion.failure->code));
    arguments[2] = maker.text(completion.failure->message);
    if (completion.failure->rank >= 0) arguments[3] = maker.number(completion.failure->rank);
  } else {
    const auto make = [&](auto&& result) { return make_result(maker, std::move(result)); };
    arguments[4] = std::visit(make, std::move(completion.result));
  }
  const napi_value receiver = maker.undefined();
  if (maker.ok() && napi_call_function(env, receiver, callback, 5, arguments, nullptr) == napi_ok) return;
  report_exception(env);
}

}  // namespace

void call_with(napi_env env, napi_value callback, Completion completion) noexcept {
  napi_handle_scope scope = nullptr;
  if (napi_open_handle_scope(env, &scope) != napi_ok) return;
  try {
    call(env, callback, std::move(completion));
  } catch (...) {
    // std::bad_alloc: the promise stays open, which is all that can be done without memory
  }
  napi_close_handle_scope(env, scope);
}

}  // namespace heddle::addon
