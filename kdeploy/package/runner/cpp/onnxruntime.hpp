// Run an ONNX file by ONNX Runtime, which is opened when the program starts.
//
// Its C interface is one table of functions. Their order never changes: later versions add at the
// end (https://onnxruntime.ai/docs/api/c/struct_ort_api.html). Those used here are of version 1, so
// that any libonnxruntime will do, without its headers.
#pragma once

#include <dlfcn.h>

#include <map>
#include <string>
#include <vector>

#include "tensor.hpp"

namespace onnxruntime {

struct ApiBase {
  const void* const* (*api)(uint32_t version);
  const char* (*version)();
};
enum Place {
  get_error_message = 2,
  create_env = 3,
  create_session = 7,
  run = 9,
  create_session_options = 10,
  disable_cpu_mem_arena = 19,
  set_session_log_severity_level = 22,
  set_session_graph_optimization_level = 23,
  set_intra_op_num_threads = 24,
  session_get_input_count = 30,
  session_get_output_count = 31,
  session_get_output_name = 37,
  create_tensor_with_data = 49,
  is_tensor = 50,
  get_tensor_mutable_data = 51,
  get_tensor_element_type = 60,
  get_dimensions_count = 61,
  get_dimensions = 62,
  get_tensor_type_and_shape = 65,
  create_cpu_memory_info = 69,
  allocator_free = 76,
  get_allocator_with_default_options = 78,
  release_status = 93,
  release_value = 96,
  release_tensor_type_and_shape_info = 99
};
constexpr int enable_all = 99, arena_allocator = 1, default_memory = 0, errors_only = 3;

using Arrays = std::map<std::string, Tensor>;

class Session {
 public:
  // Names are those of the manifest, in its order; none: all that the file gives.
  Session(const std::string& library, const std::string& path, int threads,
          std::vector<std::string> outputs)
      : outputs_(std::move(outputs)) {
    const ApiBase* base = opened(library);
    version_ = base->version();
    api_ = base->api(1);
    if (api_ == nullptr)
      throw Stop("ONNX Runtime " + version_ + " has no C interface of version 1",
                 "install another onnxruntime", 3);
    void* options = nullptr;
    call<int, const char*, void**>(create_env, errors_only, "bundle_runner", &environment_);
    call<void**>(create_session_options, &options);
    call<void*, int>(set_session_graph_optimization_level, options, enable_all);
    call<void*, int>(set_intra_op_num_threads, options, threads);
    call<void*, int>(set_session_log_severity_level, options, errors_only);
    call<void*>(disable_cpu_mem_arena, options);
    call<const void*, const char*, const void*, void**>(create_session, environment_, path.c_str(),
                                                        options, &session_);
    call<int, int, void**>(create_cpu_memory_info, arena_allocator, default_memory, &memory_);
    size_t count = 0;
    call<const void*, size_t*>(session_get_output_count, session_, &count);
    if (outputs_.empty())
      for (size_t i = 0; i < count; ++i) outputs_.push_back(output_name(i));
    if (count != outputs_.size())
      throw Refused("the file has another number of outputs than the manifest");
  }
  const std::string& version() const { return version_; }

  Arrays operator()(Arrays& inputs) const {
    std::vector<const char*> input_names, output_names;
    std::vector<void*> given, made(outputs_.size(), nullptr);
    for (auto& [name, array] : inputs) {
      input_names.push_back(name.c_str());
      given.push_back(value_of(array));
    }
    for (const std::string& name : outputs_) output_names.push_back(name.c_str());
    const std::string wrong = run_(input_names, given, output_names, made);
    Arrays found;
    try {
      if (!wrong.empty()) throw Refused(wrong);
      for (size_t i = 0; i < made.size(); ++i) found[outputs_[i]] = array_of(made[i]);
    } catch (...) {
      released(given, made);
      throw;
    }
    released(given, made);
    return found;
  }

 private:
  // What the library holds goes with the process: the files of one bundle a program.
  const void* const* api_ = nullptr;
  void *environment_ = nullptr, *session_ = nullptr, *memory_ = nullptr;
  std::string version_;
  std::vector<std::string> outputs_;

  static const ApiBase* opened(const std::string& library) {
    std::string reasons;
    for (const std::string& name :
         library.empty()
             ? std::vector<std::string>{ONNXRUNTIME, "libonnxruntime.so.1", "libonnxruntime.so"}
             : std::vector<std::string>{library}) {
      if (name.empty()) continue;
      if (void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) {
        if (void* entry = dlsym(handle, "OrtGetApiBase"))
          return reinterpret_cast<const ApiBase* (*)()>(entry)();
        reasons += "\n  " + name + " is not ONNX Runtime";
      } else {
        reasons += std::string("\n  ") + dlerror();
      }
    }
    throw Stop("ONNX Runtime cannot be opened:" + reasons,
               "name it with --library FILE: libonnxruntime.so of a release, or `pip install "
               "onnxruntime` and its folder capi/",
               3);
  }
  template <class Function>
  Function function(Place place) const {
    return reinterpret_cast<Function>(const_cast<void*>(api_[place]));
  }
  template <class... Types>
  std::string told(Place place, Types... values) const {
    void* status = function<void* (*)(Types...)>(place)(values...);
    if (status == nullptr) return "";
    const std::string message = function<const char* (*)(const void*)>(get_error_message)(status);
    function<void (*)(void*)>(release_status)(status);
    return message.empty() ? "ONNX Runtime failed" : message.substr(0, 500);
  }
  template <class... Types>
  void call(Place place, Types... values) const {
    const std::string message = told<Types...>(place, values...);
    if (!message.empty()) throw Refused(message);
  }
  std::string run_(std::vector<const char*>& input_names, std::vector<void*>& given,
                   std::vector<const char*>& output_names, std::vector<void*>& made) const {
    return told<void*, const void*, const char* const*, const void* const*, size_t,
                const char* const*, size_t, void**>(run, session_, nullptr, input_names.data(),
                                                    given.data(), given.size(), output_names.data(),
                                                    output_names.size(), made.data());
  }
  std::string output_name(size_t index) const {
    void* allocator = nullptr;
    char* name = nullptr;
    call<void**>(get_allocator_with_default_options, &allocator);
    call<const void*, size_t, void*, char**>(session_get_output_name, session_, index, allocator,
                                             &name);
    const std::string found = name;
    call<void*, void*>(allocator_free, allocator, name);
    return found;
  }
  // The value only points at the array, which must live as long.
  void* value_of(Tensor& array) const {
    void* value = nullptr;
    call<const void*, void*, size_t, const int64_t*, size_t, int, void**>(
        create_tensor_with_data, memory_, array.data.data(), array.data.size(), array.shape.data(),
        array.shape.size(), facts_of(array.type).onnx, &value);
    return value;
  }
  Tensor array_of(void* value) const {
    int is = 0, type = 0;
    void *facts = nullptr, *data = nullptr;
    size_t axes = 0;
    if (value != nullptr) call<const void*, int*>(is_tensor, value, &is);
    if (!is) throw Refused("an output of the model is no array");
    call<const void*, void**>(get_tensor_type_and_shape, value, &facts);
    call<const void*, int*>(get_tensor_element_type, facts, &type);
    call<const void*, size_t*>(get_dimensions_count, facts, &axes);
    Shape shape(axes);
    call<const void*, int64_t*, size_t>(get_dimensions, facts, shape.data(), axes);
    function<void (*)(void*)>(release_tensor_type_and_shape_info)(facts);
    for (const auto& one : types)
      if (one.onnx == type) {
        Tensor made(one.type, shape);
        call<void*, void**>(get_tensor_mutable_data, value, &data);
        if (!made.data.empty()) std::memcpy(made.data.data(), data, made.data.size());
        return made;
      }
    throw Refused("an output of the model holds no plain numbers");
  }
  void released(const std::vector<void*>& given, const std::vector<void*>& made) const {
    for (const auto* values : {&given, &made})
      for (void* value : *values) function<void (*)(void*)>(release_value)(value);
  }
};

}  // namespace onnxruntime
