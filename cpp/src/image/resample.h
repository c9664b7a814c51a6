// Pillow's antialiased resampling of a part of the result.
#pragma once

#include <cstdint>

#include "image.h"

namespace swinv2 {

struct Box {  // of pixels: left to right, top to bottom; right and bottom are the first beyond it
  int64_t left, top, right, bottom;
};

// The box of what resize() to width x height would give, computed from no more pixels than that part needs.
// The box lies inside the result, whose sides may be longer than any picture that is held in memory.
Image resize_part(const View& image, int64_t width, int64_t height, const Box& box, bool bicubic);

}  // namespace swinv2
