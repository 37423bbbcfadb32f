// What must hold of the parts of a dynamic model, as ../python/rules.py finds it.
#pragma once

#include <string>

#include "rules.hpp"

namespace rules {

// Whether two documents say the same, whatever the order of their members.
inline bool same(const Json& one, const Json& other) {
  if (one.kind != other.kind || one.truth != other.truth || one.string != other.string ||
      one.value != other.value || one.items.size() != other.items.size() ||
      one.members.size() != other.members.size())
    return false;
  for (size_t i = 0; i < one.items.size(); ++i)
    if (!same(one.items[i], other.items[i])) return false;
  for (const auto& [name, member] : one.members)
    if (!other.has(name) || !same(one[name], other[name])) return false;
  return true;
}

inline std::string part_name(size_t number) {
  return "model.part-" + std::to_string(number) + ".onnx";
}

inline void check_parts(const std::string& folder, const Json& manifest,
                        const bundle::Names& digests, size_t count) {
  const std::string file = manifest["model"]["file"].string;
  const Json& told = manifest["dynamic"];
  if (manifest.has("dynamic") != (manifest["model"]["format"].string == "dynamic"))
    throw Refused("manifest.json: `dynamic` is for a model of that format, and for it alone");
  if (!manifest.has("dynamic")) return;
  const auto& parts = told["parts"].items;
  for (size_t number = 0; number < parts.size(); ++number) {
    const std::string name = part_name(number);
    if (!digests.count(name) || digests.at(name) != parts[number]["sha256"].string)
      throw Refused("manifest.json and " + name + " do not fit: another checksum");
    const bool is_open = parts[number]["threshold"].kind == Json::null;
    if (is_open != (number + 1 == parts.size()))
      throw Refused(
          "manifest.json: the last part of a dynamic model has no threshold, all others have");
  }
  bool fits = told["golden"].items.size() == count;
  for (const Json& part : told["golden"].items) fits &= part.value < double(parts.size());
  if (!fits) throw Refused("manifest.json: dynamic.golden does not name a part for each golden item");
  const Bytes bytes = bundle::contents(folder + "/" + file, bundle::most_text_bytes);
  const Json found = json::Reader(std::string(bytes.begin(), bytes.end()), file).document();
  Json without = Json::empty_table();
  for (const auto& [name, member] : told.members)
    if (name != "golden") without.set(name, member);
  if (!same(found, without)) throw Refused("manifest.json and " + file + " do not say the same");
}

}  // namespace rules
