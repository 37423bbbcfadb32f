// Arrays of numbers, and the .npy and .npz files that hold them.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "errors.hpp"

using Shape = std::vector<int64_t>;
using Bytes = std::vector<uint8_t>;
constexpr uint64_t most_numbers = uint64_t(1) << 28;

enum class Type { f16, f32, f64, i8, i16, i32, i64, u8, u16, u32, u64, boolean };

struct TypeFacts {
  Type type;
  const char* name;  // in a manifest
  const char* npy;   // in an .npy file
  size_t bytes;
  int onnx;  // TensorProto.DataType
};
constexpr TypeFacts types[] = {
    {Type::f16, "float16", "f2", 2, 10}, {Type::f32, "float32", "f4", 4, 1},
    {Type::f64, "float64", "f8", 8, 11}, {Type::i8, "int8", "i1", 1, 3},
    {Type::i16, "int16", "i2", 2, 5},    {Type::i32, "int32", "i4", 4, 6},
    {Type::i64, "int64", "i8", 8, 7},    {Type::u8, "uint8", "u1", 1, 2},
    {Type::u16, "uint16", "u2", 2, 4},   {Type::u32, "uint32", "u4", 4, 12},
    {Type::u64, "uint64", "u8", 8, 13},  {Type::boolean, "bool", "b1", 1, 9},
};
inline const TypeFacts& facts_of(Type type) { return types[size_t(type)]; }
inline const TypeFacts* type_named(const std::string& name) {
  for (const auto& one : types)
    if (name == one.name) return &one;
  return nullptr;
}

inline float float_of_half(uint16_t half) {
  const int exponent = half >> 10 & 31, mantissa = half & 1023;
  const float size = exponent == 31 ? (mantissa ? NAN : INFINITY)
                     : exponent     ? std::ldexp(float(mantissa + 1024), exponent - 25)
                                    : std::ldexp(float(mantissa), -24);
  return half >> 15 ? -size : size;
}

inline std::string shape_text(const Shape& shape) {
  std::string text;
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return "(" + text + (shape.size() == 1 ? ",)" : ")");
}

inline size_t count_of(const Shape& shape) {
  uint64_t count = 1;
  for (int64_t size : shape) {
    if (size < 0 || (size > 0 && count > most_numbers / uint64_t(size)))
      throw Refused("an array of shape " + shape_text(shape) + " is too large");
    count *= uint64_t(size);
  }
  return size_t(count);
}

struct Tensor {
  Type type = Type::f32;
  Shape shape;
  Bytes data;

  Tensor() = default;
  Tensor(Type of, Shape sizes)
      : type(of), shape(std::move(sizes)), data(count_of(shape) * facts_of(of).bytes) {}

  size_t count() const { return data.size() / facts_of(type).bytes; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data.data());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data.data());
  }
  bool is_float() const { return type <= Type::f64; }

  double at(size_t i) const {
    switch (type) {
      case Type::f16:
        return float_of_half(as<uint16_t>()[i]);
      case Type::f32:
        return as<float>()[i];
      case Type::f64:
        return as<double>()[i];
      case Type::i8:
        return as<int8_t>()[i];
      case Type::i16:
        return as<int16_t>()[i];
      case Type::i32:
        return as<int32_t>()[i];
      case Type::i64:
        return double(as<int64_t>()[i]);
      case Type::u16:
        return as<uint16_t>()[i];
      case Type::u32:
        return as<uint32_t>()[i];
      case Type::u64:
        return double(as<uint64_t>()[i]);
      default:
        return data[i];
    }
  }
  void put(size_t i, double value) {
    switch (type) {
      case Type::f32:
        as<float>()[i] = float(value);
        return;
      case Type::f64:
        as<double>()[i] = value;
        return;
      case Type::i8:
        as<int8_t>()[i] = int8_t(int64_t(value));
        return;
      case Type::i16:
        as<int16_t>()[i] = int16_t(int64_t(value));
        return;
      case Type::i32:
        as<int32_t>()[i] = int32_t(int64_t(value));
        return;
      case Type::i64:
        as<int64_t>()[i] = int64_t(value);
        return;
      case Type::u8:
        data[i] = uint8_t(int64_t(value));
        return;
      case Type::u16:
        as<uint16_t>()[i] = uint16_t(int64_t(value));
        return;
      case Type::u32:
        as<uint32_t>()[i] = uint32_t(int64_t(value));
        return;
      case Type::u64:
        as<uint64_t>()[i] = uint64_t(value);
        return;
      case Type::boolean:
        data[i] = value != 0;
        return;
      case Type::f16:
        throw Stop("16-bit floats cannot be made of other numbers here", "save them as float16");
    }
  }
  Tensor converted(Type to) const {
    if (to == type) return *this;
    Tensor made(to, shape);
    for (size_t i = 0, n = count(); i < n; ++i) made.put(i, at(i));
    return made;
  }
  // Return item `i` of the first axis; with `keeps_axis` it stays, of size 1.
  Tensor item(size_t i, bool keeps_axis) const {
    Tensor made;
    made.type = type;
    made.shape.assign(shape.begin() + 1, shape.end());
    const size_t size = count_of(made.shape) * facts_of(type).bytes;
    made.data.assign(data.begin() + long(i * size), data.begin() + long((i + 1) * size));
    if (keeps_axis) made.shape.insert(made.shape.begin(), 1);
    return made;
  }
  bool is_finite() const {
    for (size_t i = 0, n = is_float() ? count() : 0; i < n; ++i)
      if (!std::isfinite(at(i))) return false;
    return true;
  }
};

namespace npy {

template <class T>
T little(const uint8_t* at) {
  T value;
  std::memcpy(&value, at, sizeof value);  // the machines that this runs on are little-endian
  return value;
}

// Reads the Python literal that an .npy file begins with: a table of three known keys.
class Header {
 public:
  explicit Header(std::string text) : text_(std::move(text)) {}
  Tensor tensor() {
    Tensor made;
    bool has_type = false, has_shape = false;
    need('{');
    while (!take('}')) {
      const std::string key = quoted();
      need(':');
      if (key == "descr") {
        made.type = type();
        has_type = true;
      } else if (key == "fortran_order") {
        if (word() != "False") throw Refused("its numbers stand in Fortran's order");
      } else if (key == "shape") {
        made.shape = shape();
        has_shape = true;
      } else {
        throw Refused("its header cannot be read");
      }
      take(',');
    }
    if (!has_type || !has_shape) throw Refused("its header cannot be read");
    return made;
  }

 private:
  std::string text_;
  size_t at_ = 0;
  bool take(char wanted) {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
    if (at_ >= text_.size() || text_[at_] != wanted) return false;
    ++at_;
    return true;
  }
  void need(char wanted) {
    if (!take(wanted)) throw Refused("its header cannot be read");
  }
  std::string quoted() {
    need('\'');
    const size_t end = text_.find('\'', at_);
    if (end == std::string::npos) throw Refused("its header cannot be read");
    const std::string found = text_.substr(at_, end - at_);
    at_ = end + 1;
    return found;
  }
  std::string word() {
    take(' ');
    const size_t start = at_;
    while (at_ < text_.size() && std::isalpha(static_cast<unsigned char>(text_[at_]))) ++at_;
    return text_.substr(start, at_ - start);
  }
  Type type() {
    const std::string found = quoted();
    for (const auto& one : types)
      if (found.size() == 3 && found[0] != '>' && found.substr(1) == one.npy) return one.type;
    throw Refused("it holds " + found.substr(0, 60) + ", no plain numbers of this machine");
  }
  Shape shape() {
    Shape found;
    need('(');
    while (!take(')')) {
      int64_t size = 0;
      const size_t start = at_;
      for (; at_ < text_.size() && std::isdigit(static_cast<unsigned char>(text_[at_])) &&
             at_ - start < 13;
           ++at_)
        size = size * 10 + (text_[at_] - '0');
      if (at_ == start || found.size() >= 32) throw Refused("its shape cannot be read");
      found.push_back(size);
      take(',');
    }
    return found;
  }
};

// Return the array of an .npy file of which nothing is missing and nothing left.
inline Tensor array(const uint8_t* data, size_t size) {
  if (size < 12 || std::memcmp(data, "\x93NUMPY", 6) != 0 || data[6] < 1 || data[6] > 3)
    throw Refused("it does not begin as an .npy file");
  const size_t start = data[6] == 1 ? 10 : 12;
  const size_t length = data[6] == 1 ? little<uint16_t>(data + 8) : little<uint32_t>(data + 8);
  if (length > 10'000 || start + length > size)
    throw Refused("its header is cut off, or longer than 10 kB");
  Tensor made = Header(std::string(reinterpret_cast<const char*>(data) + start, length)).tensor();
  const size_t wanted = count_of(made.shape) * facts_of(made.type).bytes;
  if (start + length + wanted != size)
    throw Refused("its header asks for " + std::to_string(wanted) + " bytes of data");
  made.data.assign(data + start + length, data + size);
  return made;
}

inline uint32_t crc32(const uint8_t* data, size_t size) {
  static const auto table = [] {
    std::array<uint32_t, 256> made{};
    for (uint32_t n = 0; n < 256; ++n) {
      made[n] = n;
      for (int bit = 0; bit < 8; ++bit)
        made[n] = made[n] & 1 ? 0xEDB88320u ^ made[n] >> 1 : made[n] >> 1;
    }
    return made;
  }();
  uint32_t crc = ~0u;
  for (size_t i = 0; i < size; ++i) crc = table[(crc ^ data[i]) & 255] ^ crc >> 8;
  return ~crc;
}

// Return the arrays of an .npz file by name, in their order: a zip of plain .npy files.
inline std::vector<std::pair<std::string, Tensor>> arrays(const Bytes& file) {
  const size_t size = file.size();
  size_t end = size < 22 ? size : size - 22;
  const size_t least = size > 65'557 ? size - 65'557 : 0;
  while (end + 22 <= size && end > least && little<uint32_t>(&file[end]) != 0x06054B50) --end;
  if (end + 22 > size || little<uint32_t>(&file[end]) != 0x06054B50)
    throw Refused("it is no zip file");
  const size_t count = little<uint16_t>(&file[end + 10]);
  size_t at = little<uint32_t>(&file[end + 16]);
  if (count < 1 || count > 1000) throw Refused("it holds " + std::to_string(count) + " arrays");
  std::vector<std::pair<std::string, Tensor>> found;
  for (size_t i = 0; i < count; ++i) {
    if (at + 46 > size || little<uint32_t>(&file[at]) != 0x02014B50)
      throw Refused("its table of contents is damaged");
    const size_t flags = little<uint16_t>(&file[at + 8]),
                 packing = little<uint16_t>(&file[at + 10]);
    const uint32_t crc = little<uint32_t>(&file[at + 16]);
    const size_t length = little<uint32_t>(&file[at + 20]),
                 name_length = little<uint16_t>(&file[at + 28]);
    const size_t local = little<uint32_t>(&file[at + 42]);
    if (at + 46 + name_length > size || local + 30 > size ||
        little<uint32_t>(&file[local]) != 0x04034B50)
      throw Refused("its table of contents is damaged");
    std::string name(reinterpret_cast<const char*>(&file[at + 46]), name_length);
    const bool is_plain =
        packing == 0 && !(flags & 1) && length == little<uint32_t>(&file[at + 24]);
    if (!is_plain || name.size() < 5 || name.substr(name.size() - 4) != ".npy")
      throw Refused("it must hold plain arrays");
    const size_t start =
        local + 30 + little<uint16_t>(&file[local + 26]) + little<uint16_t>(&file[local + 28]);
    if (start > size || length > size - start || crc32(&file[0] + start, length) != crc)
      throw Refused(name + " is damaged");
    found.emplace_back(name.substr(0, name.size() - 4), array(file.data() + start, length));
    at += 46 + name_length + little<uint16_t>(&file[at + 30]) + little<uint16_t>(&file[at + 32]);
  }
  return found;
}

}  // namespace npy
