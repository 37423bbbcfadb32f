// Read what a model is given: images, arrays, and of several inputs an array for each.
#pragma once

#include <sys/stat.h>

#include <cstdio>
#include <string>
#include <vector>

#include "contradictions.hpp"
#include "image.hpp"

namespace given {

constexpr uint64_t most_bytes = uint64_t(1) << 30;

// Return the bytes of a file, or of what comes in by `-`.
inline Bytes bytes_of(const std::string& path) {
  struct stat found{};
  const bool is_stream = path == "-";
  if (!is_stream && (stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)))
    throw Stop("there is no file " + path,
               "name image files, .npy or .npz files, or - for what comes in");
  FILE* file = is_stream ? stdin : std::fopen(path.c_str(), "rb");
  if (!file) throw Stop(path + " cannot be read", "may this user read it?");
  Bytes bytes;
  uint8_t piece[1 << 14];
  for (size_t got; (got = std::fread(piece, 1, sizeof piece, file)) > 0;) {
    bytes.insert(bytes.end(), piece, piece + got);
    if (bytes.size() > most_bytes) break;
  }
  if (!is_stream) std::fclose(file);
  if (bytes.size() > most_bytes) throw Stop(path + " has more than 1 GiB", "give it in parts");
  return bytes;
}

inline bool begins(const Bytes& bytes, const char* start, size_t size) {
  return bytes.size() >= size && std::memcmp(bytes.data(), start, size) == 0;
}
inline bool is_npy(const Bytes& bytes) { return begins(bytes, "\x93NUMPY", 6); }
inline bool is_npz(const Bytes& bytes) { return begins(bytes, "PK\x03\x04", 4); }

// Whether a shape is, from its axis `first` on, the wanted one, in which -1 is any size.
inline bool fits(const Shape& found, size_t first, const Shape& wanted) {
  if (found.size() != wanted.size() + first) return false;
  for (size_t i = 0; i < found.size(); ++i)
    if (found[i] < 1 || (i >= first && wanted[i - first] >= 0 && wanted[i - first] != found[i]))
      return false;
  return true;
}

inline std::string told(const Shape& shape) {
  std::string text = shape_text(shape);
  for (size_t at; (at = text.find("-1")) != std::string::npos;) text.replace(at, 2, "any");
  return text;
}

// Return the items of an array: (N, *shape), or one of them alone.
inline Tensor items_of(Tensor array, const Shape& shape, const std::string& where) {
  if (fits(array.shape, 0, shape)) array.shape.insert(array.shape.begin(), 1);
  if (!fits(array.shape, 1, shape))
    throw Stop(where + " holds " + facts_of(array.type).name + " of shape " +
                   shape_text(array.shape) + "; the model takes " + told(shape),
               "save " + told(shape) + " or (N, *" + told(shape) + ")");
  if (!array.is_finite())
    throw Stop(where + " holds NaN or infinity", "every number must be finite");
  return array;
}

inline Tensor scaled(const Tensor& stored, const Json& form) {
  const size_t channels = stored.shape.size() > 1 ? size_t(stored.shape[1]) : 1,
               inner = stored.count() / size_t(stored.shape[0]) / channels;
  const auto at = [](const Json& list, size_t channel) {
    return float(list.items[list.items.size() == 1 ? 0 : channel].value);
  };
  const float scale = float(form["scale"].value);
  Tensor made(Type::f32, stored.shape);
  for (size_t i = 0, n = made.count(); i < n; ++i) {
    const size_t channel = i / inner % channels;
    made.as<float>()[i] =
        (float(stored.at(i)) * scale - at(form["mean"], channel)) / at(form["std"], channel);
  }
  return made;
}

inline Tensor token_ids(const Tensor& stored, const Json& form, const std::string& path) {
  const double vocabulary = form["vocabulary"].value;
  for (size_t i = 0; i < stored.count(); ++i)
    if (stored.is_float() || stored.at(i) < 0 || stored.at(i) >= vocabulary)
      throw Stop(path + " holds other numbers than token ids",
                 "save token ids, integers below " + formatted("%.0f", vocabulary));
  return stored.converted(Type::i64);
}

// Return the picture of a file: upright, opaque, grey or of three colours.
inline image::Pixels picture_of(const std::string& path, const Bytes& bytes, const Shape& shape,
                                const Json& form) {
  if (shape.size() != 3 || (shape[0] != 1 && shape[0] != 3))
    throw Stop(path + " is no .npy file, and this model takes no images",
               "save numbers: " + shape_text(shape));
  image::Pixels pixels;
  int orientation = 1;
  try {
    pixels = image::decoded(bytes, orientation);
  } catch (const Refused& error) {
    throw Stop(path + " cannot be decoded: " + error.what(), "give another image, or a .npy file");
  }
  std::vector<uint8_t> background;
  for (const Json& part : form["background"].items) background.push_back(uint8_t(part.value));
  image::make_upright(pixels, orientation);
  if (!image::make_opaque(pixels, background))
    throw Stop(path + " is transparent in part",
               "lay it on a colour first; the data of this model had no transparency");
  image::make_channels(pixels, int(shape[0]));
  const int height = int(shape[1]), width = int(shape[2]);
  if (form["resize"].string.empty() && (pixels.width != width || pixels.height != height))
    throw Stop(path + " has (" + std::to_string(pixels.width) + ", " +
                   std::to_string(pixels.height) + ") pixels, not (" + std::to_string(width) +
                   ", " + std::to_string(height) + ")",
               "resize it first");
  return pixels;
}

inline Tensor image_of(const std::string& path, const Bytes& bytes, const Shape& shape,
                       const Json& form) {
  image::Pixels pixels = picture_of(path, bytes, shape, form);
  const int height = int(shape[1]), width = int(shape[2]);
  const std::string how = form["resize"].string;
  if (how == "letterbox")
    image::letterbox(pixels, width, height);
  else
    image::resize(pixels, width, height);
  Tensor made(Type::u8, {1, shape[0], height, width});
  const size_t cells = size_t(height) * size_t(width), channels = size_t(shape[0]);
  for (size_t i = 0; i < cells; ++i)
    for (size_t c = 0; c < channels; ++c) made.data[c * cells + i] = pixels.data[i * channels + c];
  return made;
}

inline Tensor array_of(const std::string& path, const Bytes& bytes, const Shape& shape) {
  Tensor stored;
  try {
    stored = npy::array(bytes.data(), bytes.size());
  } catch (const Refused& error) {
    throw Stop(path + " is not a .npy file of numbers: " + error.what(),
               "write it with numpy.save");
  }
  stored = items_of(std::move(stored), shape, path);
  if (stored.type == Type::boolean)
    throw Stop(path + " holds truths; the model takes numbers", "save numbers");
  return stored;
}

// Return the bytes (N, height, width, channels) of a model that prepares them by itself.
inline Tensor pixels_of(const std::string& path, const Bytes& bytes, const Shape& shape,
                        const Json& form) {
  if (is_npy(bytes)) {
    Tensor stored = array_of(path, bytes, rules::pixel_shape(form));
    if (stored.type != Type::u8)
      throw Stop(path + " holds " + facts_of(stored.type).name + ", and the model takes pixels",
                 "save bytes, uint8");
    return stored;
  }
  const image::Pixels pixels = picture_of(path, bytes, shape, form);
  Tensor made(Type::u8, {1, pixels.height, pixels.width, shape[0]});
  made.data = pixels.data;
  return made;
}

inline Tensor model_input(const std::string& path, const Bytes& bytes, const Json& manifest,
                          bool is_preprocessed) {
  const Json& form = manifest["preprocessing"];
  const bool is_text = form["dtype"].string == "int64";  // which may be of any length
  Shape shape;
  for (const Json& size : form["shape"].items) shape.push_back(int64_t(size.value));
  if (form["folded"].truth) return pixels_of(path, bytes, shape, form);
  if (is_text) shape = rules::item_shape(*rules::data_ports(manifest)[0]);
  Tensor stored;
  if (is_npy(bytes) || is_preprocessed) {
    stored = array_of(path, bytes, shape);
  } else {
    stored = image_of(path, bytes, shape, form);
  }
  if (is_text) return token_ids(stored, form, path);
  return is_preprocessed ? stored.converted(Type::f32) : scaled(stored, form);
}

// Return an input beside others as the model takes it, of numbers as the data set stores them.
inline Tensor prepared(Tensor items, const Json& port, const std::string& where, bool is_ready) {
  const TypeFacts* type = type_named(port["type"].string);
  const Json& form = port["preprocessing"];
  if (!type) throw Stop("this program makes no " + port["type"].string, "use the Python runner");
  if (type->type == Type::u8 && items.type != Type::u8)
    throw Stop(where + " holds " + facts_of(items.type).name, "save bytes of pixels, uint8");
  if (is_ready || form.kind == Json::null) return items.converted(type->type);
  return form["vocabulary"].value > 0 ? token_ids(items, form, where) : scaled(items, form);
}

// Return the items of a file, an array for each input of the model.
inline std::vector<Tensor> arrays_of(const std::string& path, const Json& manifest,
                                     bool is_preprocessed) {
  const Bytes bytes = bytes_of(path);
  if (manifest.has("preprocessing") && !is_npz(bytes))
    return {model_input(path, bytes, manifest, is_preprocessed)};
  const auto ports = rules::data_ports(manifest);
  std::vector<std::pair<std::string, Tensor>> stored;
  std::string names;
  for (const Json* port : ports)
    names += (names.empty() ? "" : ", ") + (*port)["name"].string + "=...";
  try {
    if (is_npy(bytes) && ports.size() == 1)
      stored.emplace_back((*ports[0])["name"].string, npy::array(bytes.data(), bytes.size()));
    else
      stored = npy::arrays(bytes);
  } catch (const Refused& error) {
    throw Stop(path + " cannot be read: " + error.what(),
               "write it with numpy.savez(file, " + names + ")");
  }
  std::vector<Tensor> found;
  for (const Json* port : ports) {
    const std::string name = (*port)["name"].string;
    const auto own = std::find_if(stored.begin(), stored.end(),
                                  [&](const auto& one) { return one.first == name; });
    const Shape shape = rules::item_shape(*port);
    if (own == stored.end())
      throw Stop(path + " holds no array `" + name + "`",
                 "save " + (*port)["type"].string + " of shape " + shape_text(shape));
    const std::string where = path + ": `" + name + "`";
    Tensor items = items_of(std::move(own->second), shape, where);
    found.push_back(prepared(std::move(items), *port, where, is_preprocessed));
    if (found.back().shape[0] != found[0].shape[0])
      throw Stop(path + " holds different numbers of items", "save as many of each input");
  }
  return found;
}

}  // namespace given
