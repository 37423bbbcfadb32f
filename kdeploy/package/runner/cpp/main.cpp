// Run the model of a bundle, or prove that the bundle works on this machine.
//
//     bundle_runner --self-test [BUNDLE]   checksums, outputs, memory and latency against the
//     budgets bundle_runner --bench [BUNDLE]       load time, latency and memory, without a verdict
//     bundle_runner photo.png items.npy -  what the model says of each input; - is what comes in
//
// The same manifest, preprocessing, checks and answers as ../python/run.py. Exit codes: 0 done;
// 1 the self-test failed; 2 wrong input; 3 something is missing here.
#include <cstdio>
#include <string>
#include <vector>

#include "decode.hpp"
#include "given.hpp"
#include "proof.hpp"
#include "shown.hpp"

using onnxruntime::Arrays;
using proof::Options;

namespace {

Json nested(const Tensor& array, size_t axis, size_t& at) {
  if (axis == array.shape.size())
    return array.is_float()              ? Json(array.at(at++))
           : array.type == Type::boolean ? Json(array.data[at++] != 0)
                                         : Json(int64_t(array.at(at++)));
  Json list = Json::empty_list();
  for (int64_t i = 0; i < array.shape[axis]; ++i) list.items.push_back(nested(array, axis + 1, at));
  return list;
}

// Return the best classes; of a model that answers every token, of what comes after the last.
std::vector<Json> ranked(const Tensor& output, const Json& manifest, int top) {
  const size_t width = output.shape.empty() ? 0 : size_t(output.shape.back());
  if (width == 0 || output.count() < width) throw Refused("the model answers no classes");
  std::vector<double> scores;
  for (size_t i = output.count() - width; i < output.count(); ++i) scores.push_back(output.at(i));
  const double most = *std::max_element(scores.begin(), scores.end());
  for (double score : scores)
    if (std::isnan(score) || !std::isfinite(most))
      throw Stop("the model answers NaN or infinity to an input, which is no class",
                 "check the input");
  if (manifest["outputs"].items[0]["values"].string == "logits") {
    double sum = 0;
    for (double& score : scores) sum += score = std::exp(score - most);
    for (double& score : scores) score /= sum;
  }
  std::vector<Json> made;
  for (size_t i : decode::best_first(scores)) {
    if (made.size() == size_t(top)) break;
    made.push_back(Json::empty_table()
                       .set("class", decode::name_of(manifest["classes"], i))
                       .set("index", int64_t(i))
                       .set("score", scores[i]));
  }
  return made;
}

// Return what the task reads in an item: its best classes, else all outputs as they are.
std::vector<Json> read_in(const Arrays& answer, const Json& manifest, int top) {
  const auto names = proof::Stream::names_of(manifest);
  const auto decoder = decode::decoder_of(manifest["task"]);
  if (decoder)
    return {Json::empty_table().set("decoded", decoder({answer, names}, manifest["task"]))};
  if (!manifest["outputs"].items[0]["values"].string.empty())
    return ranked(answer.at(names[0]), manifest, top);
  Json outputs = Json::empty_table();
  for (const std::string& name : names) {
    size_t at = 0;
    outputs.set(name, nested(answer.at(name), 0, at));
  }
  return {Json::empty_table().set("outputs", outputs)};
}

Json predicted(const Options& options, const rules::Bundle& bundle) {
  Json predictions = Json::empty_list(), result = Json::empty_table();
  parts::Numbers taken;
  try {
    // All inputs are read before any is run: a wrong one leaves no half of an answer.
    std::vector<std::vector<Arrays>> given;
    for (const std::string& path : options.inputs)
      given.push_back(proof::calls_of(
          bundle.manifest, given::arrays_of(path, bundle.manifest, options.preprocessed)));
    proof::Stream run(options, bundle);
    for (size_t input = 0; input < given.size(); ++input) {
      int64_t item = 0;
      for (const Arrays& answer : run.each(given[input], taken)) {
        for (const Json& one : read_in(answer, bundle.manifest, options.top)) {
          Json made = Json::empty_table().set("input", options.inputs[input]).set("item", item);
          made.members.insert(made.members.end(), one.members.begin(), one.members.end());
          predictions.items.push_back(made);
        }
        ++item;
      }
    }
  } catch (const Stop& stop) {
    return Json::empty_table()
        .set("message", stop.what())
        .set("hint", stop.hint)
        .set("code", stop.code);
  } catch (const std::exception& error) {
    return Json::empty_table()
        .set("message", error.what())
        .set("hint", "does the model fit this device?")
        .set("code", 2);
  }
  result.set("predictions", predictions);
  if (bundle.manifest.has("dynamic") && !taken.empty()) parts::count(bundle.manifest, taken, result);
  return result;
}

Json answered(const Options& options) {
  const rules::Bundle bundle = proof::trusted(options);
  const Json done =
      limits::apart([&] { return predicted(options, bundle); },
                    proof::bounds_of(options, bundle.manifest, false), options.threads);
  if (done.has("message"))
    throw Stop(done["message"].string, done["hint"].string, int(done["code"].value));
  return done;
}

constexpr const char* usage =
    "usage: bundle_runner --self-test [BUNDLE] | --bench [BUNDLE] | INPUT...\n"
    "  INPUT            an image file, .npy, .npz, or - for one of them that comes in\n"
    "  --json           print one JSON document\n"
    "  --top K          how many classes to print\n"
    "  --preprocessed   INPUT is .npy, as the model takes it\n"
    "  --bundle FOLDER  left out: the bundle that this program was built in\n"
    "  --library FILE   libonnxruntime.so\n"
    "  --threads N      of the processor\n"
    "  --seconds S      that latency is measured at least; 1\n"
    "  --timeout S, --memory-limit MB   of the model; else by budgets and size";

[[noreturn]] void wrong_options() {
  throw Stop(usage, "give --self-test, --bench, or inputs; numbers are at least 1, seconds 0");
}

Options parsed(int count, char** words) {
  Options options;
  for (int i = 1; i < count; ++i) {
    const std::string word = words[i];
    const auto value = [&]() -> std::string {
      return i + 1 < count ? words[++i] : (wrong_options(), "");
    };
    const auto number = [&](double least = 1) {
      char* end = nullptr;
      const std::string text = value();
      const double found = std::strtod(text.c_str(), &end);
      if (text.empty() || *end != 0 || !(found >= least && found <= 1e9)) wrong_options();
      return found;
    };
    if (word == "--self-test")
      options.self_test = true;
    else if (word == "--bench")
      options.bench = true;
    else if (word == "--json")
      options.json = true;
    else if (word == "--preprocessed")
      options.preprocessed = true;
    else if (word == "--bundle")
      options.bundle = value();
    else if (word == "--library")
      options.library = value();
    else if (word == "--top")
      options.top = int(number());
    else if (word == "--threads")
      options.threads = int(number());
    else if (word == "--timeout")
      options.timeout = number();
    else if (word == "--seconds")
      options.seconds = number(0);
    else if (word == "--memory-limit")
      options.megabytes = int64_t(number());
    else if (word.size() > 1 && word[0] == '-')
      wrong_options();
    else
      options.inputs.push_back(word);
  }
  const bool is_of_bundle = options.self_test || options.bench;
  if ((options.self_test && options.bench) ||
      is_of_bundle == (options.inputs.size() > (is_of_bundle ? 1u : 0u)))
    wrong_options();
  if (is_of_bundle && !options.inputs.empty()) options.bundle = options.inputs[0];
  return options;
}

}  // namespace

int main(int count, char** words) {
  try {
    const Options options = parsed(count, words);
    const Json result = options.self_test ? proof::proven(options)
                        : options.bench   ? proof::benched(options)
                                          : answered(options);
    const std::string text = options.json        ? json::written(result, 2)
                             : options.self_test ? shown::report(result)
                             : options.bench     ? shown::measured(result)
                                                 : shown::predictions(result);
    if (result.has("warning") && !options.json)
      std::fprintf(stderr, "warning: %s\n", result["warning"].string.c_str());
    std::printf("%s\n", text.c_str());
    return result.has("passed") && !result["passed"].truth ? 1 : 0;
  } catch (const Stop& stop) {
    std::fprintf(stderr, "%s\n\nhint: %s\n", stop.what(), stop.hint.c_str());
    return stop.code;
  } catch (const limits::Ended& ended) {
    std::fprintf(
        stderr,
        "%s\n\nhint: allow more with --timeout or --memory-limit, if you trust the bundle\n",
        ended.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n\nhint: give it more memory\n", error.what());
    return 3;
  }
}
