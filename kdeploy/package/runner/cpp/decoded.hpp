// How what is read in an answer differs from what was recorded, one task a function.
#pragma once

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "decode.hpp"

namespace decoded {

using decode::Answer;
using decode::Row;

constexpr double least_share = 0.995, least_cosine = 0.99;

// Whether the class that is read in a row of an answer is recorded as clearly worse than the best.
inline bool is_clear(const Row& own, const Row& expected, size_t row, double atol) {
  const size_t width = size_t(expected.shape.back());
  const double most = expected.at(row * width + expected.best(row));
  return most - expected.at(row * width + own.best(row)) > 2 * atol;
}

inline std::string ctc(const Answer& found, const Answer& recorded, const Json& task, double atol) {
  const Row own(found.first(), 3), expected(recorded.first(), 3);
  const std::string text = decode::ctc(found, task)["text"].string,
                    wanted = decode::ctc(recorded, task)["text"].string;
  bool has_clear = false;
  for (size_t frame = 0; frame < size_t(expected.shape[0]); ++frame)
    has_clear |= is_clear(own, expected, frame, atol);
  return text == wanted || !has_clear ? "" : "`" + text + "` is read in place of `" + wanted + "`";
}

inline std::string tokens(const Answer& found, const Answer& recorded, const Json& task,
                          double atol) {
  const Row own(found.first(), 3), expected(recorded.first(), 3);
  const auto name = [&](size_t label) { return decode::name_of(task["found"]["classes"], label); };
  for (size_t token = 0; token < size_t(expected.shape[0]); ++token)
    if (is_clear(own, expected, token, atol))
      return "token " + std::to_string(token) + " is " + name(own.best(token)) + ", not " +
             name(expected.best(token));
  return "";
}

inline std::string segmentation(const Answer& found, const Answer& recorded, const Json& task,
                                double atol) {
  const decode::Maps own = decode::class_logits(found, task),
                     expected = decode::class_logits(recorded, task);
  size_t kept = 0;
  for (size_t cell = 0; cell < expected.cells; ++cell) {
    const size_t one = own.best(cell), other = expected.best(cell);
    const float most = expected.at(other, cell);
    kept += one == other || (one < expected.classes && most - expected.at(one, cell) <= 2 * atol);
  }
  const double share = double(kept) / double(expected.cells);
  if (share >= least_share) return "";
  return formatted("%.2f", 100 * share) +
         " % of the pixels keep their class, at least 99.5 shall";
}

inline std::string multi_label(const Answer& found, const Answer& recorded, const Json& task,
                               double atol) {
  const Row own(found.first(), 2), expected(recorded.first(), 2);
  const double threshold = task["parameters"]["threshold"].value;
  const bool are_shares = task["found"]["are_probabilities"].truth;
  const auto is_read = [&](double one) {
    return (are_shares ? one : detection::sigmoid(float(one))) >= threshold;
  };
  for (size_t i = 0; i < size_t(expected.shape[0]); ++i)
    if (is_read(expected.at(i) - atol) == is_read(expected.at(i) + atol) &&
        is_read(own.at(i)) != is_read(expected.at(i)))
      return "`" + decode::name_of(task["found"]["labels"], i) + "` is " +
             (is_read(own.at(i)) ? "read" : "not read");
  return "";
}

inline std::string keypoint_heatmaps(const Answer& found, const Answer& recorded, const Json&,
                                     double atol) {
  const Row own(found.first(), 4), expected(recorded.first(), 4);
  const int64_t width = expected.shape[2], cells = expected.shape[1] * width;
  const auto peak = [&](const Row& row, int64_t map) {
    int64_t best = 0;
    for (int64_t i = 1; i < cells; ++i)
      if (row.at(size_t(map * cells + i)) > row.at(size_t(map * cells + best))) best = i;
    return best;
  };
  for (int64_t map = 0; map < expected.shape[0]; ++map) {
    const int64_t one = peak(own, map), other = peak(expected, map);
    const int64_t away = std::max(std::abs(one / width - other / width),
                                  std::abs(one % width - other % width));
    const double lower = expected.at(size_t(map * cells + other)) -
                         expected.at(size_t(map * cells + one));
    if (away > 1 && lower > 2 * atol)
      return "point " + std::to_string(map) + " is " + std::to_string(away) + " cells away";
  }
  return "";
}

inline std::string embedding(const Answer& found, const Answer& recorded, const Json&, double) {
  const Row own(found.first(), 2), expected(recorded.first(), 2);
  double product = 0, first = 0, second = 0;
  for (size_t i = 0; i < size_t(expected.shape[0]); ++i) {
    product += own.at(i) * expected.at(i);
    first += own.at(i) * own.at(i);
    second += expected.at(i) * expected.at(i);
  }
  const double cosine = product / std::max(std::sqrt(first) * std::sqrt(second), 1e-24);
  if (cosine >= least_cosine) return "";
  return "the cosine to the recorded vector is " + formatted("%.4f", cosine) +
         ", at least 0.99 allowed";
}

inline std::string boxes(const Answer& found, const Answer& recorded, const Json& task, double) {
  return detection::disagreement(detection::found_in(found.arrays, found.names, task),
                                 detection::found_in(recorded.arrays, recorded.names, task), task);
}

using Comparison = std::string (*)(const Answer&, const Answer&, const Json&, double);

// Return what compares what a task reads; null where nothing but numbers is read.
inline Comparison comparison_of(const Json& task) {
  static const std::map<std::string, Comparison> known = {{"ctc", ctc},
                                                          {"detection", boxes},
                                                          {"embedding", embedding},
                                                          {"keypoint_heatmaps", keypoint_heatmaps},
                                                          {"multi_label", multi_label},
                                                          {"segmentation", segmentation},
                                                          {"tokens", tokens}};
  const auto found = known.find(task["name"].string);
  return found == known.end() || !decode::decoder_of(task) ? nullptr : found->second;
}

}  // namespace decoded
