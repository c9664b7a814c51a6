// JPEG and PNG by stb_image, for builds without the libraries of these formats. It decodes JPEG a little
// differently from libjpeg, so pixels are near Pillow's and not equal to them.

#if defined(SWINV2_STB)

#include <memory>
#include <utility>

#include "decode.h"
#include "exif.h"

// Its functions stay in this file, and only the two formats are compiled.
#define STB_IMAGE_IMPLEMENTATION
#define STB_IMAGE_STATIC
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_NO_STDIO
#define STBI_NO_LINEAR
#define STBI_NO_HDR
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#include <stb_image.h>
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

namespace swinv2 {
namespace {

struct Free {
  void operator()(stbi_uc* pixels) const { stbi_image_free(pixels); }
};

// The eXIf chunk of a PNG.
Metadata metadata_of_png(Bytes bytes) {
  Metadata metadata;
  for (Bytes rest = bytes.from(8); rest.size >= 12;) {
    size_t length = 0;
    for (int i = 0; i < 4; ++i) length = length << 8 | rest.data[i];
    if (length > rest.size - 12) break;
    if (rest.from(4).starts_with("eXIf", 4))
      metadata.exif.assign(reinterpret_cast<const char*>(rest.data) + 8, length);
    rest = rest.from(length + 12);
  }
  return metadata;
}

}  // namespace

Image decode_stb(Bytes bytes, int channels) {
  if (bytes.size > INT32_MAX) throw_damaged("it has more than 2 GB");
  const int size = static_cast<int>(bytes.size);
  int width = 0, height = 0, values = 0;
  if (!stbi_info_from_memory(bytes.data, size, &width, &height, &values))
    throw_damaged(stbi_failure_reason());
  refuse_size(width, height);

  // What a PNG has transparent beside its channels stb_image tells only of four values per pixel.
  const bool is_png = bytes.starts_with("\x89PNG", 4);
  const Row kind = is_png ? Row::rgba : values == 1 ? Row::grey : Row::rgb;
  const std::unique_ptr<stbi_uc, Free> pixels(
      stbi_load_from_memory(bytes.data, size, &width, &height, &values, values_of(kind)));
  if (!pixels) throw_damaged(stbi_failure_reason());

  Image image = allocate(width, height, channels);
  const size_t stride = static_cast<size_t>(width) * values_of(kind);
  for (int y = 0; y < height; ++y) store_row(kind, pixels.get() + y * stride, width, channels, image.row(y));
  return upright(std::move(image), orientation(is_png ? metadata_of_png(bytes) : metadata_of_jpeg(bytes)));
}

}  // namespace swinv2

#endif
