// What outputs mean, one task a function, as the files of ../../../tasks/decoding say it.
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "detection.hpp"
#include "json.hpp"
#include "onnxruntime.hpp"

namespace decode {

using onnxruntime::Arrays;

// The outputs of one item, in the order of the manifest.
struct Answer {
  const Arrays& arrays;
  const std::vector<std::string>& names;
  const Tensor& first() const { return arrays.at(names[0]); }
};

// The first row of an output with at least so many axes, and what stands behind its first axis.
struct Row {
  const Tensor& of;
  Shape shape;
  Row(const Tensor& output, size_t axes) : of(output), shape(output.shape) {
    if (shape.size() != axes || count_of(shape) == 0)
      throw Refused("the model's answer has shape " + shape_text(shape) +
                    ", which the task cannot read");
    shape.erase(shape.begin());
  }
  double at(size_t i) const { return of.at(i); }
  size_t best(size_t row) const {  // of the last axis; NaN is the best, as numpy's argmax has it
    const size_t width = size_t(shape.back());
    size_t found = 0;
    for (size_t c = 0; c < width; ++c) {
      const double one = at(row * width + c), most = at(row * width + found);
      if (std::isnan(most)) break;
      if (one > most || std::isnan(one)) found = c;
    }
    return found;
  }
};

inline std::string name_of(const Json& names, size_t place) {
  return place < names.items.size() ? names.items[place].string : std::to_string(place);
}

// Characters of a text, each in UTF-8.
inline std::vector<std::string> characters(const std::string& text) {
  std::vector<std::string> found;
  for (char c : text) {
    if ((c & 0xC0) == 0x80 && !found.empty())
      found.back() += c;
    else
      found.emplace_back(1, c);
  }
  return found;
}

// Graves et al., ICML 2006, section 3.2: best path decoding.
inline Json ctc(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 3);
  const size_t blank = size_t(task["found"]["blank"].value);
  const auto alphabet = characters(task["found"]["alphabet"].string);
  std::string text;
  size_t before = size_t(-1);
  for (size_t frame = 0; frame < size_t(row.shape[0]); ++frame) {
    const size_t best = row.best(frame);
    if (best != before && best != blank) {
      const size_t place = best - (best > blank);
      text += place < alphabet.size() ? alphabet[place] : "?";
    }
    before = best;
  }
  return Json::empty_table().set("text", text);
}

inline Json embedding(const Answer& answer, const Json&) {
  const Row row(answer.first(), 2);
  double square = 0;
  for (size_t i = 0; i < size_t(row.shape[0]); ++i) square += row.at(i) * row.at(i);
  const float length = std::max(float(std::sqrt(square)), 1e-12f);
  Json vector = Json::empty_list();
  for (size_t i = 0; i < size_t(row.shape[0]); ++i)
    vector.items.push_back(double(float(row.at(i)) / length));
  return Json::empty_table().set("embedding", vector);
}

// Newell et al., ECCV 2016, arXiv:1603.06937: a quarter of a cell towards the higher neighbour.
inline Json keypoint_heatmaps(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 4);
  const int64_t height = row.shape[1], width = row.shape[2];
  const auto& size = task["found"]["size"].items;
  if (size.size() != 2) throw Refused("manifest.json: task.found.size is no height and width");
  const auto sign = [](double x) { return x > 0 ? 1.0 : x < 0 ? -1.0 : 0.0; };
  Json points = Json::empty_list();
  for (int64_t map = 0; map < row.shape[0]; ++map) {
    const size_t start = size_t(map * height * width);
    size_t best = start;
    for (size_t i = start; i < start + size_t(height * width); ++i)
      if (row.at(i) > row.at(best)) best = i;
    const int64_t y = int64_t(best - start) / width, x = int64_t(best - start) % width;
    const double right =
        x > 0 && x < width - 1 ? 0.25 * sign(row.at(best + 1) - row.at(best - 1)) : 0;
    const double down =
        y > 0 && y < height - 1
            ? 0.25 * sign(row.at(best + size_t(width)) - row.at(best - size_t(width)))
            : 0;
    Json point = Json::empty_table();
    point.set("x",
              double(float((double(x) + right + 0.5) * (size[1].value / double(width)) - 0.5)));
    point.set("y",
              double(float((double(y) + down + 0.5) * (size[0].value / double(height)) - 0.5)));
    points.items.push_back(point.set("score", row.at(best)));
  }
  return Json::empty_table().set("points", points);
}

inline std::vector<size_t> best_first(const std::vector<double>& scores) {
  std::vector<size_t> order(scores.size());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return scores[a] > scores[b]; });
  return order;
}

inline Json multi_label(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 2);
  std::vector<double> shares;
  const bool are_shares = task["found"]["are_probabilities"].truth;
  for (size_t i = 0; i < size_t(row.shape[0]); ++i)
    shares.push_back(are_shares ? row.at(i) : detection::sigmoid(float(row.at(i))));
  Json labels = Json::empty_table();
  for (size_t i : best_first(shares))
    if (shares[i] >= task["parameters"]["threshold"].value)
      labels.set(name_of(task["found"]["labels"], i), shares[i]);
  return Json::empty_table().set("labels", labels);
}

inline Json regression(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 2);
  const bool is_scaled = task["parameters"]["standardize"].truth;
  const auto &mean = task["found"]["mean"].items, &std = task["found"]["std"].items;
  const size_t count = size_t(row.shape[0]);
  if (is_scaled && (mean.size() != count || std.size() != count))
    throw Refused("manifest.json: task.found.mean and std do not fit the answer");
  Json values = Json::empty_list();
  for (size_t i = 0; i < count; ++i)
    values.items.push_back(is_scaled ? row.at(i) * std[i].value + mean[i].value : row.at(i));
  return Json::empty_table().set("values", values);
}

// Return maps (C, height, width) at another size along one axis: bilinear, corners not aligned.
inline void resize(std::vector<float>& maps, Shape& shape, size_t axis, int64_t wanted) {
  const int64_t have = shape[axis];
  if (have == wanted) return;
  const int64_t inner = axis == 2 ? 1 : shape[2];
  Shape made_shape = shape;
  made_shape[axis] = wanted;
  std::vector<float> made(count_of(made_shape));
  for (int64_t outer = 0; outer < int64_t(maps.size()) / (have * inner); ++outer)
    for (int64_t i = 0; i < wanted; ++i) {
      const double place =
          std::min(std::max((double(i) + 0.5) * (double(have) / double(wanted)) - 0.5, 0.0),
                   double(have - 1));
      const int64_t low = int64_t(place), high = std::min(low + 1, have - 1);
      const float share = float(place - double(low));
      for (int64_t j = 0; j < inner; ++j)
        made[size_t((outer * wanted + i) * inner + j)] =
            maps[size_t((outer * have + low) * inner + j)] * (1 - share) +
            maps[size_t((outer * have + high) * inner + j)] * share;
    }
  maps = std::move(made);
  shape = made_shape;
}

// Logits of each pixel, of the size that masks have.
struct Maps {
  std::vector<float> values;
  Shape shape;  // classes, height, width
  size_t classes, cells;
  float at(size_t label, size_t cell) const { return values[label * cells + cell]; }
  // The class of a pixel; 254 where its logits are no numbers.
  size_t best(size_t cell) const {
    size_t found = 0;
    bool is_number = true;
    for (size_t c = 0; c < classes; ++c) {
      is_number &= std::isfinite(at(c, cell)) || at(c, cell) < 0;
      if (at(c, cell) > at(found, cell)) found = c;
    }
    return is_number ? found & 255 : 254;
  }
};

inline Maps class_logits(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 4);
  const auto& size = task["found"]["size"].items;
  if (size.size() != 2 || !rules::whole(1, 32768)(size[0]) || !rules::whole(1, 32768)(size[1]))
    throw Refused("manifest.json: task.found.size is no height and width");
  Shape shape = row.shape;
  std::vector<float> maps(count_of(shape));
  for (size_t i = 0; i < maps.size(); ++i) maps[i] = float(row.at(i));
  resize(maps, shape, 1, int64_t(size[0].value));
  resize(maps, shape, 2, int64_t(size[1].value));
  if (shape[0] == 1) {  // one channel is a class beside none
    maps.insert(maps.begin(), maps.size(), 0.0f);
    shape[0] = 2;
  }
  return {std::move(maps), shape, size_t(shape[0]), size_t(shape[1] * shape[2])};
}

inline Json segmentation(const Answer& answer, const Json& task) {
  const Maps maps = class_logits(answer, task);
  std::vector<size_t> counts(256);
  Json mask = Json::empty_list(), share = Json::empty_table();
  for (size_t cell = 0; cell < maps.cells; ++cell) {
    const size_t found = maps.best(cell);
    ++counts[found];
    if (cell % size_t(maps.shape[2]) == 0) mask.items.push_back(Json::empty_list());
    mask.items.back().items.push_back(int64_t(found));
  }
  for (size_t c = 0; c < 256; ++c)
    if (counts[c])
      share.set(name_of(task["found"]["classes"], c), double(counts[c]) / double(maps.cells));
  return Json::empty_table().set("share", share).set("mask", mask);
}

inline Json tokens(const Answer& answer, const Json& task) {
  const Row row(answer.first(), 3);
  Json labels = Json::empty_list();
  for (size_t token = 0; token < size_t(row.shape[0]); ++token)
    labels.items.push_back(name_of(task["found"]["classes"], row.best(token)));
  return Json::empty_table().set("labels", labels);
}

inline Json boxes(const Answer& answer, const Json& task) {
  Json shown = Json::empty_list();
  for (const detection::Found& one : detection::found_in(answer.arrays, answer.names, task)) {
    if (!one.is_number()) continue;
    Json box = Json::empty_list();
    for (float edge : one.box) box.items.push_back(double(edge));
    Json told = Json::empty_table();
    told.set("class", name_of(task["found"]["classes"], one.label))
        .set("score", double(one.score))
        .set("box", box);
    shown.items.push_back(told);
  }
  return Json::empty_table().set("boxes", shown);
}

using Decoder = Json (*)(const Answer&, const Json&);

// Return what reads the outputs of a task; null where they are classes, or nothing is known.
inline Decoder decoder_of(const Json& task) {
  static const std::map<std::string, Decoder> known = {{"ctc", ctc},
                                                       {"detection", boxes},
                                                       {"embedding", embedding},
                                                       {"keypoint_heatmaps", keypoint_heatmaps},
                                                       {"multi_label", multi_label},
                                                       {"regression", regression},
                                                       {"segmentation", segmentation},
                                                       {"tokens", tokens}};
  const auto found = known.find(task["name"].string);
  const bool has_own_head =
      task["name"].string == "detection" && !detection::is_empty(task["parameters"]["head"]);
  return found == known.end() || has_own_head ? nullptr : found->second;
}

}  // namespace decode
