// Results as lines for people, as ../python/run.py prints them.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "json.hpp"

namespace shown {

inline void flat(const Json& given, std::vector<double>& numbers) {
  if (given.kind == Json::number) numbers.push_back(given.value);
  for (const Json& item : given.items) flat(item, numbers);
}

inline std::string shortened(const Json& given) {
  std::vector<double> numbers;
  flat(given, numbers);
  std::string text;
  if (numbers.size() <= 8) {
    for (double number : numbers) text += (text.empty() ? "" : ", ") + formatted("%.5g", number);
    return text;
  }
  const auto [least, most] = std::minmax_element(numbers.begin(), numbers.end());
  return std::to_string(numbers.size()) + " numbers from " + formatted("%.5g", *least) + " to " +
         formatted("%.5g", *most);
}

inline std::string value(const Json& given) {
  std::string text;
  if (given.kind == Json::text) return given.string;
  if (given.kind == Json::table) {
    for (const auto& [name, member] : given.members)
      text += (text.empty() ? "" : ", ") + name + " " + value(member);
    return text.empty() ? "none" : text;
  }
  if (given.kind == Json::number && !given.is_integer) return formatted("%.4g", given.value);
  const auto kind = given.items.empty() ? Json::null : given.items[0].kind;
  if (kind != Json::table && kind != Json::text) return shortened(given);
  for (const Json& item : given.items)
    text += (text.empty() ? "" : kind == Json::table ? "; " : " ") + value(item);
  return text;
}

inline std::string report(const Json& result) {
  std::string text;
  for (const Json& check : result["checks"].items) {
    std::string name = check["check"].string;
    name.resize(std::max<size_t>(name.size(), 26), ' ');
    text +=
        (check["passed"].truth ? "ok    " : "FAIL  ") + name + " " + check["reason"].string + "\n";
  }
  return text + (result["passed"].truth ? "passed" : "FAILED");
}

inline std::string measured(const Json& result) {
  std::string text;
  for (const auto& [name, member] : result["measured"].members)
    text += (text.empty() ? "" : "\n") + name + " " + value(member);
  return text;
}

inline std::string predictions(const Json& result) {
  std::string text;
  for (const Json& one : result["predictions"].items) {
    text += (text.empty() ? "" : "\n") + one["input"].string + "[" +
            std::to_string(int64_t(one["item"].value)) + "]: ";
    if (one.has("class")) text += one["class"].string + " " + formatted("%.4f", one["score"].value);
    std::string parts;
    for (const auto& [name, member] :
         (one.has("decoded") ? one["decoded"] : one["outputs"]).members)
      parts += (parts.empty() ? "" : ", ") + name + " " +
               (one.has("decoded") ? value(member) : shortened(member));
    text += parts;
  }
  return text;
}

}  // namespace shown
