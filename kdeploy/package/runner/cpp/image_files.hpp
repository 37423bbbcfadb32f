// Decode image files: PNM here, PNG and JPEG by their libraries where the program was built with
// them.
#pragma once

#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#ifdef HAS_PNG
#include <png.h>
#endif
#ifdef HAS_JPEG
#include <jpeglib.h>
#endif

#include "errors.hpp"
#include "tensor.hpp"

namespace image {

constexpr uint64_t most_pixels = uint64_t(1) << 26;

struct Pixels {
  int width = 0, height = 0, channels = 0;  // 1 grey, 2 with alpha, 3 colour, 4 with alpha
  Bytes data;
  bool has_alpha() const { return channels == 2 || channels == 4; }
};

inline void prepare(Pixels& made, uint64_t width, uint64_t height, int channels) {
  if (width == 0 || height == 0 || width > most_pixels || height > most_pixels ||
      width * height > most_pixels)
    throw Refused("it has " + std::to_string(width) + " x " + std::to_string(height) +
                  " pixels, more than are read");
  made.width = int(width), made.height = int(height), made.channels = channels;
  made.data.resize(size_t(width * height) * size_t(channels));
}

// Netpbm's binary grey (P5) and colour (P6), 8 bits a channel.
inline Pixels pnm(const Bytes& file) {
  size_t at = 2;
  uint64_t numbers[3] = {};
  for (uint64_t& number : numbers) {
    for (bool is_comment = false;
         at < file.size() && (is_comment || std::isspace(file[at]) || file[at] == '#'); ++at)
      is_comment = file[at] == '#' || (is_comment && file[at] != '\n');
    const size_t start = at;
    for (; at < file.size() && std::isdigit(file[at]) && at - start < 9; ++at)
      number = number * 10 + (file[at] - '0');
    if (at == start) throw Refused("its header is damaged");
  }
  if (numbers[2] != 255)
    throw Refused("it has " + std::to_string(numbers[2]) + " steps a channel, not 255");
  Pixels made;
  prepare(made, numbers[0], numbers[1], file[1] == '5' ? 1 : 3);
  if (++at > file.size() || file.size() - at < made.data.size()) throw Refused("it is cut off");
  std::copy_n(file.begin() + long(at), made.data.size(), made.data.begin());
  return made;
}

// Return the orientation that EXIF data say (TIFF tag 0x0112); 1 where they say none.
inline int exif_orientation(const uint8_t* data, size_t size) {
  if (size < 8) return 1;
  const bool is_big = data[0] == 'M';
  const auto number = [&](size_t at, int bytes) {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i)
      value |= uint32_t(data[at + size_t(i)]) << 8 * (is_big ? bytes - 1 - i : i);
    return value;
  };
  const size_t start = number(4, 4);
  if (start > size || size - start < 2) return 1;
  const size_t count = number(start, 2);
  for (size_t i = 0; i < count && start + 2 + 12 * (i + 1) <= size; ++i) {
    const size_t entry = start + 2 + 12 * i;
    if (number(entry, 2) == 0x0112) return int(number(entry + 8, 2));
  }
  return 1;
}

// Both libraries end an error by a jump: what they fill lives outside of the function that jumps.
#ifdef HAS_PNG
struct PngReader {
  const Bytes& file;
  size_t at = 0;
  Pixels made;
  char message[200] = {};
  png_structp png = nullptr;
  png_infop info = nullptr;

  explicit PngReader(const Bytes& bytes) : file(bytes) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, stop, ignore);
    info = png ? png_create_info_struct(png) : nullptr;
    if (!info) throw Refused("libpng has no memory");
    png_set_read_fn(png, this, read);
    png_set_user_limits(png, 1 << 20, 1 << 20);
  }
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }
  static void read(png_structp png, png_bytep into, png_size_t count) {
    auto& own = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > own.file.size() - own.at) png_error(png, "it is cut off");
    std::memcpy(into, own.file.data() + own.at, count);
    own.at += count;
  }
  [[noreturn]] static void stop(png_structp png, png_const_charp message) {
    std::snprintf(static_cast<PngReader*>(png_get_error_ptr(png))->message, 200, "%s", message);
    png_longjmp(png, 1);
  }
  static void ignore(png_structp, png_const_charp) {}
};

inline Pixels png(const Bytes& file, int& orientation) {
  PngReader own(file);
  if (setjmp(png_jmpbuf(own.png))) throw Refused(own.message);
  png_read_info(own.png, own.info);
  const auto type = png_get_color_type(own.png, own.info);
  if (png_get_bit_depth(own.png, own.info) == 16 && type == PNG_COLOR_TYPE_GRAY)
    throw Refused("it has more than 8 bits a channel");
  png_set_expand(own.png);
  png_set_strip_16(own.png);
  const int passes = png_set_interlace_handling(own.png);
  png_read_update_info(own.png, own.info);
  prepare(own.made, png_get_image_width(own.png, own.info), png_get_image_height(own.png, own.info),
          png_get_channels(own.png, own.info));
  const size_t row = size_t(own.made.width) * size_t(own.made.channels);
  if (png_get_rowbytes(own.png, own.info) != row) throw Refused("its rows have an unknown form");
  for (int pass = 0; pass < passes; ++pass)
    for (int y = 0; y < own.made.height; ++y)
      png_read_row(own.png, own.made.data.data() + size_t(y) * row, nullptr);
  png_read_end(own.png, own.info);
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(own.png, own.info, &size, &exif)) orientation = exif_orientation(exif, size);
  return std::move(own.made);
}
#endif

#ifdef HAS_JPEG
struct JpegReader {
  jpeg_decompress_struct state{};
  jpeg_error_mgr errors{};
  std::jmp_buf jump;
  Pixels made;
  char message[JMSG_LENGTH_MAX] = {};

  JpegReader() {
    state.err = jpeg_std_error(&errors);
    state.client_data = this;
    errors.error_exit = stop;
    errors.output_message = ignore;
    jpeg_create_decompress(&state);
  }
  ~JpegReader() { jpeg_destroy_decompress(&state); }
  [[noreturn]] static void stop(j_common_ptr state) {
    auto& own = *static_cast<JpegReader*>(state->client_data);
    state->err->format_message(state, own.message);
    std::longjmp(own.jump, 1);
  }
  static void ignore(j_common_ptr) {}
};

inline Pixels jpeg(const Bytes& file, int& orientation) {
  JpegReader own;
  auto& state = own.state;
  if (setjmp(own.jump)) throw Refused(own.message);
  jpeg_mem_src(&state, file.data(), file.size());
  jpeg_save_markers(&state, JPEG_APP0 + 1, 0xFFFF);
  jpeg_read_header(&state, TRUE);
  for (auto marker = state.marker_list; marker; marker = marker->next)
    if (marker->data_length > 6 && std::memcmp(marker->data, "Exif\0\0", 6) == 0)
      orientation = exif_orientation(marker->data + 6, marker->data_length - 6);
  if (state.num_components != 1 && state.num_components != 3)
    throw Refused("it has " + std::to_string(state.num_components) +
                  " components a pixel, neither grey nor colour");
  state.out_color_space = state.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
  prepare(own.made, state.image_width, state.image_height, state.num_components);
  jpeg_start_decompress(&state);
  while (state.output_scanline < state.output_height) {
    JSAMPROW row = own.made.data.data() + size_t(state.output_scanline) * size_t(own.made.width) *
                                              size_t(own.made.channels);
    jpeg_read_scanlines(&state, &row, 1);
  }
  if (own.errors.num_warnings > 0) throw Refused("it is damaged or cut off");
  jpeg_finish_decompress(&state);
  return std::move(own.made);
}
#endif

// Return the pixels of an image file, and how it lies.
inline Pixels decoded(const Bytes& file, int& orientation) {
  const auto begins = [&](const char* start, size_t size) {
    return file.size() > size && std::memcmp(file.data(), start, size) == 0;
  };
  if (begins("P5", 2) || begins("P6", 2)) return pnm(file);
  if (begins("\x89PNG\r\n\x1a\n", 8)) {
#ifdef HAS_PNG
    return png(file, orientation);
#else
    throw Stop("reading PNG files needs libpng, which this program was built without",
               "apt-get install libpng-dev, and build it again", 3);
#endif
  }
  if (begins("\xff\xd8", 2)) {
#ifdef HAS_JPEG
    return jpeg(file, orientation);
#else
    throw Stop("reading JPEG files needs libjpeg, which this program was built without",
               "apt-get install libjpeg-dev, and build it again", 3);
#endif
  }
  throw Refused("it is neither PNG, JPEG nor binary PNM");
}

}  // namespace image
