// libFuzzer: any bytes as a picture, and a tensor of what they show. Whatever they are, they give pixels or one Error.
//
//   clang++ -std=c++17 -g -O1 -fsanitize=fuzzer,address,undefined -DSWINV2_MAX_PIXELS=1000000 (decoders as built) ...
//   python cpp/fuzz/seeds_images.py seeds && ./fuzz_decode -max_total_time=720 corpus seeds

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "error.h"
#include "image/decode.h"

namespace {

swinv2::Preprocess recipe_of(int channels, bool squash) {
  swinv2::Preprocess recipe;
  recipe.size = {24, 31};
  recipe.squash = squash;
  recipe.resize_to = 29;
  recipe.bicubic = !squash;
  recipe.mean.assign(static_cast<size_t>(channels), 0.5f);
  recipe.std.assign(static_cast<size_t>(channels), 0.25f);
  return recipe;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const int channels = size % 2 ? 1 : 3;
  try {
    const swinv2::Image image = swinv2::decode(data, size, channels);
    const size_t values = static_cast<size_t>(image.width) * static_cast<size_t>(image.height) * channels;
    if (image.channels != channels || image.pixels.size() != values) std::abort();
    std::vector<float> tensor(static_cast<size_t>(24 * 31 * channels), NAN);
    const swinv2::View view{image.pixels.data(), image.width, image.height, channels,
                            static_cast<ptrdiff_t>(image.width) * channels};
    swinv2::prepare(view, recipe_of(channels, size % 4 < 2), tensor.data());
    for (float value : tensor)
      if (!(value >= -2 && value <= 2)) std::abort();  // also where nothing was written
  } catch (const swinv2::Error& error) {
    if (!*error.what()) std::abort();
  }
  return 0;
}
