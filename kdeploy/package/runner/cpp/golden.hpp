// Compare what a model computes here with what was recorded, as ../python/golden.py does.
#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "contradictions.hpp"
#include "decoded.hpp"

namespace golden {

using onnxruntime::Arrays;

struct Check {
  std::string name;
  bool passed = false;
  std::string reason;
  double value = NAN, bound = NAN;  // NaN: there is none
  std::string unit = {};
};

// The first axes as rows of scores.
struct Rows {
  const Tensor& of;
  size_t width, count;
  explicit Rows(const Tensor& array)
      : of(array),
        width(array.shape.empty() ? 1 : size_t(array.shape.back())),
        count(width ? array.count() / width : 0) {}
  size_t best(size_t row) const {
    size_t found = 0;
    for (size_t c = 1; c < width; ++c)
      if (of.at(row * width + c) > of.at(row * width + found)) found = c;
    return found;
  }
  // How far the best is above the second.
  double lead(size_t row) const {
    double first = -INFINITY, second = -INFINITY;
    for (size_t c = 0; c < width; ++c) {
      const double one = of.at(row * width + c);
      if (one > first)
        second = first, first = one;
      else
        second = std::max(second, one);
    }
    return of.type == Type::f32 ? double(float(first) - float(second)) : first - second;
  }
};

inline double deviation(const Tensor& array) {
  double sum = 0, square = 0;
  const size_t count = array.count();
  for (size_t i = 0; i < count; ++i) sum += array.at(i);
  for (size_t i = 0; i < count; ++i)
    square += (array.at(i) - sum / double(count)) * (array.at(i) - sum / double(count));
  return std::sqrt(square / double(count));
}

inline bool sums_to_one(const Tensor& array) {
  const Rows rows(array);
  for (size_t row = 0; row < rows.count; ++row) {
    double sum = 0;
    for (size_t c = 0; c < rows.width; ++c) {
      if (!(array.at(row * rows.width + c) >= 0)) return false;
      sum += array.at(row * rows.width + c);
    }
    if (std::fabs(sum - 1) > 1e-3 + 1e-5) return false;
  }
  return true;
}

// Return the check that fails where the tolerance is not that of the recorded outputs.
inline bool is_wrongly_derived(const Tensor& expected, const Json& tolerance,
                               const std::string& values, Check& check) {
  if (!expected.is_finite()) {
    check = {"golden.max_abs", false, "the recorded outputs are no finite numbers"};
    return true;
  }
  const double std = tolerance["output_std"].value, atol = tolerance["atol"].value;
  bool holds = std::fabs(deviation(expected) - std) <= 1e-8 + 1e-3 * std;
  if (!values.empty() && holds) {
    const Rows rows(expected);
    std::vector<double> clear, said;
    for (size_t row = 0; row < rows.count; ++row)
      if (rows.lead(row) > (expected.type == Type::f32 ? double(float(atol)) : atol))
        clear.push_back(double(row));
    for (const Json& item : tolerance["top1_items"].items) said.push_back(item.value);
    holds = clear == said;  // all but near ties
  }
  if (!holds) {
    check = {"golden.tolerance", false,
             "golden/tolerance.json does not follow from the recorded outputs"};
    return true;
  }
  if (!values.empty() && values != (sums_to_one(expected) ? "probabilities" : "logits")) {
    check = {"golden.values", false,
             "outputs.0.values is '" + values + "', which the recorded outputs are not"};
    return true;
  }
  return false;
}

// Return the check that fails where the file gives a shape that the manifest does not name.
inline bool is_of_another_shape(const Json& port, const std::vector<const Tensor*>& answers,
                                Check& check) {
  const auto& sizes = port["shape"].items;
  for (size_t item = 0; item < answers.size(); ++item) {
    const Shape& shape = answers[item]->shape;
    bool fits = sizes.size() == shape.size();
    for (size_t axis = 0; fits && axis < sizes.size(); ++axis) {
      const double wanted = sizes[axis].kind == Json::number ? sizes[axis].value : 1;
      const bool is_open = sizes[axis].kind == Json::text && sizes[axis].string != "batch";
      fits = is_open || double(shape[axis]) == wanted;
    }
    if (fits) continue;
    check = {"golden.shape", false,
             "item " + std::to_string(item) + ": `" + port["name"].string + "` has shape " +
                 shape_text(shape) + ", the manifest says " + json::shown(port["shape"])};
    return true;
  }
  return false;
}

inline Check of_classes(const std::vector<const Tensor*>& found, const Tensor& expected,
                        const Json& items) {
  size_t agree = 0;
  const Rows recorded(expected);
  const size_t a_call = recorded.count / size_t(expected.shape[0]);
  for (const Json& item : items.items) {
    const size_t row = size_t(item.value), call = row / a_call;
    if (row < recorded.count && call < found.size() &&
        found[call]->count() == a_call * recorded.width)
      agree += Rows(*found[call]).best(row % a_call) == recorded.best(row);
  }
  return {"golden.top1", agree == items.items.size(), "items with their class", double(agree),
          double(items.items.size())};
}

struct Error {
  double largest = 0, rms = 0;
};

// Return how far answers are from what is recorded; infinity of what is no number.
inline Error error_of(const std::vector<const Tensor*>& found, const Tensor& expected) {
  constexpr Error none{INFINITY, INFINITY};
  Error error;
  double sum = 0;
  const size_t each = expected.count() / size_t(expected.shape[0]);
  for (size_t item = 0; item < size_t(expected.shape[0]); ++item) {
    if (item >= found.size() || found[item]->count() != each) return none;
    for (size_t i = 0; i < each; ++i) {
      const double away = std::fabs(found[item]->at(i) - expected.at(item * each + i));
      if (!std::isfinite(away)) return none;
      error.largest = std::max(error.largest, away);
      sum += away * away;
    }
  }
  error.rms = std::sqrt(sum / double(std::max<size_t>(1, expected.count())));
  return error;
}

// The output that is furthest from what is recorded, as a share of what is allowed.
struct Worst {
  const char *name, *what;
  double value = -1, bound = 1;
  void add(double error, double allowed) {
    if (error / allowed >= value / bound) value = error, bound = allowed;
  }
  void tell(const std::string& about, std::vector<Check>& checks) const {
    if (value >= 0) checks.push_back({name, value <= bound, what + about, value, bound});
  }
};

inline void check_decoded(const rules::Bundle& bundle, const std::vector<std::string>& names,
                          const std::vector<Arrays>& answers, std::vector<Check>& checks) {
  const Json& task = bundle.manifest["task"];
  const decoded::Comparison compare = decoded::comparison_of(task);
  if (!compare) return;
  const size_t count = std::min(answers.size(), size_t(bundle.outputs[0].shape[0]));
  for (size_t item = 0; item < count; ++item) {
    Arrays expected;
    for (size_t i = 0; i < names.size() && i < bundle.outputs.size(); ++i)
      expected[names[i]] = bundle.outputs[i].item(item, true);
    const bool is_alike = answers[item].at(names[0]).shape == expected.at(names[0]).shape;
    const std::string wrong =
        is_alike ? compare({answers[item], names}, {expected, names}, task,
                           bundle.tolerance["atol"].value)
                 : "the answer has another shape";
    if (!wrong.empty()) {
      checks.push_back({"golden.decoded", false, "item " + std::to_string(item) + ": " + wrong});
      return;
    }
  }
  checks.push_back({"golden.decoded", true,
                    "what is read in " + std::to_string(count) + " items is as recorded"});
}

// Append the checks of the answers to the recorded items.
inline void check(const rules::Bundle& bundle, const std::vector<std::string>& names,
                  const std::vector<Arrays>& answers, std::vector<Check>& checks) {
  const std::string values = bundle.manifest["outputs"].items[0]["values"].string;
  Worst by_largest{"golden.max_abs", "largest difference"},
      by_rms{"golden.rms", "root mean square of the difference"};
  std::vector<Check> classes;
  for (size_t place = 0; place < bundle.outputs.size(); ++place) {
    const Tensor& expected = bundle.outputs[place];
    const Json& told = place == 0 ? bundle.tolerance : bundle.tolerance["further"].items[place - 1];
    Check wrong;
    if (is_wrongly_derived(expected, told, place == 0 ? values : "", wrong)) {
      checks.push_back(wrong);
      return;
    }
    std::vector<const Tensor*> found;
    for (const Arrays& answer : answers) found.push_back(&answer.at(names[place]));
    if (is_of_another_shape(bundle.manifest["outputs"].items[place], found, wrong)) {
      checks.push_back(wrong);
      return;
    }
    const Error error = error_of(found, expected);
    if (told.has("rms_atol"))
      by_rms.add(error.rms, told["rms_atol"].value);
    else
      by_largest.add(error.largest, told["atol"].value);
    if (place == 0 && !values.empty())
      classes.push_back(of_classes(found, expected, told["top1_items"]));
  }
  const std::string about =
      " to the outputs of " + std::to_string(bundle.outputs[0].shape[0]) + " items";
  by_largest.tell(about, checks);
  by_rms.tell(about, checks);
  checks.insert(checks.end(), classes.begin(), classes.end());
  check_decoded(bundle, names, answers, checks);
}

}  // namespace golden
