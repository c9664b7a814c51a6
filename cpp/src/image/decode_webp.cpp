// WebP by libwebp: lossy, lossless, with alpha, and the first frame of animations.
//
// libwebp decodes animations only through a second library. One frame needs none: the chunks of the frame are
// a bare bitstream that the decoder takes, and the frame is placed on an empty canvas as that library would.

#if defined(SWINV2_WEBP)

#include <utility>
#include <vector>

#include <webp/decode.h>

#include "decode.h"
#include "exif.h"

namespace swinv2 {
namespace {

struct Frame {  // where it lies on the canvas
  Bytes bitstream;
  int x = 0, y = 0;
};

int number_of_3_bytes(const unsigned char* p) { return p[0] | p[1] << 8 | p[2] << 16; }

// The first frame of an animation.
Frame first_frame(Bytes file) {
  for (RiffChunks chunks(file.from(12)); chunks.next();) {
    if (!chunks.is("ANMF") || chunks.payload.size <= 16) continue;
    const unsigned char* head = chunks.payload.data;
    Frame frame;
    frame.x = 2 * number_of_3_bytes(head);
    frame.y = 2 * number_of_3_bytes(head + 3);
    frame.bitstream = chunks.payload.from(16);
    return frame;
  }
  throw_damaged("an animation without frames");
}

WebPBitstreamFeatures features_of(Bytes bytes) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data, bytes.size, &features) != VP8_STATUS_OK)
    throw_damaged("its header cannot be read");
  refuse_size(features.width, features.height);
  return features;
}

// Decodes into a rectangle of out, which has stride bytes per row and is as large as the frame at least.
void decode_into(Bytes bitstream, Row kind, uint8_t* out, size_t bytes, size_t stride) {
  const auto decoder = kind == Row::rgba ? WebPDecodeRGBAInto : WebPDecodeRGBInto;
  if (!decoder(bitstream.data, bitstream.size, out, bytes, static_cast<int>(stride)))
    throw_damaged("its pixels cannot be read");
}

}  // namespace

Image decode_webp(Bytes bytes, int channels) {
  const WebPBitstreamFeatures canvas = features_of(bytes);
  Frame frame;
  frame.bitstream = bytes;
  if (canvas.has_animation) {
    frame = first_frame(bytes);
    const WebPBitstreamFeatures part = features_of(frame.bitstream);
    if (part.width > canvas.width - frame.x || part.height > canvas.height - frame.y)
      throw_damaged("its first frame is larger than the picture");
  }
  Image image = allocate(canvas.width, canvas.height, channels);
  const Row kind = canvas.has_alpha ? Row::rgba : Row::rgb;
  const size_t stride = static_cast<size_t>(image.width) * values_of(kind);
  const size_t offset = frame.y * stride + static_cast<size_t>(frame.x) * values_of(kind);
  if (kind == Row::rgb && channels == 3) {
    decode_into(frame.bitstream, kind, image.pixels.data() + offset, image.pixels.size() - offset, stride);
  } else {
    std::vector<uint8_t> decoded(stride * image.height);  // clear, or black, where the frame does not reach
    decode_into(frame.bitstream, kind, decoded.data() + offset, decoded.size() - offset, stride);
    for (int y = 0; y < image.height; ++y)
      store_row(kind, decoded.data() + y * stride, image.width, channels, image.row(y));
  }
  return upright(std::move(image), orientation(metadata_of_webp(bytes)));
}

}  // namespace swinv2

#endif
