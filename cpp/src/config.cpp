// The geometry of every stage; src/swinv2/config.py line for line.

#include "config.h"

#include <algorithm>
#include <climits>
#include <cstdint>

#include "error.h"

namespace swinv2 {
namespace {

int half_up(int n) { return n / 2 + n % 2; }

int divided_up(int n, int by) { return n / by + (n % by != 0); }

struct Sizes {
  Pair grid, window;
};

std::vector<Sizes> sizes(const Config& config, int height, int width) {
  Pair grid{divided_up(height, config.patch_size), divided_up(width, config.patch_size)};
  std::vector<Sizes> out;
  for (size_t i = 0; i < config.depths.size(); i++) {
    out.push_back({grid, {std::min(grid.rows, config.window), std::min(grid.cols, config.window)}});
    grid = {half_up(grid.rows), half_up(grid.cols)};
  }
  return out;
}

// Odd blocks shift by half a window, along an axis that has more than one.
int shift(int grid, int window) { return grid > window ? window / 2 : 0; }

// Official divisor: trained window - 1. A window of one token has no neighbours to be relative to; there the
// official formula divides by zero, ours divides 0 by 1.
int span(int trained, int window) { return std::max((trained > 1 ? trained : window) - 1, 1); }

}  // namespace

std::vector<Pair> Config::trained_windows() const {
  std::vector<Pair> out = pretrained_windows;
  const std::vector<Sizes> own = sizes(*this, image_size.rows, image_size.cols);
  for (size_t i = 0; i < out.size(); i++) {
    if (out[i].rows == 0) out[i].rows = own[i].window.rows;
    if (out[i].cols == 0) out[i].cols = own[i].window.cols;
  }
  return out;
}

std::vector<Stage> Config::stages(int height, int width) const {
  auto refuse = [&](const std::string& why) {
    const std::string sides = std::to_string(height) + " x " + std::to_string(width);
    throw Error(SWINV2_BAD_ARGUMENT, "an image of " + sides + " pixels " + why);
  };
  if (height < 1 || width < 1) refuse("is empty; give at least 1 pixel a side");
  const std::vector<Sizes> solved = sizes(*this, height, width);
  const std::vector<Pair> trained = trained_windows();
  std::vector<Stage> out;
  for (size_t i = 0; i < solved.size(); i++) {
    const Pair grid = solved[i].grid, side = solved[i].window;
    // One window more than the grid bounds the padding.
    const int64_t rows = int64_t{grid.rows} + side.rows, cols = int64_t{grid.cols} + side.cols;
    if (rows > INT_MAX || cols > INT_MAX || rows * cols > INT_MAX) {
      refuse("is larger than is computed; give a smaller one");
    }
    Stage stage;
    stage.index = static_cast<int>(i);
    stage.dim = dim(stage.index);
    stage.depth = depths[i];
    stage.heads = heads[i];
    stage.grid = grid;
    stage.window = side;
    stage.shift = {shift(grid.rows, side.rows), shift(grid.cols, side.cols)};
    stage.span = {span(trained[i].rows, side.rows), span(trained[i].cols, side.cols)};
    out.push_back(stage);
  }
  return out;
}

}  // namespace swinv2
