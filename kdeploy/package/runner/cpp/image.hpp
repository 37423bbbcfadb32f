// Image files to bytes in the size that a model takes, as Pillow makes them.
//
// Bit for bit where one axis is resized. Where both are, Pillow 13 sometimes resizes the height
// first, as it finds cheaper, and a value may differ by one step of 255.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "errors.hpp"
#include "image_files.hpp"

namespace image {

// Of PIL/AlphaComposite.c: an integer with 7 more bits.
inline uint8_t mixed(uint32_t own, uint32_t alpha, uint32_t ground) {
  const uint32_t share = alpha * 255 * 255 * 128 / (alpha * 255 + 255 * (255 - alpha));
  const uint32_t sum = own * share + ground * (255 * 128 - share) + (128 << 7);
  return uint8_t((((sum >> 8) + sum) >> 8) >> 7);
}

// Lay transparent pixels on a colour; false where there are any and none is known.
inline bool make_opaque(Pixels& image, const std::vector<uint8_t>& background) {
  if (!image.has_alpha()) return true;
  const int colours = image.channels - 1;
  const size_t count = size_t(image.width) * size_t(image.height);
  bool is_opaque = true;
  for (size_t i = 0; i < count; ++i)
    is_opaque &= image.data[i * size_t(image.channels) + size_t(colours)] == 255;
  if (!is_opaque && background.empty()) return false;
  Pixels made{image.width, image.height, is_opaque ? colours : 3,
              Bytes(count * size_t(is_opaque ? colours : 3))};
  for (size_t i = 0; i < count; ++i)
    for (int c = 0; c < made.channels; ++c) {
      const uint8_t own = image.data[i * size_t(image.channels) + size_t(std::min(c, colours - 1))];
      const uint8_t alpha = image.data[i * size_t(image.channels) + size_t(colours)];
      made.data[i * size_t(made.channels) + size_t(c)] =
          is_opaque ? own
          : alpha   ? mixed(own, alpha, background[size_t(c)])
                    : background[size_t(c)];
    }
  image = std::move(made);
  return true;
}

inline void make_channels(Pixels& image, int channels) {
  if (image.channels == channels) return;
  const size_t count = size_t(image.width) * size_t(image.height);
  Pixels made{image.width, image.height, channels, Bytes(count * size_t(channels))};
  for (size_t i = 0; i < count; ++i) {
    if (channels == 3) {
      std::fill_n(&made.data[3 * i], 3, image.data[i]);
    } else {  // ITU-R 601-2, as Pillow rounds it
      const uint8_t* rgb = &image.data[3 * i];
      made.data[i] = uint8_t((rgb[0] * 19595u + rgb[1] * 38470u + rgb[2] * 7471u + 0x8000u) >> 16);
    }
  }
  image = std::move(made);
}

// Turn an image as EXIF orientations 2 to 8 ask for.
inline void make_upright(Pixels& image, int orientation) {
  if (orientation < 2 || orientation > 8) return;
  const bool is_swapped = orientation >= 5;
  Pixels made{is_swapped ? image.height : image.width, is_swapped ? image.width : image.height,
              image.channels, Bytes(image.data.size())};
  for (int y = 0; y < made.height; ++y)
    for (int x = 0; x < made.width; ++x) {
      int from_x = is_swapped ? y : x, from_y = is_swapped ? x : y;
      if (orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8)
        from_x = image.width - 1 - from_x;
      if (orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7)
        from_y = image.height - 1 - from_y;
      const size_t to = size_t(y) * size_t(made.width) + size_t(x),
                   from = size_t(from_y) * size_t(image.width) + size_t(from_x);
      std::copy_n(&image.data[from * size_t(image.channels)], image.channels,
                  &made.data[to * size_t(image.channels)]);
    }
  image = std::move(made);
}

struct Weights {
  int first = 0;
  std::vector<int> shares;  // in 2**-22
};

// Of PIL/Resample.c: a triangle as wide as the pixels that become one.
inline std::vector<Weights> weights_of(int have, int wanted) {
  const double scale = double(have) / wanted, support = std::max(scale, 1.0);
  std::vector<Weights> found(static_cast<size_t>(wanted));
  for (int place = 0; place < wanted; ++place) {
    const double centre = (place + 0.5) * scale;
    const int first = std::max(int(centre - support + 0.5), 0),
              end = std::min(int(centre + support + 0.5), have);
    std::vector<double> shares;
    double sum = 0;
    for (int x = first; x < end; ++x) {
      shares.push_back(std::max(0.0, 1 - std::fabs((x - centre + 0.5) / support)));
      sum += shares.back();
    }
    found[size_t(place)].first = first;
    for (double share : shares)
      found[size_t(place)].shares.push_back(
          int(0.5 + (sum != 0 ? share / sum : share) * (1 << 22)));
  }
  return found;
}

// Resize one axis: `stride` bytes apart lie its pixels, lines of `inner` bytes are equal in shares.
inline Bytes resized_axis(const Bytes& data, size_t outer, int have, int wanted, size_t inner) {
  const auto weights = weights_of(have, wanted);
  Bytes made(outer * size_t(wanted) * inner);
  for (size_t o = 0; o < outer; ++o)
    for (int place = 0; place < wanted; ++place) {
      const Weights& own = weights[size_t(place)];
      for (size_t i = 0; i < inner; ++i) {
        int sum = 1 << 21;
        for (size_t x = 0; x < own.shares.size(); ++x)
          sum += data[(o * size_t(have) + size_t(own.first) + x) * inner + i] * own.shares[x];
        made[(o * size_t(wanted) + size_t(place)) * inner + i] =
            uint8_t(std::clamp(sum >> 22, 0, 255));
      }
    }
  return made;
}

inline void resize(Pixels& image, int width, int height) {
  const size_t channels = size_t(image.channels);
  if (image.width != width)
    image.data = resized_axis(image.data, size_t(image.height), image.width, width, channels);
  image.width = width;
  if (image.height != height)
    image.data = resized_axis(image.data, 1, image.height, height, size_t(width) * channels);
  image.height = height;
}

// Bring an image to a size in its own shape, in the middle of grey bars.
inline void letterbox(Pixels& image, int width, int height) {
  const double scale = std::min(double(height) / image.height, double(width) / image.width);
  const auto side = [&](int have, int whole) {
    return std::max(1, std::min(int(std::floor(have * scale + 0.5)), whole));
  };
  resize(image, side(image.width, width), side(image.height, height));
  const size_t channels = size_t(image.channels);
  Pixels made{width, height, image.channels, Bytes(size_t(width) * size_t(height) * channels, 114)};
  const int left = (width - image.width) / 2, top = (height - image.height) / 2;
  for (int y = 0; y < image.height; ++y)
    std::copy_n(&image.data[size_t(y) * size_t(image.width) * channels],
                size_t(image.width) * channels,
                &made.data[(size_t(y + top) * size_t(width) + size_t(left)) * channels]);
  image = std::move(made);
}

}  // namespace image
