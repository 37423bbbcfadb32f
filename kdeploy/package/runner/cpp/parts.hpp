// The parts of a model: one file, or several that are asked in turn until one is sure, as
// ../python/parts.py and the session of a dynamic bundle have it.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "golden.hpp"
#include "onnxruntime.hpp"

namespace parts {

using onnxruntime::Arrays;
using Numbers = std::vector<size_t>;

constexpr double sure = 2.576;  // standard deviations: 99 % of draws lie within
constexpr size_t fewest_items = 100;  // fewer say nothing of a share

// Add as numpy does: eight sums side by side, halves apart from 128 numbers on.
inline float summed(const float* numbers, size_t count) {
  if (count < 8) {
    float sum = 0;
    for (size_t i = 0; i < count; ++i) sum += numbers[i];
    return sum;
  }
  if (count > 128) {
    const size_t half = count / 2 - count / 2 % 8;
    return summed(numbers, half) + summed(numbers + half, count - half);
  }
  float r[8];
  std::copy(numbers, numbers + 8, r);
  size_t i = 8;
  for (; i < count - count % 8; i += 8)
    for (size_t k = 0; k < 8; ++k) r[k] += numbers[i + k];
  float sum = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
  for (; i < count; ++i) sum += numbers[i];
  return sum;
}

// Return the largest of softmax(logits / temperature); NaN where a logit is.
inline float score(const Tensor& logits, double temperature) {
  std::vector<float> apart;
  float most = -INFINITY;
  for (size_t i = 0; i < logits.count(); ++i) {
    apart.push_back(float(logits.at(i)));
    if (std::isnan(apart.back())) return NAN;
    most = std::max(most, apart.back());
  }
  for (float& one : apart) one = std::exp((one - most) / float(temperature));
  return 1 / summed(apart.data(), apart.size());
}

class Model {
 public:
  // Opens the files of a bundle whose rules hold.
  Model(const std::string& library, const rules::Bundle& bundle, int threads,
        const std::vector<std::string>& outputs)
      : parts_(bundle.manifest["dynamic"]["parts"].items) {
    const auto open = [&](const std::string& file, const std::vector<std::string>& names) {
      sessions_.push_back(std::make_unique<onnxruntime::Session>(
          library, bundle.folder + "/" + file, threads, names));
    };
    if (parts_.empty()) open(bundle.manifest["model"]["file"].string, outputs);
    for (size_t i = 0; i < parts_.size(); ++i) open(rules::part_name(i), {});
  }
  const std::string& version() const { return sessions_[0]->version(); }
  // Which part gave the last answer.
  size_t part() const { return part_; }

  Arrays operator()(Arrays& call) {
    if (parts_.empty()) return (*sessions_[0])(call);
    Arrays known = std::move(call);
    for (part_ = 0;; ++part_) {
      const Json& told = parts_[part_];
      Arrays given;
      for (const auto& [own, of] : told["takes"].members) given[own] = taken(known, of.string);
      const Arrays outputs = (*sessions_[part_])(given);
      const Tensor logits = taken(outputs, told["logits"].string);
      const bool is_last = told["threshold"].kind == Json::null;
      if (is_last || score(logits, told["temperature"].value) >= float(told["threshold"].value))
        return {{parts_[0]["logits"].string, logits}};
      for (const auto& [name, array] : outputs) known[name] = array;
    }
  }

 private:
  const std::vector<Json>& parts_;
  std::vector<std::unique_ptr<onnxruntime::Session>> sessions_;
  size_t part_ = 0;

  static const Tensor& taken(const Arrays& known, const std::string& name) {
    const auto found = known.find(name);
    if (found == known.end()) throw Refused("no part of the model gives " + name.substr(0, 60));
    return found->second;
  }
};

// Return the check that each golden item is answered by the part that answered it at packaging.
inline golden::Check check(const Json& manifest, const Numbers& found) {
  const auto& recorded = manifest["dynamic"]["golden"].items;
  Numbers counts(manifest["dynamic"]["parts"].items.size());
  for (size_t item = 0; item < found.size(); ++item) {
    const size_t part = size_t(recorded[item].value);
    if (found[item] != part)
      return {"golden.parts", false,
              "item " + std::to_string(item) + " is answered by part " +
                  std::to_string(found[item]) + ", recorded is " + std::to_string(part)};
    ++counts[part];
  }
  std::string text;
  for (size_t part = 0; part < counts.size(); ++part)
    if (counts[part])
      text += (text.empty() ? "" : ", ") + std::to_string(counts[part]) + " by part " +
              std::to_string(part);
  return {"golden.parts", true, "items answered as recorded: " + text};
}

// Return golden calls in the shares of early and late answers that the calibration has seen.
inline std::vector<Arrays> mixed(const Json& manifest, const std::vector<Arrays>& calls) {
  const Json& told = manifest["dynamic"];
  std::vector<const Arrays*> early, late;
  for (size_t i = 0; i < calls.size(); ++i)
    (told["golden"].items[i].value + 1 < double(told["parts"].items.size()) ? early : late)
        .push_back(&calls[i]);
  if (early.empty() || late.empty()) return calls;
  const double share = told["calibration"]["early_share"].value;
  std::vector<Arrays> found;
  for (size_t i = 0; i < 1000; ++i) {
    const bool is_early = std::floor(double(i + 1) * share) > std::floor(double(i) * share);
    const auto& kind = is_early ? early : late;
    found.push_back(*kind[i % kind.size()]);
  }
  return found;
}

// Set the share of early answers, and a warning where it is not that of the calibration.
inline void count(const Json& manifest, const Numbers& found, Json& result) {
  const Json& calibration = manifest["dynamic"]["calibration"];
  const size_t last = manifest["dynamic"]["parts"].items.size() - 1, items = found.size();
  const auto early = std::count_if(found.begin(), found.end(), [&](size_t p) { return p < last; });
  const double share = double(early) / double(items),
               known = calibration["early_share"].value;
  const auto& interval = calibration["early_share_interval"].items;
  const double nearest = std::min(std::max(share, interval[0].value), interval[1].value);
  const double noise = sure * std::sqrt(nearest * (1 - nearest) / double(items));
  result.set("early_share", share).set("early_share_of_calibration", known);
  if (items < fewest_items || std::fabs(share - nearest) <= noise) return;
  result.set("warning",
             formatted("%.1f%%", 100 * share) + " of " + std::to_string(items) +
                 " items were answered early, at calibration it was " +
                 formatted("%.1f%%", 100 * known) +
                 ": these are other items, and what was promised of the accuracy does not hold "
                 "for them");
}

}  // namespace parts
