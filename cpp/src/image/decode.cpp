// Which decoder a picture goes to, and the refusals in the words of src/swinv2/images.py. The content
// decides, never a name. Formats that this build lacks are told from files that are no pictures.

#include "decode.h"

#include <algorithm>
#include <cstring>

#include "../error.h"

namespace swinv2 {
namespace {

struct Format {
  const char* name;
  const char* mark;  // in the first bytes
  size_t length;
  size_t offset;
  Image (*decode)(Bytes, int);  // null where this build cannot
};

#if defined(SWINV2_JPEG)
constexpr auto jpeg = decode_jpeg;
#elif defined(SWINV2_STB)
constexpr auto jpeg = decode_stb;
#else
constexpr Image (*jpeg)(Bytes, int) = nullptr;
#endif

#if defined(SWINV2_PNG)
constexpr auto png = decode_png;
#elif defined(SWINV2_STB)
constexpr auto png = decode_stb;
#else
constexpr Image (*png)(Bytes, int) = nullptr;
#endif

#if defined(SWINV2_WEBP)
constexpr auto webp = decode_webp;
#else
constexpr Image (*webp)(Bytes, int) = nullptr;
#endif

constexpr auto pnm = decode_pnm;

const Format formats[] = {
    {"JPEG", "\xff\xd8\xff", 3, 0, jpeg},
    {"PNG", "\x89PNG\r\n\x1a\n", 8, 0, png},
    {"WebP", "WEBPVP8", 7, 8, webp},
    {"PNM", "P5", 2, 0, pnm},
    {"PNM", "P6", 2, 0, pnm},
    {"GIF", "GIF87a", 6, 0, nullptr},
    {"GIF", "GIF89a", 6, 0, nullptr},
    {"BMP", "BM", 2, 0, nullptr},
    {"TIFF", "II*\0", 4, 0, nullptr},
    {"TIFF", "MM\0*", 4, 0, nullptr},
    {"ICO", "\0\0\1\0", 4, 0, nullptr},
    {"AVIF", "ftypavif", 8, 4, nullptr},
    {"JPEG 2000", "\0\0\0\x0cjP  \r\n\x87\n", 12, 0, nullptr},
    {"JPEG 2000", "\xff\x4f\xff\x51", 4, 0, nullptr},
};

// Somewhere in the first bytes, in lower case -> what people call it.
struct Likeness {
  const char* mark;
  const char* name;
};
const Likeness likenesses[] = {
    {"<svg", "an SVG drawing"},       {"<html", "a web page"},
    {"<!doctype html", "a web page"}, {"%pdf", "a PDF"},
    {"ftypheic", "a HEIC photo"},     {"ftypheix", "a HEIC photo"},
    {"ftypmif1", "a HEIF photo"},     {"ftypmp4", "a video"},
    {"ftypisom", "a video"},          {"ftypqt", "a video"},
    {"pk\x03\x04", "a zip archive"},  {"version https://git-lfs", "a git-lfs pointer instead of the file"},
};

bool begins_like_a_picture(Bytes bytes) {  // whose header is broken
  return bytes.starts_with("\x89PNG", 4) || bytes.starts_with("RIFF", 4);
}

[[noreturn]] void throw_unknown(Bytes bytes) {
  std::string head(reinterpret_cast<const char*>(bytes.data), std::min<size_t>(bytes.size, 256));
  for (char& c : head)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  std::string hint;
  for (const Likeness& likeness : likenesses)
    if (hint.empty() && head.find(likeness.mark) != std::string::npos)
      hint = std::string("; it looks like ") + likeness.name;
  throw Error(SWINV2_BAD_IMAGE, "the image is not an image of a kind that is read" + hint);
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  for (size_t at = digits.size(); at > 3; at -= 3) digits.insert(at - 3, ",");
  return digits;
}

// (a * b + 127.5) / 255 rounded, as Pillow computes it
int times_by_255(int a, int b) {
  const int product = a * b + 128;
  return ((product >> 8) + product) >> 8;
}

// A value seen through its opacity on white, in the arithmetic of Pillow's alpha_composite.
uint8_t on_white(uint32_t value, uint32_t alpha) {
  const uint32_t sum = (value * alpha + 255 * (255 - alpha) + 128) << 7;
  return static_cast<uint8_t>((((sum >> 8) + sum) >> 8) >> 7);
}

uint8_t luminance(int red, int green, int blue) {  // ITU-R 601, in 16 bits
  return static_cast<uint8_t>((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16);
}

// Writes a row by a function from the values of a pixel to its red, green and blue.
template <int Values, typename Colour>
void store_colours(const uint8_t* row, int width, int channels, uint8_t* out, Colour colour) {
  for (int x = 0; x < width; ++x, row += Values, out += channels) {
    uint8_t rgb[3];
    colour(row, rgb);
    if (channels == 1) {
      out[0] = luminance(rgb[0], rgb[1], rgb[2]);
    } else {
      for (int c = 0; c < 3; ++c) out[c] = rgb[c];
    }
  }
}

}  // namespace

bool Bytes::starts_with(const char* mark, size_t length) const {
  return size >= length && std::memcmp(data, mark, length) == 0;
}

void throw_damaged(const std::string& reason) {
  throw Error(SWINV2_BAD_IMAGE, "the image is cut off or damaged: " + reason);
}

void refuse_size(int64_t width, int64_t height) {
  if (width < 1 || height < 1)
    throw Error(SWINV2_BAD_IMAGE, "the image is " + std::to_string(width) + " x " + std::to_string(height) +
                                      " pixels; an image has at least one");
  if (width > MAX_PIXELS / height)
    throw Error(SWINV2_BAD_IMAGE, "the image has more than " + with_commas(MAX_PIXELS) +
                                      " pixels, which is refused before decoding; scale it down first");
}

Image allocate(int64_t width, int64_t height, int channels) {
  refuse_size(width, height);
  Image image;
  image.width = static_cast<int>(width);
  image.height = static_cast<int>(height);
  image.channels = channels;
  image.pixels.resize(static_cast<size_t>(width * height) * channels);
  return image;
}

int values_of(Row kind) {
  switch (kind) {
    case Row::grey: return 1;
    case Row::grey_alpha: return 2;
    case Row::rgb: return 3;
    default: return 4;
  }
}

void store_row(Row kind, const uint8_t* row, int width, int channels, uint8_t* out) {
  switch (kind) {
    case Row::grey:
      return store_colours<1>(row, width, channels, out,
                              [](const uint8_t* p, uint8_t* rgb) { rgb[0] = rgb[1] = rgb[2] = p[0]; });
    case Row::grey_alpha:
      return store_colours<2>(row, width, channels, out, [](const uint8_t* p, uint8_t* rgb) {
        rgb[0] = rgb[1] = rgb[2] = on_white(p[0], p[1]);
      });
    case Row::rgb:
      return store_colours<3>(row, width, channels, out, [](const uint8_t* p, uint8_t* rgb) {
        for (int c = 0; c < 3; ++c) rgb[c] = p[c];
      });
    case Row::rgba:
      return store_colours<4>(row, width, channels, out, [](const uint8_t* p, uint8_t* rgb) {
        for (int c = 0; c < 3; ++c) rgb[c] = on_white(p[c], p[3]);
      });
    case Row::cmyk:
      return store_colours<4>(row, width, channels, out, [](const uint8_t* p, uint8_t* rgb) {
        const int light = 255 - p[3];
        for (int c = 0; c < 3; ++c) rgb[c] = static_cast<uint8_t>(light - times_by_255(p[c], light));
      });
  }
}

Image decode(const unsigned char* data, size_t size, int channels) {
  if (channels != 1 && channels != 3)
    throw Error(SWINV2_BAD_ARGUMENT, "a model of " + std::to_string(channels) +
                                         " channels sees neither colour nor grey; give it prepared tensors");
  const Bytes bytes{data, size};
  if (size == 0) throw Error(SWINV2_BAD_IMAGE, "the image is empty (0 bytes)");
  for (const Format& format : formats) {
    if (!bytes.from(format.offset).starts_with(format.mark, format.length)) continue;
    if (format.decode) return format.decode(bytes, channels);
    throw Error(SWINV2_UNSUPPORTED, std::string("the image is of the format ") + format.name +
                                        ", and this build reads " + decoders() + "; convert it first");
  }
  if (begins_like_a_picture(bytes)) throw_damaged("its header cannot be read");
  throw_unknown(bytes);
}

const char* decoders() {
  return ""
#if defined(SWINV2_JPEG) || defined(SWINV2_STB)
         "jpeg "
#endif
#if defined(SWINV2_PNG) || defined(SWINV2_STB)
         "png "
#endif
#if defined(SWINV2_WEBP)
         "webp "
#endif
         "pnm";
}

}  // namespace swinv2
