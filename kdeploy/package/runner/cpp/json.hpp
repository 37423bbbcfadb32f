// JSON documents that nobody vouches for are read within bounds; results are written.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

struct Json {
  enum Kind { null, boolean, number, text, list, table };
  Kind kind = null;
  bool truth = false;
  double value = 0;
  bool is_integer = false;
  std::string string;
  std::vector<Json> items;
  std::vector<std::pair<std::string, Json>> members;

  Json() = default;
  Json(bool is) : kind(boolean), truth(is) {}
  Json(double n) : kind(number), value(n) {}
  Json(int n) : kind(number), value(n), is_integer(true) {}
  Json(int64_t n) : kind(number), value(double(n)), is_integer(true) {}
  Json(std::string s) : kind(text), string(std::move(s)) {}
  Json(const char* s) : kind(text), string(s) {}

  static Json empty_list() { return of(list); }
  static Json empty_table() { return of(table); }

  // Return the member, of several of one name the last; where there is none, null.
  const Json& operator[](const std::string& name) const {
    static const Json absent;
    for (auto found = members.rbegin(); found != members.rend(); ++found)
      if (found->first == name) return found->second;
    return absent;
  }
  bool has(const std::string& name) const {
    for (const auto& member : members)
      if (member.first == name) return true;
    return false;
  }
  Json& set(std::string name, Json given) {
    members.emplace_back(std::move(name), std::move(given));
    return *this;
  }

 private:
  static Json of(Kind kind) {
    Json made;
    made.kind = kind;
    return made;
  }
};

namespace json {

constexpr int most_depth = 200;

class Reader {
 public:
  Reader(const std::string& text, std::string name) : text_(text), name_(std::move(name)) {}

  Json document() {
    Json found = value(0);
    space();
    if (at_ != text_.size()) wrong("it goes on behind its end");
    return found;
  }

 private:
  const std::string& text_;
  std::string name_;
  size_t at_ = 0;

  [[noreturn]] void wrong(const std::string& why) const {
    throw Refused(name_ + " is no JSON: " + why + " at byte " + std::to_string(at_));
  }
  int peek() const { return at_ < text_.size() ? static_cast<unsigned char>(text_[at_]) : -1; }
  void space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
      ++at_;
  }
  bool take(char wanted) {
    space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  void word(const char* wanted) {
    for (; *wanted; ++wanted, ++at_)
      if (peek() != *wanted) wrong("an unknown word");
  }

  Json value(int depth) {
    if (depth > most_depth) wrong("it is nested too deep");
    space();
    switch (peek()) {
      case '{':
        return table_of(depth);
      case '[':
        return list_of(depth);
      case '"':
        return Json(string());
      case 't':
        word("true");
        return Json(true);
      case 'f':
        word("false");
        return Json(false);
      case 'n':
        word("null");
        return Json();
      default:
        return number();
    }
  }
  Json list_of(int depth) {
    Json made = Json::empty_list();
    ++at_;
    if (take(']')) return made;
    do made.items.push_back(value(depth + 1));
    while (take(','));
    if (!take(']')) wrong("a list without end");
    return made;
  }
  Json table_of(int depth) {
    Json made = Json::empty_table();
    ++at_;
    if (take('}')) return made;
    do {
      space();
      if (peek() != '"') wrong("a key that is no text");
      std::string name = string();
      if (!take(':')) wrong("a key without a value");
      made.set(std::move(name), value(depth + 1));
    } while (take(','));
    if (!take('}')) wrong("a table without end");
    return made;
  }
  Json number() {
    const size_t start = at_;
    if (peek() == '-') ++at_;
    const size_t digits = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == digits || (text_[digits] == '0' && at_ > digits + 1)) wrong("no value");
    Json made(0.0);
    made.is_integer = true;
    if (peek() == '.') fraction(made);
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      --at_;
      fraction(made);
    }
    const auto read = std::from_chars(text_.data() + start, text_.data() + at_, made.value);
    if (read.ec == std::errc::result_out_of_range) made.value = HUGE_VAL;
    return made;
  }
  void fraction(Json& made) {
    made.is_integer = false;
    const size_t before = ++at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    if (at_ == before) wrong("a number without digits");
  }
  unsigned hexadecimal() {
    unsigned code = 0;
    const char* start = text_.data() + at_;
    if (at_ + 4 > text_.size() || std::from_chars(start, start + 4, code, 16).ptr != start + 4)
      wrong("a wrong escape");
    at_ += 4;
    return code;
  }
  void escape(std::string& made) {
    const int letter = peek();
    ++at_;
    const std::string from = "\"\\/bfnrt", to = "\"\\/\b\f\n\r\t";
    const size_t place = letter < 0 ? std::string::npos : from.find(char(letter));
    if (place != std::string::npos) {
      made += to[place];
      return;
    }
    if (letter != 'u') wrong("a wrong escape");
    unsigned code = hexadecimal();
    if (code >= 0xD800 && code < 0xE000) {
      if (code >= 0xDC00 || text_.compare(at_, 2, "\\u") != 0) wrong("half of a character");
      at_ += 2;
      const unsigned low = hexadecimal();
      if (low < 0xDC00 || low >= 0xE000) wrong("half of a character");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append(made, code);
  }
  static void append(std::string& made, unsigned code) {
    if (code < 0x80) {
      made += char(code);
      return;
    }
    const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    made += char((more == 1 ? 0xC0 : more == 2 ? 0xE0 : 0xF0) | (code >> 6 * more));
    for (int left = more - 1; left >= 0; --left) made += char(0x80 | ((code >> 6 * left) & 63));
  }
  std::string string() {
    std::string made;
    for (++at_;;) {
      const int byte = peek();
      if (byte < 0x20) wrong("a text without end");
      if (byte == '"') break;
      ++at_;
      if (byte == '\\') {
        escape(made);
      } else {
        made += char(byte);
        if (byte >= 0x80) rest_of_character(made, byte);
      }
    }
    ++at_;
    return made;
  }
  void rest_of_character(std::string& made, int first) {
    const int more = first >= 0xF0 && first < 0xF5   ? 3
                     : first >= 0xE0 && first < 0xF0 ? 2
                     : first >= 0xC2 && first < 0xE0 ? 1
                                                     : 0;
    if (more == 0) wrong("no UTF-8");
    for (int left = more; left > 0; --left, ++at_) {
      if ((peek() & 0xC0) != 0x80 || peek() < 0) wrong("no UTF-8");
      made += text_[at_];
    }
  }
};

// Return how many bytes the character at a place has; 0 where there is none (RFC 3629).
inline size_t character(const std::string& text, size_t at) {
  const auto byte = [&](size_t i) { return i < text.size() ? uint8_t(text[i]) : 0; };
  const uint8_t first = byte(at), second = byte(at + 1);
  if (first < 0x80) return 1;
  const size_t more = first >= 0xF0 && first < 0xF5   ? 3
                      : first >= 0xE0 && first < 0xF0 ? 2
                      : first >= 0xC2 && first < 0xE0 ? 1
                                                      : 0;
  for (size_t i = 1; i <= more; ++i)
    if ((byte(at + i) & 0xC0) != 0x80) return 0;
  const bool is_longer_than_need_be =
      (first == 0xE0 && second < 0xA0) || (first == 0xF0 && second < 0x90);
  const bool is_none = (first == 0xED && second > 0x9F) || (first == 0xF4 && second > 0x8F);
  return more == 0 || is_longer_than_need_be || is_none ? 0 : more + 1;
}

// Return a text in quotes; names and paths may hold bytes that are no characters.
inline std::string quoted(const std::string& text) {
  std::string made = "\"";
  for (size_t at = 0, size; at < text.size(); at += std::max<size_t>(size, 1)) {
    const unsigned char c = text[at];
    char escaped[8];
    size = character(text, at);
    if (size == 0) {
      made += "\\ufffd";
    } else if (c == '"' || c == '\\') {
      made += '\\';
      made += char(c);
    } else if (c < 0x20) {
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      made += escaped;
    } else {
      made += text.substr(at, size);
    }
  }
  return made + '"';
}

inline std::string number_text(double value, bool is_integer) {
  if (!std::isfinite(value))
    return std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity";
  char text[64];
  const auto end = is_integer ? std::to_chars(text, text + sizeof text, int64_t(value))
                              : std::to_chars(text, text + sizeof text, value);
  return std::string(text, end.ptr);
}

// Return a document as text; `indent` 0 is one line.
inline std::string written(const Json& given, int indent = 0, int depth = 0) {
  const std::string inner = indent ? "\n" + std::string(size_t(indent) * (depth + 1), ' ') : "";
  const std::string outer = indent ? "\n" + std::string(size_t(indent) * depth, ' ') : "";
  std::string made;
  switch (given.kind) {
    case Json::null:
      return "null";
    case Json::boolean:
      return given.truth ? "true" : "false";
    case Json::number:
      return number_text(given.value, given.is_integer);
    case Json::text:
      return quoted(given.string);
    case Json::list:
      for (const Json& item : given.items)
        made += (made.empty() ? inner : (indent ? "," : ", ") + inner) +
                written(item, indent, depth + 1);
      return "[" + made + (made.empty() ? "" : outer) + "]";
    case Json::table:
      for (const auto& member : given.members)
        made += (made.empty() ? inner : (indent ? "," : ", ") + inner) + quoted(member.first) +
                ": " + written(member.second, indent, depth + 1);
      return "{" + made + (made.empty() ? "" : outer) + "}";
  }
  return made;
}

inline std::string shown(const Json& given) {
  std::string text = written(given);
  return text.size() <= 80 ? text : text.substr(0, 77) + "...";
}

}  // namespace json
