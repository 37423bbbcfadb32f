// Read the files of a bundle that nobody vouches for: sizes first, then contents.
//
// The same bounds as in ../python/reading.py.
#pragma once

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "errors.hpp"
#include "tensor.hpp"

namespace bundle {

constexpr const char* sums_name = "SHA256SUMS";
constexpr const char* signature_name = "SHA256SUMS.sig";  // which no sum can cover
constexpr int most_files = 1000;
constexpr uint64_t most_bytes = uint64_t(1) << 31;
constexpr uint64_t most_text_bytes = uint64_t(1) << 20;
constexpr uint64_t most_array_bytes = uint64_t(1) << 28;
constexpr int most_fields = 1'000'000;  // of an ONNX file, tensors counted once
constexpr const char* golden_arrays[] = {"golden/inputs.npz", "golden/outputs.npz"};

using Names = std::map<std::string, std::string>;

inline bool begins(const std::string& text, const std::string& start) {
  return text.compare(0, start.size(), start) == 0;
}

// A file that is read in pieces; links are not followed.
class File {
 public:
  explicit File(const std::string& path)
      : number_(open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)) {
    struct stat found{};
    if (number_ < 0 || fstat(number_, &found) != 0 || !S_ISREG(found.st_mode)) {
      if (number_ >= 0) close(number_);
      throw Refused(path + " cannot be read");
    }
    size = uint64_t(found.st_size);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() { close(number_); }
  // Return up to `count` bytes from a place.
  size_t read(uint64_t from, void* into, size_t count) const {
    const ssize_t got = pread(number_, into, count, off_t(from));
    if (got < 0) throw Refused("a file cannot be read");
    return size_t(got);
  }
  uint64_t size = 0;

 private:
  int number_;
};

inline Bytes contents(const std::string& path, uint64_t most) {
  const File file(path);
  if (file.size > most)
    throw Refused(path + " has " + std::to_string(file.size) + " bytes, more than " +
                  std::to_string(most));
  Bytes found(file.size);
  size_t at = 0;
  while (at < found.size()) {
    const size_t got = file.read(at, found.data() + at, found.size() - at);
    if (got == 0) throw Refused(path + " became shorter while it was read");
    at += got;
  }
  return found;
}

// FIPS 180-4.
class Sha256 {
 public:
  void add(const uint8_t* data, size_t size) {
    total_ += size;
    while (size > 0) {
      const size_t taken = std::min(size, 64 - filled_);
      std::memcpy(block_ + filled_, data, taken);
      filled_ += taken, data += taken, size -= taken;
      if (filled_ == 64) round();
    }
  }
  std::string hexadecimal() {
    const uint64_t bits = total_ * 8;
    const uint8_t one = 0x80, zero = 0;
    add(&one, 1);
    while (filled_ != 56) add(&zero, 1);
    uint8_t length[8];
    for (int i = 0; i < 8; ++i) length[i] = uint8_t(bits >> (56 - 8 * i));
    add(length, 8);
    char text[65];
    for (int i = 0; i < 8; ++i) std::snprintf(text + 8 * i, 9, "%08x", state_[i]);
    return text;
  }

 private:
  uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  uint8_t block_[64] = {};
  size_t filled_ = 0;
  uint64_t total_ = 0;

  static uint32_t turned(uint32_t x, int by) { return x >> by | x << (32 - by); }
  static const uint32_t* constants() {
    // The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    return k;
  }
  void round() {
    uint32_t w[64];
    for (int i = 0; i < 16; ++i)
      w[i] = uint32_t(block_[4 * i]) << 24 | uint32_t(block_[4 * i + 1]) << 16 |
             uint32_t(block_[4 * i + 2]) << 8 | block_[4 * i + 3];
    for (int i = 16; i < 64; ++i) {
      const uint32_t a = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ w[i - 15] >> 3;
      const uint32_t b = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ w[i - 2] >> 10;
      w[i] = w[i - 16] + a + w[i - 7] + b;
    }
    uint32_t s[8];
    std::copy(state_, state_ + 8, s);
    for (int i = 0; i < 64; ++i) {
      const uint32_t one = turned(s[4], 6) ^ turned(s[4], 11) ^ turned(s[4], 25);
      const uint32_t other = turned(s[0], 2) ^ turned(s[0], 13) ^ turned(s[0], 22);
      const uint32_t first = s[7] + one + ((s[4] & s[5]) ^ (~s[4] & s[6])) + constants()[i] + w[i];
      const uint32_t second = other + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
      for (int j = 7; j > 0; --j) s[j] = s[j - 1];
      s[4] += first;
      s[0] = first + second;
    }
    for (int i = 0; i < 8; ++i) state_[i] += s[i];
    filled_ = 0;
  }
};

inline std::string sha256(const std::string& path) {
  const File file(path);
  Sha256 digest;
  std::vector<uint8_t> piece(1 << 16);
  for (uint64_t at = 0;;) {
    const size_t got = file.read(at, piece.data(), piece.size());
    if (got == 0) return digest.hexadecimal();
    digest.add(piece.data(), got);
    at += got;
  }
}

inline void walk(const std::string& folder, const std::string& below, int depth,
                 std::map<std::string, uint64_t>& sizes) {
  std::unique_ptr<DIR, int (*)(DIR*)> opened(opendir((folder + "/" + below).c_str()), closedir);
  if (!opened) throw Refused(folder + "/" + below + " is no folder that can be read");
  int number = 0;
  while (const dirent* entry = readdir(opened.get())) {
    const std::string own = entry->d_name;
    if (own == "." || own == "..") continue;
    if (++number > most_files || depth > 20)
      throw Refused("it has more files or folders than a bundle");
    const std::string name = below + own;
    struct stat found{};
    if (lstat((folder + "/" + name).c_str(), &found) != 0) throw Refused(name + " cannot be read");
    if (S_ISDIR(found.st_mode)) {
      walk(folder, name + "/", depth + 1, sizes);
      continue;
    }
    if (!S_ISREG(found.st_mode)) throw Refused(name + " is a link or a device, not a file");
    sizes[name] = uint64_t(found.st_size);
    if (sizes.size() > most_files) throw Refused("it has more than 1000 files");
  }
}

inline void check_sizes(const std::map<std::string, uint64_t>& sizes) {
  uint64_t total = 0;
  for (const auto& [name, size] : sizes) {
    const bool is_array = name == golden_arrays[0] || name == golden_arrays[1];
    const uint64_t most = is_array ? most_array_bytes : most_text_bytes;
    if (!begins(name, "model.") && !begins(name, "deploy/") && size > most)
      throw Refused(name + " has " + std::to_string(size) + " bytes, more than " +
                    std::to_string(most));
    total += size;
    if (total > most_bytes)
      throw Refused("its files have more than " + std::to_string(most_bytes) + " bytes");
  }
}

inline bool is_digest(const std::string& text) {
  return text.size() == 64 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

inline Names listed_sums(const std::string& folder) {
  const Bytes bytes = contents(folder + "/" + sums_name, most_text_bytes);
  const std::string text(bytes.begin(), bytes.end());
  Names listed;
  int number = 0;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    const std::string line = text.substr(at, end - at);
    const bool is_line = ++number <= most_files && line.size() > 66 &&
                         is_digest(line.substr(0, 64)) && line.compare(64, 2, "  ") == 0;
    if (!is_line || line.find('\\') != std::string::npos ||
        !listed.emplace(line.substr(66), line.substr(0, 64)).second)
      throw Refused("line " + std::to_string(number) +
                    " of SHA256SUMS is not a checksum and a new name");
  }
  return listed;
}

// Return the digest of each file after comparing all of them with SHA256SUMS.
inline Names check_files(const std::string& folder) {
  std::map<std::string, uint64_t> sizes;
  walk(folder, "", 0, sizes);
  check_sizes(sizes);
  if (!sizes.count(sums_name)) throw Refused("SHA256SUMS is missing");
  const Names listed = listed_sums(folder);
  for (const auto& [name, size] : sizes)
    if (name != sums_name && name != signature_name && !listed.count(name))
      throw Refused(name + " is not listed in SHA256SUMS");
  for (const auto& [name, digest] : listed) {
    if (!sizes.count(name) || name == sums_name || name == signature_name)
      throw Refused(name + " is missing");
    if (sha256(folder + "/" + name) != digest)
      throw Refused(name + " was changed: its checksum does not hold");
  }
  return listed;
}

// Finds the operators of an ONNX file without reading its weights.
//
// Protocol buffers: ModelProto.graph is field 7, GraphProto.node 1, NodeProto.op_type 4.
class Operators {
 public:
  explicit Operators(const std::string& path) : file_(path) {}
  std::set<std::string> found() {
    std::set<std::string> names;
    for (const Place& graph : fields({0, file_.size}, 7))
      for (const Place& node : fields(graph, 1))
        for (const Place& type : fields(node, 4)) {
          char name[100];
          names.insert(std::string(
              name, file_.read(type.start, name, std::min<uint64_t>(100, type.end - type.start))));
        }
    return names;
  }

 private:
  struct Place {
    uint64_t start, end;
  };
  File file_;
  int left_ = most_fields;

  [[noreturn]] static void refuse() {
    throw Refused("model.onnx is not an ONNX file, or only the beginning of one");
  }
  static uint64_t varint(const uint8_t* head, size_t size, size_t& at) {
    uint64_t value = 0;
    for (int shift = 0; shift < 70 && at < size; shift += 7) {
      if (shift < 64) value |= uint64_t(head[at] & 127) << shift;
      if (head[at++] < 128) return value;
    }
    refuse();
  }
  std::vector<Place> fields(Place place, uint64_t wanted) {
    std::vector<Place> found;
    while (place.start < place.end) {
      if (left_-- <= 0) throw Refused("model.onnx has more than 1000000 fields");
      uint8_t head[30];
      const size_t size =
          file_.read(place.start, head, std::min<uint64_t>(30, place.end - place.start));
      size_t used = 0;
      const uint64_t key = varint(head, size, used);
      if ((key & 7) == 0) {
        varint(head, size, used);
        place.start += used;
      } else if ((key & 7) == 1 || (key & 7) == 5) {
        place.start += used + ((key & 7) == 1 ? 8 : 4);
      } else if ((key & 7) == 2) {
        const uint64_t length = varint(head, size, used);
        if (length > place.end - place.start || place.start + used + length > place.end) refuse();
        if (key >> 3 == wanted) found.push_back({place.start + used, place.start + used + length});
        place.start += used + length;
      } else {
        refuse();
      }
    }
    return found;
  }
};

}  // namespace bundle
