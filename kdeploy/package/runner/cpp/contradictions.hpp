// What the parts of a bundle say against one another, as ../python/rules.py finds it.
#pragma once

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

#include "part_rules.hpp"

namespace rules {

struct Bundle {
  std::string folder;
  Json manifest, tolerance;
  std::vector<Tensor> inputs, outputs;  // golden
};

inline bool is_fed(const Json& manifest, const std::string& name) {
  for (const Json& state : manifest["state"].items)
    if (state["input"].string == name) return true;
  return false;
}

// Return the inputs that are given, in their order: all that are no state.
inline std::vector<const Json*> data_ports(const Json& manifest) {
  std::vector<const Json*> found;
  for (const Json& port : manifest["inputs"].items)
    if (!is_fed(manifest, port["name"].string)) found.push_back(&port);
  return found;
}

// Return whether a call takes one row of what is given for an input, or gives one.
inline bool takes_rows(const Json& port) {
  const auto& shape = port["shape"].items;
  return !shape.empty() &&
         (shape[0].string == "batch" || (shape[0].kind == Json::number && shape[0].value == 1));
}

// Return the sizes of one item beside the axis of the items; -1 where any will do.
inline Shape item_shape(const Json& port) {
  Shape sizes;
  const auto& shape = port["shape"].items;
  for (size_t i = takes_rows(port) ? 1 : 0; i < shape.size(); ++i)
    sizes.push_back(shape[i].kind == Json::number ? int64_t(shape[i].value)
                    : shape[i].string == "batch"  ? 1
                                                  : -1);
  return sizes;
}

inline std::string text(double value) { return formatted("%g", value); }

inline bool holds_quantized(const std::string& path) {
  for (const std::string& name : bundle::Operators(path).found())
    for (const char* start :
         {"QuantizeLinear", "DequantizeLinear", "QLinear", "ConvInteger", "MatMulInteger"})
      if (bundle::begins(name, start)) return true;
  return false;
}

inline void check_model(const std::string& folder, const Json& manifest,
                        const bundle::Names& digests) {
  const Json& said = manifest["model"];
  const std::string file = said["file"].string;
  if (!digests.count(file)) throw Refused("it has no " + file);
  if (said["sha256"].string != digests.at(file))
    throw Refused("manifest.json and " + file + " do not fit: another checksum");
  uint64_t size = 0;
  for (const auto& [name, digest] : digests)
    if (bundle::begins(name, "model.")) size += bundle::File(folder + "/" + name).size;
  if (said["size"].value != double(size))
    throw Refused("manifest.json and " + file + " do not fit: " + text(said["size"].value) +
                  " bytes, found " + std::to_string(size));
  if (said["format"].string == "ort_format") return;
  if (said["format"].string != "onnx" && said["format"].string != "dynamic") {
    throw Refused("this program runs files of ONNX Runtime; this is " + said["format"].string);
  }
  if (said["format"].string == "onnx" && !said.has("opset")) {
    throw Refused("manifest.json: model.opset is absent, and an ONNX file has one");
  }
  bool is_quantized = false;
  for (const auto& [name, digest] : digests)
    if (bundle::begins(name, "model.") && name.size() > 5 &&
        name.compare(name.size() - 5, 5, ".onnx") == 0)
      is_quantized |= holds_quantized(folder + "/" + name);
  if (said["is_quantized"].truth != is_quantized)
    throw Refused("manifest.json: model.is_quantized is not what " + file + " holds");
}

inline const Json* port_named(const Json& ports, const std::string& name) {
  for (const Json& port : ports.items)
    if (port["name"].string == name) return &port;
  return nullptr;
}

// Refuse what is wrong with how an input beside others is made of stored numbers.
inline void check_input_of_several(const Json& manifest, const Json& port) {
  const Json& form = port["preprocessing"];
  const std::string where = "manifest.json: the preprocessing of " + json::shown(port["name"]);
  if (manifest.has("preprocessing") || !takes_rows(port))
    throw Refused(where + " is one too many, or it takes no items");
  const auto& shape = port["shape"].items;
  for (const char* key : {"mean", "std"}) {
    const size_t count = form[key].items.size();
    const bool fits = count == 1 || (shape.size() > 1 && shape[1].value == double(count));
    if (count == 0 || !fits) throw Refused(where + " has a mean and std that do not fit");
  }
  if ((form["vocabulary"].value > 0) != (port["type"].string == "int64"))
    throw Refused(where + " has a vocabulary that does not fit " + port["type"].string);
}

// Whether it takes token ids: texts are as long as they are, so their sizes may be open.
inline bool is_whole(const Json& port) {
  return port["type"].string == "int64" || port["type"].string == "int32";
}

inline void check_ports(const Json& manifest) {
  for (const char* kind : {"inputs", "outputs"}) {
    std::set<std::string> names;
    for (const Json& port : manifest[kind].items)
      if (!names.insert(port["name"].string).second)
        throw Refused(std::string("manifest.json: two ") + kind + " are called alike");
  }
  const bool takes_any_size = manifest["preprocessing"]["folded"].truth;  // see check_input
  for (const Json& port : manifest["inputs"].items)
    for (const Json& size : port["shape"].items)
      if (size.kind == Json::text && size.string != "batch" && !takes_any_size && !is_whole(port))
        throw Refused("manifest.json: the input " + json::shown(port["name"]) +
                      " has an open size beside the batch");
  std::set<std::string> fed;
  for (const Json& state : manifest["state"].items) {
    const Json* one = port_named(manifest["inputs"], state["input"].string);
    const Json* other = port_named(manifest["outputs"], state["output"].string);
    if (!one || !other || (*one)["type"].string != (*other)["type"].string)
      throw Refused("manifest.json: state " + json::shown(state) +
                    " names no input and output of one type");
    if (!fed.insert(state["input"].string).second)
      throw Refused("manifest.json: the states feed an input twice");
  }
  const size_t left = manifest["inputs"].items.size() - fed.size();
  if (left == 0) throw Refused("manifest.json: the states leave no input");
  const bool has_form = manifest.has("preprocessing");
  bool is_told = has_form;
  for (const Json& port : manifest["inputs"].items) {
    is_told |= port.has("preprocessing");
    if (port.has("preprocessing")) check_input_of_several(manifest, port);
  }
  if (!is_told && !manifest["classes"].items.empty())
    throw Refused("manifest.json: classes without preprocessing");
  if (has_form && left != 1)
    throw Refused("manifest.json: preprocessing makes one input of " + std::to_string(left));
}

// Return the shape of pixels that a file takes which prepares them itself; -1: any size.
inline Shape pixel_shape(const Json& form) {
  Shape shape;
  for (size_t axis : {1u, 2u, 0u})
    shape.push_back(axis && !form["resize"].string.empty()
                        ? -1
                        : int64_t(form["shape"].items[axis].value));
  return shape;
}

inline void check_input(const Json& manifest) {
  const Json& form = manifest["preprocessing"];
  const Json& taken = *data_ports(manifest)[0];
  Shape shape, axes;
  for (const Json& size : form["shape"].items) shape.push_back(int64_t(size.value));
  count_of(shape);
  const bool is_folded = form["folded"].truth;
  if (is_folded != (form["layout"].string == "NHWC") || (is_folded && shape.size() != 3))
    throw Refused("manifest.json: preprocessing.folded does not fit layout " +
                  form["layout"].string);
  const auto& sizes = taken["shape"].items;
  for (size_t i = 1; i < sizes.size(); ++i)
    axes.push_back(sizes[i].kind != Json::text                       ? int64_t(sizes[i].value)
                   : is_whole(taken) && i <= shape.size() ? shape[i - 1]
                                                                     : -1);
  if (axes != (is_folded ? pixel_shape(form) : shape) || !takes_rows(taken))
    throw Refused("manifest.json: the preprocessing makes " + shape_text(shape) +
                  ", the file takes " + json::shown(taken["shape"]));
  const std::string dtype = form.has("dtype") ? form["dtype"].string : "float32";
  if (taken["type"].string != (is_folded ? "uint8" : dtype))
    throw Refused("manifest.json: the preprocessing makes " + dtype + ", the file takes " +
                  taken["type"].string);
  for (const char* key : {"mean", "std"}) {
    const size_t count = form[key].items.size();
    if (shape.empty() || (count != 1 && count != size_t(shape[0])))
      throw Refused("manifest.json: mean and std do not fit the channels");
  }
  const std::string layout = form["layout"].string;
  const size_t wanted = layout == "NT" ? 1 : layout.size() - 1;
  const bool is_tokens = dtype == "int64" && !is_folded;
  if (shape.size() != wanted || (layout == "NT") != is_tokens)
    throw Refused("manifest.json: layout " + layout + " for " + dtype + " items of shape " +
                  shape_text(shape));
  if (is_tokens != (form["vocabulary"].value > 0))
    throw Refused("manifest.json: preprocessing.vocabulary does not fit " + dtype);
}

inline void check_classes(const Json& manifest) {
  const auto& classes = manifest["classes"].items;
  const auto& given = manifest["outputs"].items[0]["shape"].items;
  if (manifest.has("preprocessing") &&
      json::written(manifest["classes"]) != json::written(manifest["preprocessing"]["classes"]))
    throw Refused(
        "manifest.json: classes and preprocessing.classes are not the same names in one order");
  std::set<std::string> names;
  for (const Json& one : classes)
    if (!names.insert(one.string).second)
      throw Refused("manifest.json: two classes are called " + json::shown(one));
  const bool fits = !given.empty() && given.back().kind == Json::number &&
                    given.back().value == double(classes.size());
  if (!classes.empty() && !manifest.has("task") && !fits)
    throw Refused("manifest.json: " + std::to_string(classes.size()) +
                  " classes for other outputs");
}

inline bool is_device_metric(const std::string& metric) {
  static const std::set<std::string> known = {"peak_memory",     "size",        "load_time",
                                              "first_inference", "throughput",  "latency.mean",
                                              "latency.p50",     "latency.p90", "latency.p99"};
  return known.count(metric) > 0;
}

inline void check_number(const std::string& name, double value) {
  const bool is_share = (bundle::begins(name, "accuracy.") || bundle::begins(name, "agreement.")) &&
                        name != "agreement.mae" && name != "agreement.cer";
  bool may_be_less = false;
  for (const char* start :
       {"parity.", "regression.r2", "embedding.spearman", "agreement.spearman", "own."})
    may_be_less |= bundle::begins(name, start);
  if (!(0 <= value && value <= (is_share ? 1 : large)) && !may_be_less)
    throw Refused("manifest.json: " + name.substr(0, 60) + " is " + text(value));
}

inline void check_numbers(const Json& manifest) {
  const Json &recorded = manifest["recorded"], &accuracy = manifest["accuracy"];
  for (const Json* table : {&recorded, &accuracy})
    for (const auto& [name, value] : table->members)
      if (value.kind == Json::number) check_number(name, value.value);
  for (const auto& [name, value] : accuracy.members)
    if (value.kind == Json::number && recorded.has(name) && recorded[name].value != value.value)
      throw Refused("manifest.json: " + name.substr(0, 60) + " is recorded twice, and differently");
  if (recorded.has("size") && recorded["size"].value != manifest["model"]["size"].value)
    throw Refused("manifest.json: recorded.size is not that of the file");
  for (const Json& budget : manifest["budgets"].items) {
    const std::string metric = budget["metric"].string;
    const bool is_here = budget["judged"].string == "device";
    if (is_here != is_device_metric(metric) || !(is_here || recorded.has(metric)))
      throw Refused("manifest.json: the budget on " + metric.substr(0, 60) +
                    " is judged by what nobody measured");
    std::string gate = budget["gate"].string;
    gate.erase(0, gate.find_first_not_of(" \t\n\r"));
    if (gate.substr(0, gate.find_first_of(": \t\n\r<>")) != metric)
      throw Refused("manifest.json: the budget " + json::shown(budget["gate"]) + " judges " +
                    metric.substr(0, 60));
  }
}

inline double largest_of(const Tensor& array) {
  double found = 0;
  for (size_t i = 0, n = array.type == Type::f32 ? array.count() : 0; i < n; ++i)
    found = std::max(found, std::fabs(array.at(i)));
  return found;
}

inline void check_tolerance(const Bundle& bundle, const Json& told, size_t place) {
  const double floor = told["floor_of_std"].value, std = told["output_std"].value,
               atol = told["atol"].value;
  if (floor == quantized_floor && !bundle.manifest["model"]["is_quantized"].truth)
    throw Refused("golden/tolerance.json: floor_of_std is 0.1, and the model is not quantized");
  double derived = std::max(floor * std, std::min(spread_margin * told["spread"].value, std));
  if (atol > derived * close && place < bundle.outputs.size())
    derived = std::max({derived, 1e-6 * largest_of(bundle.outputs[place]), 1e-12});
  if (!(derived <= atol * close && atol * close <= derived * close * close))
    throw Refused("golden/tolerance.json: atol " + text(atol) +
                  " does not follow from its own numbers, which give " + text(derived));
  if (told.has("rms_atol") != told.has("rms_spread"))
    throw Refused("golden/tolerance.json: rms_atol and rms_spread are given together");
  if (!told.has("rms_atol")) return;
  const bool is_far = spread_margin * told["spread"].value > std && atol <= std * close;
  if (!is_far && floor != quantized_floor)
    throw Refused(
        "golden/tolerance.json: rms_atol is for outputs of which single numbers move by more");
  const double rms = told["rms_atol"].value,
               follows = std::max(floor * std, std::min(spread_margin * told["rms_spread"].value,
                                                        rms_cap * std));
  if (!(follows <= rms * close && rms * close <= follows * close * close))
    throw Refused("golden/tolerance.json: rms_atol " + text(rms) +
                  " does not follow from its own numbers");
}

inline void check_shapes(const char* name, const std::vector<Tensor>& found,
                         const std::vector<const Json*>& ports, int64_t count) {
  if (found.size() != ports.size())
    throw Refused(std::string(name) + " holds " + std::to_string(found.size()) +
                  " arrays, expected " + std::to_string(ports.size()));
  for (size_t i = 0; i < found.size(); ++i) {
    Shape wanted = item_shape(*ports[i]);
    wanted.insert(wanted.begin(), count);
    bool fits = found[i].shape.size() == wanted.size();
    for (size_t axis = 0; fits && axis < wanted.size(); ++axis)
      fits = wanted[axis] < 0 || wanted[axis] == found[i].shape[axis];
    if (!fits)
      throw Refused(std::string(name) + " has shape " + shape_text(found[i].shape) + ", expected " +
                    shape_text(wanted));
  }
}

inline void check_golden(const Bundle& bundle) {
  const Json& tolerance = bundle.tolerance;
  const auto& further = tolerance["further"].items;
  const auto& outputs = bundle.manifest["outputs"].items;
  const double count = tolerance["num_items"].value;
  std::vector<const Json*> recorded;
  for (size_t i = 0; i < std::min(outputs.size(), 1 + further.size()); ++i)
    recorded.push_back(&outputs[i]);
  check_shapes("golden/inputs.npz", bundle.inputs, data_ports(bundle.manifest), int64_t(count));
  check_shapes("golden/outputs.npz", bundle.outputs, recorded, int64_t(count));
  if (further.size() + 1 != outputs.size() && bundle.manifest["schema_version"].value > 1)
    throw Refused("golden/tolerance.json: not a tolerance for each output");
  check_tolerance(bundle, tolerance, 0);
  for (size_t i = 0; i < further.size(); ++i) check_tolerance(bundle, further[i], i + 1);
  const Shape& given = bundle.outputs[0].shape;
  double number = 1;
  for (size_t i = 0; i + 1 < given.size(); ++i) number *= double(given[i]);
  std::set<double> items;
  for (const Json& item : tolerance["top1_items"].items)
    if (!items.insert(item.value).second || item.value >= number)
      throw Refused(
          "golden/tolerance.json: top1_items names an item twice, or one that is not there");
}

inline std::vector<Tensor> golden(const std::string& folder, const char* name) {
  try {
    std::vector<Tensor> found;
    for (auto& [key, array] :
         npy::arrays(bundle::contents(folder + "/" + name, bundle::most_array_bytes)))
      found.push_back(std::move(array));
    return found;
  } catch (const Refused& error) {
    throw Refused(std::string(name) + " is no plain array file: " + error.what());
  }
}

// Return what a bundle says, whose files are as SHA256SUMS says.
inline Bundle checked(const std::string& folder, const bundle::Names& digests) {
  for (const char* name : {"manifest.json", "golden/inputs.npz", "golden/outputs.npz",
                           "golden/tolerance.json", "runner/python/run.py", "README.md"})
    if (!digests.count(name)) throw Refused(std::string("it has no ") + name);
  Bundle found;
  found.folder = folder;
  found.manifest = document(folder, "manifest.json", of_the_manifest());
  found.tolerance = document(folder, "golden/tolerance.json", of_the_tolerance());
  check_model(folder, found.manifest, digests);
  check_ports(found.manifest);
  if (found.manifest.has("preprocessing")) check_input(found.manifest);
  check_classes(found.manifest);
  check_numbers(found.manifest);
  found.inputs = golden(folder, bundle::golden_arrays[0]);
  found.outputs = golden(folder, bundle::golden_arrays[1]);
  check_golden(found);
  check_parts(folder, found.manifest, digests, size_t(found.tolerance["num_items"].value));
  for (const Json& licence : found.manifest["licences"].items)
    if (!digests.count(licence["file"].string))
      throw Refused("manifest.json: the licence of " + licence["part"].string.substr(0, 60) +
                    " is not there");
  return found;
}

}  // namespace rules
