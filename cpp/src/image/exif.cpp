// Orientation as images.py has it from Pillow, for odd and broken data as well: the first orientation of the
// first directory counts, data that breaks off says what was read until then, and XMP is asked only where
// readable EXIF, or none, leaves it open.

#include "exif.h"

#include <cstring>
#include <utility>

namespace swinv2 {
namespace {

constexpr int ORIENTATION = 0x0112;
constexpr int UPRIGHT = 1;

class Directory {  // the numbers of a TIFF file in its byte order; reads nothing beyond the end
 public:
  explicit Directory(const std::string& data) : data_(data), little_(!data.empty() && data[0] == 'I') {}
  bool has(size_t offset, size_t length) const {
    return offset <= data_.size() && length <= data_.size() - offset;
  }
  uint32_t number(size_t offset, int bytes) const {
    uint32_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      const auto byte = static_cast<unsigned char>(data_[offset + (little_ ? bytes - 1 - i : i)]);
      value = value << 8 | byte;
    }
    return value;
  }

 private:
  const std::string& data_;
  bool little_;
};

// Bytes per value of a TIFF type; 0 for a type that does not exist.
int size_of_type(uint32_t type) {
  static const int sizes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};
  return type < sizeof sizes / sizeof *sizes ? sizes[type] : 0;
}

bool is_whole_number(uint32_t type) {  // short, long, signed byte, short and long, directory
  return type == 3 || type == 4 || type == 6 || type == 8 || type == 9 || type == 13;
}

enum class Found { nothing, something, broken };

Found orientation_of_exif(std::string exif, int* orientation) {
  for (int i = 0; i < 2 && exif.compare(0, 6, "Exif\0\0", 6) == 0; ++i) exif.erase(0, 6);
  if (exif.empty()) return Found::nothing;
  const bool is_tiff = exif.size() >= 8 && (exif.compare(0, 2, "MM") == 0 || exif.compare(0, 2, "II") == 0) &&
                       (exif.compare(2, 2, "\0*", 2) == 0 || exif.compare(2, 2, "*\0", 2) == 0);
  if (!is_tiff) return Found::broken;

  const Directory directory(exif);
  size_t entry = directory.number(4, 4);
  if (!directory.has(entry, 2)) return Found::nothing;
  const uint32_t entries = directory.number(entry, 2);
  entry += 2;
  uint64_t total = 0;
  for (uint32_t i = 0; i < entries && directory.has(entry, 12); ++i, entry += 12) {
    const uint32_t tag = directory.number(entry, 2), type = directory.number(entry + 2, 2);
    const uint64_t size = static_cast<uint64_t>(directory.number(entry + 4, 4)) * size_of_type(type);
    size_t value = entry + 8;
    if (size > 4) {
      value = directory.number(value, 4);
      total += size;
      if (total > exif.size()) continue;
      if (!directory.has(value, static_cast<size_t>(size))) return Found::nothing;  // Pillow reads no further
    }
    if (tag != ORIENTATION || size == 0) continue;
    const int bytes = size_of_type(type);
    *orientation = is_whole_number(type) ? static_cast<int>(directory.number(value, bytes)) : UPRIGHT;
    return Found::something;
  }
  return Found::nothing;
}

// tiff:Orientation="6" or <tiff:Orientation>6
int orientation_of_xmp(const std::string& xmp) {
  const std::string name = "tiff:Orientation";
  for (size_t at = xmp.find(name); at != std::string::npos; at = xmp.find(name, at + 1)) {
    size_t digit = at + name.size();
    if (xmp.compare(digit, 2, "=\"") == 0) digit += 2;
    else if (xmp.compare(digit, 1, ">") == 0) digit += 1;
    else continue;
    if (digit < xmp.size() && xmp[digit] >= '0' && xmp[digit] <= '9') return xmp[digit] - '0';
  }
  return UPRIGHT;
}

std::string text_of(Bytes bytes) { return {reinterpret_cast<const char*>(bytes.data), bytes.size}; }

int hexadecimal(char c) {  // -1 for what is none
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

}  // namespace

Metadata metadata_of_jpeg(Bytes bytes) {
  static const char exif_mark[] = "Exif\0", xmp_mark[] = "http://ns.adobe.com/xap/1.0/";
  constexpr size_t exif_length = sizeof exif_mark, xmp_length = sizeof xmp_mark;  // with the last 0
  Metadata metadata;
  for (Bytes rest = bytes.from(2); rest.size >= 4;) {
    const int marker = rest.data[1];
    if (rest.data[0] != 0xff || marker == 0xff || marker == 0) {  // junk and padding
      rest = rest.from(1);
      continue;
    }
    if (marker == 0xda) break;                                   // the pixels begin
    if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd9)) {  // markers without content
      rest = rest.from(2);
      continue;
    }
    const size_t length = static_cast<size_t>(rest.data[2]) << 8 | rest.data[3];
    if (length < 2 || length + 2 > rest.size) break;
    const Bytes segment{rest.data + 4, length - 2};
    if (marker == 0xe1 && segment.starts_with(exif_mark, exif_length))  // a long one is in several pieces
      metadata.exif += text_of(segment.from(metadata.exif.empty() ? 0 : exif_length));
    else if (marker == 0xe1 && segment.starts_with(xmp_mark, xmp_length))
      metadata.xmp = text_of(segment.from(xmp_length));
    rest = rest.from(length + 2);
  }
  return metadata;
}

Metadata metadata_of_webp(Bytes bytes) {
  Metadata metadata;
  for (RiffChunks chunks(bytes.from(12)); chunks.next();) {
    if (chunks.is("EXIF") && metadata.exif.empty()) metadata.exif = text_of(chunks.payload);
    if (chunks.is("XMP ") && metadata.xmp.empty()) metadata.xmp = text_of(chunks.payload);
  }
  return metadata;
}

std::string exif_of_raw_profile(const std::string& text) {
  size_t at = 0;
  for (int line = 0; line < 3; ++line) {  // an empty one, "exif", the length
    at = text.find('\n', at);
    if (at++ == std::string::npos) return "";
  }
  std::string exif;
  int high = -1;
  for (; at < text.size(); ++at) {
    const char c = text[at];
    if (std::strchr(" \t\r\n\v\f", c)) continue;
    const int digit = hexadecimal(c);
    if (digit < 0) return "";
    if (high >= 0) exif += static_cast<char>(high << 4 | digit);
    high = high < 0 ? digit : -1;
  }
  return exif;
}

int orientation(const Metadata& metadata) {
  int value = UPRIGHT;
  if (orientation_of_exif(metadata.exif, &value) == Found::nothing) value = orientation_of_xmp(metadata.xmp);
  return value >= 1 && value <= 8 ? value : UPRIGHT;
}

Image upright(Image image, int orientation) {
  if (orientation == UPRIGHT) return image;
  // The pixel that becomes the first of the result, and the steps from it to the next right and down.
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  const bool swapped = orientation >= 5;
  const ptrdiff_t channels = image.channels, row = channels * image.width;
  const ptrdiff_t along = from_right ? -channels : channels, across = from_bottom ? -row : row;
  const uint8_t* first =
      image.pixels.data() + (from_right ? row - channels : 0) + (from_bottom ? row * (image.height - 1) : 0);
  const int width = swapped ? image.height : image.width, height = swapped ? image.width : image.height;
  Image turned = allocate(width, height, image.channels);
  const ptrdiff_t right = swapped ? across : along, down = swapped ? along : across;

  uint8_t* out = turned.pixels.data();
  for (int y = 0; y < turned.height; ++y) {
    const uint8_t* in = first + y * down;
    for (int x = 0; x < turned.width; ++x, in += right)
      for (int c = 0; c < image.channels; ++c) *out++ = in[c];
  }
  return turned;
}

bool RiffChunks::next() {
  if (rest_.size < 8) return false;
  size_t length = 0;
  for (int i = 7; i >= 4; --i) length = length << 8 | rest_.data[i];
  name_ = rest_.data;
  rest_ = rest_.from(8);
  payload = {rest_.data, length < rest_.size ? length : rest_.size};
  rest_ = rest_.from(length < rest_.size ? length + (length & 1) : rest_.size);
  return true;
}

bool RiffChunks::is(const char* four_letters) const { return std::memcmp(name_, four_letters, 4) == 0; }

}  // namespace swinv2
