// What ends this program, and how messages show a value.
#pragma once

#include <cstdio>
#include <stdexcept>
#include <string>

// What is wrong with a bundle.
struct Refused : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Ends the program: 2 is wrong input, 3 something missing here.
struct Stop : std::runtime_error {
  std::string hint;
  int code;
  Stop(const std::string& message, std::string remedy, int exit_code = 2)
      : std::runtime_error(message), hint(std::move(remedy)), code(exit_code) {}
};

inline std::string formatted(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof text, format, value);
  return text;
}
