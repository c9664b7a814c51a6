// The geometry of the stages, with the answers of src/swinv2/config.py, and images that have none.

#include <limits>
#include <string>

#include "check.h"
#include "config.h"
#include "error.h"

using namespace swinv2;

namespace {

void test_stages() {
  struct Row {
    int window, patch;
    Pair trained, made_for, image, grid, side, shift, span, padded;  // of stage 2
  };
  const Row rows[] = {
      {8, 4, {0, 0}, {256, 256}, {256, 256}, {32, 32}, {8, 8}, {4, 4}, {7, 7}, {32, 32}},
      {16, 4, {12, 12}, {256, 256}, {256, 256}, {32, 32}, {16, 16}, {8, 8}, {11, 11}, {32, 32}},
      {8, 4, {0, 0}, {256, 256}, {33, 1000}, {5, 125}, {5, 8}, {0, 4}, {7, 7}, {5, 128}},
      {8, 4, {0, 0}, {20, 256}, {256, 256}, {32, 32}, {8, 8}, {4, 4}, {2, 7}, {32, 32}},
      {7, 4, {1, 0}, {256, 256}, {1, 57}, {1, 8}, {1, 7}, {0, 3}, {1, 6}, {1, 14}},
      {1, 1, {0, 0}, {4, 4}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}, {2, 2}},
  };
  for (const Row& row : rows) {
    Config config;
    config.window = row.window;
    config.patch_size = row.patch;
    config.image_size = row.made_for;
    config.pretrained_windows[1] = row.trained;
    const Stage stage = config.stages(row.image.rows, row.image.cols)[1];
    CHECK(stage.index == 1 && stage.dim == 192 && stage.depth == 2 && stage.heads == 6);
    const std::string where = std::to_string(row.image.rows) + " x " + std::to_string(row.image.cols) + ": ";
    CHECK(stage.grid == row.grid, where + "another grid");
    CHECK(stage.window == row.side, where + "another window");
    CHECK(stage.shift == row.shift, where + "another shift");
    CHECK(stage.span == row.span, where + "another span");
    CHECK(stage.padded() == row.padded, where + "another padded grid");
  }
}

void test_images_that_are_no_images() {
  const int most = std::numeric_limits<int>::max();
  for (Pair size : {Pair{0, 5}, Pair{5, 0}, Pair{-1, 5}, Pair{most, most}, Pair{1 << 20, 1 << 20}}) {
    bool is_refused = false;
    try {
      Config().stages(size.rows, size.cols);
    } catch (const Error& error) {
      is_refused = error.status == SWINV2_BAD_ARGUMENT;
    }
    CHECK(is_refused, std::to_string(size.rows) + " x " + std::to_string(size.cols) + " is not refused");
  }
  CHECK(Config().stages(1, most)[0].grid.cols == (most - 1) / 4 + 1);
  CHECK(Config().stages(1, 1)[3].padded() == (Pair{1, 1}));
}

}  // namespace

int main() {
  test_stages();
  test_images_that_are_no_images();
  return finish();
}
