// Boxes: distances and logits, or decoded boxes, to the boxes that are shown.
//
// As tasks/decoding/detection.py of kdeploy, which a bundle holds as runner/python/decode.py.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "json.hpp"
#include "onnxruntime.hpp"
#include "rules.hpp"

namespace detection {

constexpr size_t most_candidates = 300, most_detections = 100;
constexpr float tiny = 1e-6f;
constexpr double least_overlap = 0.7, most_score_change = 0.1, shown_score = 0.3;

using Box = std::array<float, 4>;  // x1 y1 x2 y2 in pixels of the input

struct Found {
  Box box{};
  size_t label = 0;
  float score = 0;
  bool is_number() const {
    return std::isfinite(score) &&
           std::all_of(box.begin(), box.end(), [](float v) { return std::isfinite(v); });
  }
};

struct Candidates {
  std::vector<Box> boxes;
  std::vector<float> logits;  // (boxes, classes)
  size_t classes = 0;
};

inline double sigmoid(float x) {
  const float small = std::exp(-std::fabs(x));  // never overflows
  return x >= 0 ? 1 / (1 + small) : small / (1 + small);
}

inline bool is_empty(const Json& given) {
  return given.kind == Json::null || (given.kind == Json::text && given.string.empty()) ||
         (given.kind == Json::boolean && !given.truth);
}

inline double overlap(const Box& one, const Box& other) {
  const auto side = [](double low, double high) { return std::max(high - low, 0.0); };
  const double shared = side(std::max(one[0], other[0]), std::min(one[2], other[2])) *
                        side(std::max(one[1], other[1]), std::min(one[3], other[3]));
  const double all = side(one[0], one[2]) * side(one[1], one[3]) +
                     side(other[0], other[2]) * side(other[1], other[3]) - shared;
  return all > 0 ? shared / all : 0;
}

// Append the boxes of a map of distances (4, H, W), or of logits of bins (4 * bins, H, W).
inline void add_cells(const Tensor& map, double height, double width, std::vector<Box>& boxes) {
  const size_t rows = size_t(map.shape[2]), columns = size_t(map.shape[3]), cells = rows * columns,
               bins = size_t(map.shape[1]) / 4;
  const float across = float(width / double(columns)), down = float(height / double(rows));
  for (size_t cell = 0; cell < cells; ++cell) {
    float distance[4];
    for (size_t edge = 0; edge < 4; ++edge) {
      if (bins == 1) {
        distance[edge] = float(map.at(edge * cells + cell));
        continue;
      }
      float most = -INFINITY, sum = 0, weighted = 0;
      for (size_t bin = 0; bin < bins; ++bin)
        most = std::max(most, float(map.at((edge * bins + bin) * cells + cell)));
      for (size_t bin = 0; bin < bins; ++bin) {
        const float weight = std::exp(float(map.at((edge * bins + bin) * cells + cell)) - most);
        sum += weight;
        weighted += weight * float(bin);
      }
      distance[edge] = weighted / sum * down;
    }
    const float x = (float(cell % columns) + 0.5f) * across,
                y = (float(cell / columns) + 0.5f) * down;
    boxes.push_back({x - distance[0], y - distance[1], x + distance[2], y + distance[3]});
  }
}

inline void add_level(const Tensor& box, const Tensor& score, const Json& size,
                      const std::string& scores, Candidates& found) {
  const bool is_decoded = box.shape.size() == 3;
  const size_t axes = is_decoded ? 3 : 4;
  if (box.shape.size() != axes || score.shape.size() != axes || count_of(box.shape) == 0 ||
      count_of(score.shape) == 0 || box.shape[0] != 1 || score.shape[0] != 1)
    throw Refused("the model's boxes have shape " + shape_text(box.shape) + " and scores " +
                  shape_text(score.shape));
  const size_t before = found.boxes.size(),
               classes = size_t(is_decoded ? score.shape[2] : score.shape[1]);
  if (is_decoded && box.shape[2] != 4) throw Refused("a box of the model has no 4 edges");
  if (!is_decoded && box.shape[1] % 4 != 0) throw Refused("a box of the model has no 4 edges");
  if (is_decoded)
    for (size_t i = 0; i < size_t(box.shape[1]); ++i)
      found.boxes.push_back({float(box.at(4 * i)), float(box.at(4 * i + 1)),
                             float(box.at(4 * i + 2)), float(box.at(4 * i + 3))});
  else
    add_cells(box, size.items[0].value, size.items[1].value, found.boxes);
  const size_t count = found.boxes.size() - before;
  if (score.count() != count * classes || (found.classes && found.classes != classes))
    throw Refused("the model's boxes and scores are not as many");
  found.classes = classes;
  const bool are_shares = scores == "probabilities" || (scores == "auto" && is_decoded);
  for (size_t i = 0; i < count; ++i)
    for (size_t c = 0; c < classes; ++c) {
      float value = float(score.at(is_decoded ? i * classes + c : c * count + i));
      if (are_shares && !std::isnan(value)) {
        value = std::min(std::max(value, tiny), 1 - tiny);
        value = std::log(value / (1 - value));
      }
      found.logits.push_back(value);
    }
}

// Return the detections of one item, the best first.
inline std::vector<Found> found_in(const onnxruntime::Arrays& outputs,
                                   const std::vector<std::string>& names, const Json& task) {
  const Json& size = task["found"]["size"];
  if (size.items.size() != 2 || !rules::number(0, 1e9)(size.items[0]) ||
      !rules::number(0, 1e9)(size.items[1]))
    throw Refused("manifest.json: task.found.size is no height and width");
  Candidates all;
  for (const std::string& name : names) {
    if (name != "boxes" && !bundle::begins(name, "boxes.")) continue;
    const auto scores = outputs.find("scores" + name.substr(5));
    if (scores == outputs.end()) throw Refused("the model gives " + name + " without scores");
    add_level(outputs.at(name), scores->second, size, task["parameters"]["scores"].string, all);
  }
  if (all.boxes.empty()) throw Refused("the model gives no boxes");
  const auto is_finite = [](float v) { return std::isfinite(v); };
  for (const Box& box : all.boxes)
    if (!std::all_of(box.begin(), box.end(), is_finite)) return {Found{{}, 0, NAN}};
  if (!std::all_of(all.logits.begin(), all.logits.end(), is_finite)) return {Found{{}, 0, NAN}};

  std::vector<Found> one(all.boxes.size());
  for (size_t i = 0; i < one.size(); ++i) {
    const float* row = &all.logits[i * all.classes];
    const size_t label = size_t(std::max_element(row, row + all.classes) - row);
    one[i] = {all.boxes[i], label, float(1 / (1 + std::exp(-row[label])))};
  }
  std::stable_sort(one.begin(), one.end(),
                   [](const Found& a, const Found& b) { return a.score > b.score; });
  if (one.size() > most_candidates) one.resize(most_candidates);
  const double least = task["parameters"]["score_threshold"].value,
               most = task["parameters"]["overlap"].value;
  std::vector<Found> kept;
  for (const Found& next : one) {
    if (!(next.score >= float(least))) break;
    // Greedy: a box that has gone itself suppresses none.
    const bool is_over = std::any_of(kept.begin(), kept.end(), [&](const Found& better) {
      return better.label == next.label && overlap(better.box, next.box) > most;
    });
    if (!is_over) kept.push_back(next);
  }
  if (kept.size() > most_detections) kept.resize(most_detections);
  const float height = float(size.items[0].value), width = float(size.items[1].value);
  for (Found& found : kept)
    for (size_t edge = 0; height > 0 && edge < 4; ++edge)
      found.box[edge] = std::min(std::max(found.box[edge], 0.0f), edge % 2 ? height : width);
  return kept;
}

// Return the first recorded detection that one item's outputs lack, in words; "" for none.
inline std::string disagreement(const std::vector<Found>& found, const std::vector<Found>& expected,
                                const Json& task) {
  for (const Found& row : expected) {
    if (row.score < shown_score) continue;
    const bool is_near = std::any_of(found.begin(), found.end(), [&](const Found& own) {
      return own.label == row.label && overlap(own.box, row.box) >= least_overlap &&
             std::fabs(own.score - row.score) <= float(most_score_change);
    });
    if (is_near) continue;
    const Json& names = task["found"]["classes"];
    std::string corners;
    for (float edge : row.box) corners += (corners.empty() ? "" : ", ") + formatted("%.1f", edge);
    const std::string name = std::isnan(row.score)            ? "NaN"
                             : row.label < names.items.size() ? names.items[row.label].string
                                                              : std::to_string(row.label);
    return name + " at (" + corners + ") with score " + formatted("%.2f", row.score) +
           " is missing";
  }
  return "";
}

}  // namespace detection
