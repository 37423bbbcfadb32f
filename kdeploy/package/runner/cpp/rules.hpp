// What must hold of a bundle before anything in it runs, as ../python/schema.py and rules.py say
// it.
#pragma once

#include <cmath>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "json.hpp"
#include "tensor.hpp"

namespace rules {

constexpr double large = 1e30, float_floor = 1e-3, quantized_floor = 0.1, spread_margin = 4.0,
                 rms_cap = 0.5;
constexpr double close = 1 + 1e-6;  // JSON keeps decimals: the last digit may differ
constexpr int most_items = 16;

using Test = std::function<bool(const Json&)>;
struct Rule {
  const char* key;  // `[]`: each of a list, `{}`: each of a table, `?`: may be absent
  Test test;
};

inline bool is_text(const Json& v) {
  return v.kind == Json::text && v.string.size() <= 400'000 &&
         v.string.find('\0') == std::string::npos;
}
inline bool is_named(const Json& v) {
  return is_text(v) && v.string.find_first_not_of(" \t\n\r\v\f") != std::string::npos;
}
inline bool is_truth(const Json& v) { return v.kind == Json::boolean; }
inline bool is_table(const Json& v) { return v.kind == Json::table; }
inline bool is_list(const Json& v) { return v.kind == Json::list; }
inline Test whole(double low, double high) {
  return [=](const Json& v) {
    return v.kind == Json::number && v.is_integer && low <= v.value && v.value <= high;
  };
}
inline Test number(double low, double high) {
  return [=](const Json& v) { return v.kind == Json::number && low <= v.value && v.value <= high; };
}
inline Test among(std::set<std::string> names) {
  return [names = std::move(names)](const Json& v) {
    return v.kind == Json::text && names.count(v.string);
  };
}
inline Test many(size_t low, size_t high) {
  return
      [=](const Json& v) { return is_list(v) && low <= v.items.size() && v.items.size() <= high; };
}
inline bool spelled(const std::string& text, size_t least, size_t most, const char* letters) {
  return text.size() >= least && text.size() <= most &&
         text.find_first_not_of(letters) == std::string::npos;
}
constexpr const char* small_letters = "abcdefghijklmnopqrstuvwxyz0123456789";
constexpr const char* small_letters_and_line = "abcdefghijklmnopqrstuvwxyz0123456789_";
constexpr const char* of_file_names =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-";
inline bool is_model_file(const Json& v) {
  return v.kind == Json::text && bundle::begins(v.string, "model.") &&
         spelled(v.string.substr(6), 1, 20, small_letters);
}
inline bool is_licence_file(const Json& v) {
  return v.kind == Json::text && bundle::begins(v.string, "LICENSES/") && v.string.size() > 9 &&
         v.string[9] != '.' && v.string[9] != '-' &&
         spelled(v.string.substr(9), 1, 250, of_file_names);
}
inline bool is_axis(const Json& v) {
  return (v.kind == Json::text && !v.string.empty() && v.string.size() <= 800) ||
         whole(1, double(most_numbers))(v);
}
inline bool is_floor(const Json& v) {
  return v.kind == Json::number && (v.value == float_floor || v.value == quantized_floor);
}
inline bool is_threshold(const Json& v) { return v.kind == Json::null || number(0, 1)(v); }
inline bool is_margin(const Json& v) { return v.kind == Json::number && v.value == spread_margin; }
inline bool is_ground(const Json& v) {
  return is_list(v) && (v.items.empty() || v.items.size() == 3);
}

inline const std::vector<Rule>& of_the_manifest() {
  static const Test any = number(-large, large),
                    type = among({"float16", "float32", "float64", "bfloat16", "int8", "int16",
                                  "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool",
                                  "object"}),
                    values = among({"", "logits", "probabilities"});
  static const std::vector<Rule> table = {
      {"schema_version", whole(1, 2)},
      {"kind", among({"bundle"})},
      {"name", is_named},
      {"created", is_text},
      {"kdeploy", is_text},
      {"artifact", is_text},
      {"chosen_because", is_text},
      {"model", is_table},
      {"model.file", is_model_file},
      {"model.format",
       [](const Json& v) {
         return v.kind == Json::text && spelled(v.string, 1, 40, small_letters_and_line);
       }},
      {"model.sha256",
       [](const Json& v) { return v.kind == Json::text && bundle::is_digest(v.string); }},
      {"model.size", whole(1, double(bundle::most_bytes))},
      {"model.opset?", whole(1, 1000)},
      {"model.profile", is_text},
      {"model.is_quantized", is_truth},
      {"inputs", many(1, 100)},
      {"inputs[].name", is_named},
      {"inputs[].shape", is_list},
      {"inputs[].shape[]", is_axis},
      {"inputs[].type", type},
      {"inputs[].values", values},
      {"inputs[].preprocessing?", is_table},
      {"inputs[].preprocessing?.scale", number(1 / large, large)},
      {"inputs[].preprocessing?.mean", is_list},
      {"inputs[].preprocessing?.mean[]", any},
      {"inputs[].preprocessing?.std", is_list},
      {"inputs[].preprocessing?.std[]", number(1 / large, large)},
      {"inputs[].preprocessing?.vocabulary", whole(0, 2147483648.0)},
      {"outputs", many(1, 1000)},
      {"outputs[].name", is_named},
      {"outputs[].shape", is_list},
      {"outputs[].shape[]", is_axis},
      {"outputs[].type", type},
      {"outputs[].values", values},
      {"release?", whole(1, 2147483648.0)},
      {"state?", many(1, 100)},
      {"state?[].input", is_named},
      {"state?[].output", is_named},
      {"preprocessing?", is_table},
      {"preprocessing?.layout", among({"NCTHW", "NCHW", "NHWC", "NCL", "NC", "NT"})},
      {"preprocessing?.shape", is_list},
      {"preprocessing?.shape[]", whole(1, double(most_numbers))},
      {"preprocessing?.scale", number(1 / large, large)},
      {"preprocessing?.mean", is_list},
      {"preprocessing?.mean[]", any},
      {"preprocessing?.std", is_list},
      {"preprocessing?.std[]", number(1 / large, large)},
      {"preprocessing?.resize", among({"", "bilinear", "letterbox"})},
      {"preprocessing?.background?", is_ground},
      {"preprocessing?.background?[]", whole(0, 255)},
      {"preprocessing?.folded?", is_truth},
      {"preprocessing?.classes", is_list},
      {"preprocessing?.classes[]", is_named},
      {"preprocessing?.dtype?", among({"float32", "int64"})},
      {"preprocessing?.vocabulary?", whole(0, 2147483648.0)},
      {"task?", is_table},
      {"task?.name", is_named},
      {"task?.parameters", is_table},
      {"task?.found", is_table},
      {"dynamic?", is_table},
      {"dynamic?.parts", many(2, 8)},
      {"dynamic?.parts[].label", is_named},
      {"dynamic?.parts[].sha256",
       [](const Json& v) { return v.kind == Json::text && bundle::is_digest(v.string); }},
      {"dynamic?.parts[].takes", is_table},
      {"dynamic?.parts[].takes{}", is_named},
      {"dynamic?.parts[].logits", is_named},
      {"dynamic?.parts[].temperature", number(1e-3, 1e3)},
      {"dynamic?.parts[].threshold", is_threshold},
      {"dynamic?.score", among({"largest_probability"})},
      {"dynamic?.calibration", is_table},
      {"dynamic?.calibration.early_share", number(0, 1)},
      {"dynamic?.calibration.early_share_interval", many(2, 2)},
      {"dynamic?.calibration.early_share_interval[]", number(0, 1)},
      {"dynamic?.golden", many(1, most_items)},
      {"dynamic?.golden[]", whole(0, 7)},
      {"classes", is_list},
      {"classes[]", is_named},
      {"accuracy", is_table},
      {"recorded", is_table},
      {"recorded{}", any},
      {"budgets", many(0, 100)},
      {"budgets[].gate", is_named},
      {"budgets[].metric", is_named},
      {"budgets[].is_upper", is_truth},
      {"budgets[].bound", any},
      {"budgets[].unit", is_text},
      {"budgets[].judged", among({"device", "recorded"})},
      {"licences", many(0, 100)},
      {"licences[].part", is_named},
      {"licences[].identifier", is_text},
      {"licences[].file", is_licence_file},
      {"machine", is_table},
      {"made_with", is_table},
      {"made_with{}", is_text},
      {"lineage", is_list},
      {"lineage[]", is_table}};
  return table;
}

inline const std::vector<Rule>& of_the_tolerance() {
  static const Test size = number(0, large), bound = number(1e-12, large);
  static const std::vector<Rule> table = {{"num_items", whole(1, most_items)},
                                          {"top1_items", is_list},
                                          {"top1_items[]", whole(0, double(most_numbers))},
                                          {"atol", bound},
                                          {"output_std", size},
                                          {"floor_of_std", is_floor},
                                          {"spread", size},
                                          {"spread_margin", is_margin},
                                          {"rms_spread?", size},
                                          {"rms_atol?", bound},
                                          {"further?", many(1, 1000)},
                                          {"further?[].atol", bound},
                                          {"further?[].output_std", size},
                                          {"further?[].floor_of_std", is_floor},
                                          {"further?[].spread", size},
                                          {"further?[].spread_margin", is_margin},
                                          {"further?[].rms_spread?", size},
                                          {"further?[].rms_atol?", bound}};
  return table;
}

// Refuse a value below `found` that breaks a rule; `key` is what is left of its place.
inline void check(const std::string& file, const Json& found, const std::string& key,
                  const std::string& place, const Test& test) {
  if (key.empty()) {
    if (!test(found))
      throw Refused(file + ": " + place.substr(1) + " is " + json::shown(found) +
                    ", which no bundle has");
    return;
  }
  const size_t dot = key.find('.');
  std::string own = key.substr(0, dot);
  const std::string rest = dot == std::string::npos ? "" : key.substr(dot + 1);
  const bool is_each = own.size() > 2 && own.compare(own.size() - 2, 2, "[]") == 0;
  const bool is_any = own.size() > 2 && own.compare(own.size() - 2, 2, "{}") == 0;
  const bool may_lack = own.find('?') != std::string::npos;
  own = own.substr(0, own.find_first_of("[]{}?"));
  if (may_lack && found.kind == Json::table && !found.has(own)) return;
  const std::string here = place + "." + own;
  if (!found.has(own))
    throw Refused(file + ": " + here.substr(1) + " is absent, which no bundle has");
  const Json& inner = found[own];
  if (is_each && inner.kind == Json::list) {
    for (size_t i = 0; i < inner.items.size(); ++i)
      check(file, inner.items[i], rest, here + "." + std::to_string(i), test);
  } else if (is_any && inner.kind == Json::table) {
    for (const auto& [name, member] : inner.members)
      check(file, member, rest, here + "." + name.substr(0, 60), test);
  } else if (!is_each && !is_any) {
    check(file, inner, rest, here, test);
  } else if (!test(inner)) {
    throw Refused(file + ": " + here.substr(1) + " is " + json::shown(inner) +
                  ", which no bundle has");
  }
}

inline Json document(const std::string& folder, const std::string& name,
                     const std::vector<Rule>& table) {
  const Bytes bytes = bundle::contents(folder + "/" + name, bundle::most_text_bytes);
  Json found = json::Reader(std::string(bytes.begin(), bytes.end()), name).document();
  if (found.kind != Json::table) throw Refused(name + " is no JSON object");
  for (const Rule& rule : table) check(name, found, rule.key, "", rule.test);
  return found;
}

}  // namespace rules
