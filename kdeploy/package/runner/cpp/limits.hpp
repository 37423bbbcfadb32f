// Run a model that nobody vouches for in a process of its own, within memory and time.
#pragma once

#include <poll.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <string>

#include "contradictions.hpp"

namespace limits {

// Says why a process gave no answer.
struct Ended : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Bounds {
  double seconds = 0;
  int64_t megabytes = 0;
};

// Return the value of a line of /proc/self/status in bytes; 0 where the system does not say.
inline int64_t status_bytes(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (bundle::begins(line, name + ":")) return std::atoll(line.c_str() + name.size() + 1) * 1024;
  return 0;
}

// Return the cores that this process may use: the affinity mask, and a container's quota.
inline int allowed_cores() {
  cpu_set_t mask;
  int cores = sched_getaffinity(0, sizeof mask, &mask) == 0 ? CPU_COUNT(&mask) : 1;
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  double quota = 0, period = 0;
  if (file >> quota >> period && period > 0)
    cores = std::max(1, std::min(cores, int(quota / period)));
  return cores;
}

// Return what a self-test may take where nobody says, as ../python/rules.py allows it.
inline Bounds allowances(const Json& manifest, int threads) {
  double memory = 0, slowest = 0;
  for (const Json& budget : manifest["budgets"].items) {
    if (!budget["is_upper"].truth) continue;
    if (budget["metric"].string == "peak_memory") memory = budget["bound"].value;
    if (bundle::begins(budget["metric"].string, "latency."))
      slowest = std::max(slowest, budget["bound"].value);
  }
  const double megabytes = (2 * memory + 8 * manifest["model"]["size"].value) / (1 << 20);
  return {std::min(std::max(120.0, 200 * slowest), 600.0),
          int64_t(std::min(std::max(megabytes, 640.0 + 16 * threads), 4096.0))};
}

inline void lower(int kind, uint64_t bound) {
  rlimit limit{};
  getrlimit(__rlimit_resource(kind), &limit);
  limit.rlim_cur = limit.rlim_max =
      limit.rlim_max == RLIM_INFINITY ? bound : std::min<uint64_t>(bound, limit.rlim_max);
  setrlimit(__rlimit_resource(kind), &limit);
}

// Bound what this process may take from now on, on top of what it has.
inline void limit(const Bounds& bounds, int threads) {
  lower(RLIMIT_CPU, uint64_t(bounds.seconds * threads) + 1);
  lower(RLIMIT_CORE, 0);
#ifndef __SANITIZE_ADDRESS__  // which maps terabytes and touches little of them
  lower(RLIMIT_AS, uint64_t(status_bytes("VmSize") + (bounds.megabytes << 20)));
#endif
}

inline std::string received(int from, pid_t child, double seconds) {
  const auto until = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  std::string said;
  char piece[1 << 14];
  for (;;) {
    const double left =
        std::chrono::duration<double>(until - std::chrono::steady_clock::now()).count();
    pollfd waited{from, POLLIN, 0};
    if (left <= 0 || poll(&waited, 1, int(std::min(left, 1e6) * 1000) + 1) == 0) {
      kill(child, SIGKILL);
      waitpid(child, nullptr, 0);
      throw Ended("stopped after " + formatted("%g", seconds) + " s, the limit (--timeout)");
    }
    const ssize_t got = read(from, piece, sizeof piece);
    if (got <= 0) return said;
    said.append(piece, size_t(got));
  }
}

// Return the document that a function makes in a process of its own.
inline Json apart(const std::function<Json()>& work, const Bounds& bounds, int threads) {
  int ends[2];
  if (pipe(ends) != 0) throw Stop("no process can be started here", "too many are open", 3);
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) throw Stop("no process can be started here", "too many are running", 3);
  if (child == 0) {
    close(ends[0]);
    limit(bounds, threads);
    const std::string text = json::written(work());
    for (size_t at = 0; at < text.size();) {
      const ssize_t put = write(ends[1], text.data() + at, text.size() - at);
      if (put <= 0) break;
      at += size_t(put);
    }
    _exit(0);
  }
  close(ends[1]);
  const std::string said = received(ends[0], child, bounds.seconds);
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGXCPU)
    throw Ended("stopped at " + formatted("%g", bounds.seconds) +
                " s of each thread's time, the limit (--timeout)");
  if (said.empty() || status != 0) {
    const std::string end = WIFSIGNALED(status)
                                ? std::string("signal ") + std::to_string(WTERMSIG(status))
                                : "code " + std::to_string(WEXITSTATUS(status));
    throw Ended("the model's process died (" + end + "); it may take " +
                std::to_string(bounds.megabytes) + " MB (--memory-limit)");
  }
  return json::Reader(said, "the answer").document();
}

}  // namespace limits
