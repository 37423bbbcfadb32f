// Prove that a bundle works on this machine: its outputs, and what it takes against its budgets.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "golden.hpp"
#include "limits.hpp"
#include "parts.hpp"

namespace proof {

using golden::Check;
using onnxruntime::Arrays;

constexpr int warm_up_count = 20, least_count = 100, p99_count = 1000;
constexpr double warm_up_share = 0.2, longest_seconds = 60.0, day = 86'400.0;

struct Options {
  std::string bundle = BUNDLE, library;
  std::vector<std::string> inputs;
  bool self_test = false, bench = false, json = false, preprocessed = false;
  int top = 1, threads = limits::allowed_cores();
  double seconds = 1;  // that latency is measured
  double timeout = 0;
  int64_t megabytes = 0;
};

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// A model whose state goes out of one call and into the next; without one it has none.
class Stream {
 public:
  Stream(const Options& options, const rules::Bundle& bundle)
      : manifest_(bundle.manifest),
        model_(options.library, bundle, options.threads, names_of(manifest_)) {
    restart();
  }
  static std::vector<std::string> names_of(const Json& manifest) {
    std::vector<std::string> names;
    for (const Json& port : manifest["outputs"].items) names.push_back(port["name"].string);
    return names;
  }
  const std::string& version() const { return model_.version(); }
  // Which part of a dynamic model gave the last answer.
  size_t part() const { return model_.part(); }
  void restart() {
    for (const Json& state : manifest_["state"].items) {
      const Json& port = *rules::port_named(manifest_["inputs"], state["input"].string);
      const TypeFacts* type = type_named(port["type"].string);
      if (!type) throw Refused("a state of " + port["type"].string + " cannot be made here");
      Shape shape;
      for (const Json& size : port["shape"].items)
        shape.push_back(size.kind == Json::number ? int64_t(size.value) : 1);
      state_[state["input"].string] = Tensor(type->type, shape);
    }
  }
  Arrays operator()(Arrays call) {
    call.insert(state_.begin(), state_.end());
    Arrays answer = model_(call);
    for (const Json& state : manifest_["state"].items)
      state_[state["input"].string] = answer.at(state["output"].string);
    return answer;
  }
  // `taken`: the part that answers each call is added to it.
  std::vector<Arrays> each(const std::vector<Arrays>& calls, parts::Numbers& taken) {
    restart();
    std::vector<Arrays> answers;
    for (const Arrays& call : calls) {
      answers.push_back((*this)(call));
      taken.push_back(part());
    }
    return answers;
  }

 private:
  const Json& manifest_;
  parts::Model model_;
  Arrays state_;
};

// Return what each item gives the model, without the state.
inline std::vector<Arrays> calls_of(const Json& manifest, const std::vector<Tensor>& arrays) {
  const auto ports = rules::data_ports(manifest);
  std::vector<Arrays> calls(size_t(arrays[0].shape[0]));
  for (size_t i = 0; i < calls.size(); ++i)
    for (size_t port = 0; port < ports.size(); ++port)
      calls[i][(*ports[port])["name"].string] =
          arrays[port].item(i, rules::takes_rows(*ports[port]));
  return calls;
}

inline std::vector<double> timed(Stream& run, const std::vector<Arrays>& calls, size_t least,
                                 double seconds) {
  std::vector<double> samples;
  for (double total = 0; (samples.size() < least || total < seconds) && total < longest_seconds;
       total += samples.back()) {
    Arrays call = calls[samples.size() % calls.size()];
    const double started = now();
    run(std::move(call));
    samples.push_back(now() - started);
  }
  return samples;
}

inline double percentile(std::vector<double> samples, double share) {
  std::sort(samples.begin(), samples.end());
  const double place = share * double(samples.size() - 1);
  const size_t low = size_t(place), high = std::min(low + 1, samples.size() - 1);
  return samples[low] + (samples[high] - samples[low]) * (place - double(low));
}

inline std::string library_of(const Stream& run, int threads) {
  return "onnxruntime " + run.version() + ", " + std::to_string(threads) + " threads";
}

inline Json measured_by(Stream& run, const rules::Bundle& bundle, const std::vector<Arrays>& calls,
                        const Options& options, Json measured) {
  const Json& manifest = bundle.manifest;
  bool has_p99 = false;
  for (const Json& budget : manifest["budgets"].items)
    has_p99 |= budget["metric"].string == "latency.p99";
  const size_t warm_up = timed(run, calls, warm_up_count, warm_up_share * options.seconds).size();
  const auto samples = timed(run, calls, has_p99 ? p99_count : least_count, options.seconds);
  double total = 0;
  for (double sample : samples) total += sample;
  for (int share : {50, 90, 99})
    measured.set("latency.p" + std::to_string(share), percentile(samples, share / 100.0));
  measured.set("latency.mean", total / double(samples.size()))
      .set("throughput", double(samples.size()) / total);
  measured.set("size", int64_t(manifest["model"]["size"].value));
  const int64_t peak = limits::status_bytes("VmHWM");
  measured.set("peak_memory", peak ? Json(peak) : Json());
  return measured.set("conditions", std::to_string(samples.size()) + " runs after " +
                                        std::to_string(warm_up) + " to warm up, " +
                                        library_of(run, options.threads));
}

inline void check_budgets(const Json& manifest, const Json& measured, std::vector<Check>& checks) {
  for (const Json& budget : manifest["budgets"].items) {
    const bool is_here = budget["judged"].string == "device";
    const Json& found = (is_here ? measured : manifest["recorded"])[budget["metric"].string];
    const double bound = budget["bound"].value;
    const bool is_known = found.kind == Json::number;
    const bool holds =
        is_known && (budget["is_upper"].truth ? found.value <= bound : found.value >= bound);
    const std::string reason = !is_known ? "this machine does not say"
                               : is_here ? measured["conditions"].string
                                         : "as recorded at packaging";
    checks.push_back({budget["gate"].string, holds, reason, is_known ? found.value : NAN, bound,
                      budget["unit"].string});
  }
  for (const auto& [metric, unit] :
       {std::pair<const char*, const char*>{"peak_memory", "B"}, {"latency.p50", "s"}}) {
    bool is_judged = false;
    for (const Json& budget : manifest["budgets"].items)
      is_judged |= budget["metric"].string == metric;
    if (!is_judged)
      checks.push_back({metric, true, "no budget",
                        measured[metric].kind == Json::number ? measured[metric].value : NAN, NAN,
                        unit});
  }
}

inline Json told(const Check& check) {
  const double factor = check.unit == "s"          ? 1e3
                        : check.unit == "B"        ? 1e-6
                        : check.unit == "fraction" ? 100
                                                   : 1;
  const char* unit = check.unit == "s"          ? " ms"
                     : check.unit == "B"        ? " MB"
                     : check.unit == "fraction" ? " %"
                                                : "";
  std::string numbers;
  for (double number : {check.value, check.bound})
    if (std::isfinite(number))
      numbers += (numbers.empty() ? "" : " against ") + formatted("%.5g", number * factor) + unit;
  const auto known = [](double number) { return std::isfinite(number) ? Json(number) : Json(); };
  Json made = Json::empty_table();
  made.set("check", check.name)
      .set("value", known(check.value))
      .set("bound", known(check.bound))
      .set("unit", check.unit);
  return made.set("passed", check.passed)
      .set("reason",
           numbers + (numbers.empty() || check.reason.empty() ? "" : ", ") + check.reason);
}

// Run the model on the golden items: checks of its answers, and what it takes. Never throws.
inline Json worked(const Options& options, const rules::Bundle& bundle, bool is_judged) {
  std::vector<Check> checks;
  Json measured = Json::empty_table();
  int missing = 0;
  try {
    auto calls = calls_of(bundle.manifest, bundle.inputs);
    double started = now();
    Stream run(options, bundle);
    measured.set("load_time", now() - started);
    checks.push_back(
        {"load", true, library_of(run, options.threads), measured["load_time"].value, NAN, "s"});
    started = now();
    run(calls[0]);
    measured.set("first_inference", now() - started);
    parts::Numbers taken;
    if (is_judged)
      golden::check(bundle, Stream::names_of(bundle.manifest), run.each(calls, taken), checks);
    if (bundle.manifest.has("dynamic")) {
      if (is_judged) checks.push_back(parts::check(bundle.manifest, taken));
      calls = parts::mixed(bundle.manifest, calls);
    }
    measured = measured_by(run, bundle, calls, options, measured);
    if (is_judged) check_budgets(bundle.manifest, measured, checks);
  } catch (const Stop& error) {
    checks.push_back({"run", false, error.what()});
    missing = error.code;
  } catch (const std::exception& error) {  // whatever a foreign file brings about is a failed check
    checks.push_back({"run", false, error.what()});
  }
  Json list = Json::empty_list();
  for (const Check& check : checks) list.items.push_back(told(check));
  return Json::empty_table().set("checks", list).set("measured", measured).set("missing", missing);
}

inline limits::Bounds bounds_of(const Options& options, const Json& manifest, bool is_timed) {
  limits::Bounds bounds = limits::allowances(manifest, options.threads);
  if (!is_timed) bounds.seconds = day;  // of many items nobody knows how long they should take
  if (options.timeout > 0) bounds.seconds = options.timeout;
  if (options.megabytes > 0) bounds.megabytes = options.megabytes;
  return bounds;
}

inline Json proven(const Options& options) {
  std::vector<Check> checks;
  Json list = Json::empty_list(), measured = Json::empty_table();
  try {
    const auto digests = bundle::check_files(options.bundle);
    checks.push_back({"checksums", true, "every file is as packaged"});
    const rules::Bundle bundle = rules::checked(options.bundle, digests);
    checks.push_back({"manifest", true, "nothing contradicts another part"});
    const Json done = limits::apart([&] { return worked(options, bundle, true); },
                                    bounds_of(options, bundle.manifest, true), options.threads);
    list = done["checks"];
    measured = done["measured"];
  } catch (const limits::Ended& error) {
    checks.push_back({"run", false, error.what()});
  } catch (const Refused& error) {
    checks.push_back({checks.empty() ? "checksums" : "manifest", false, error.what()});
  }
  bool passed = true;
  Json all = Json::empty_list();
  for (const Check& check : checks) all.items.push_back(told(check));
  for (const Json& check : list.items) all.items.push_back(check);
  for (const Json& check : all.items) passed &= check["passed"].truth;
  return Json::empty_table().set("passed", passed).set("checks", all).set("measured", measured);
}

inline rules::Bundle trusted(const Options& options) {
  try {
    return rules::checked(options.bundle, bundle::check_files(options.bundle));
  } catch (const Refused& error) {
    throw Stop(std::string("this bundle is damaged: ") + error.what(), "unpack or copy it again");
  }
}

inline Json benched(const Options& options) {
  const rules::Bundle bundle = trusted(options);
  const Json done = limits::apart([&] { return worked(options, bundle, false); },
                                  bounds_of(options, bundle.manifest, true), options.threads);
  for (const Json& check : done["checks"].items)
    if (!check["passed"].truth)
      throw Stop(check["reason"].string, "run --self-test", done["missing"].value ? 3 : 2);
  return Json::empty_table().set("measured", done["measured"]);
}

}  // namespace proof
