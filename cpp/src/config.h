// The architecture of a model and its preprocessing, as the record in the model file says, and the geometry
// of every stage for any image size. The twin of src/swinv2/config.py and preprocess.py, field for field.
#pragma once

#include <string>
#include <vector>

namespace swinv2 {

struct Pair {  // vertical, horizontal
  int rows = 0, cols = 0;
  bool operator==(const Pair& other) const { return rows == other.rows && cols == other.cols; }
  bool operator!=(const Pair& other) const { return !(*this == other); }
};

// One stage at one image size. In tokens.
struct Stage {
  int index, dim, depth, heads;
  Pair grid;    // of the feature map, before padding
  Pair window;  // never larger than the grid
  Pair shift;   // of the odd blocks; 0 along an axis that one window covers
  Pair span;    // what relative coordinates are divided by (the trained window - 1, at least 1)

  Pair padded() const {  // the grid rounded up to whole windows
    return {(grid.rows + window.rows - 1) / window.rows * window.rows,
            (grid.cols + window.cols - 1) / window.cols * window.cols};
  }
};

// What a record leaves out has these values, as in Python.
struct Config {
  std::string architecture = "swinv2";
  Pair image_size{256, 256};  // that the weights were made for; other sizes work as well
  int window = 8, embed_dim = 96;
  std::vector<int> depths{2, 2, 6, 2}, heads{3, 6, 12, 24};  // of every stage
  std::vector<Pair> pretrained_windows{{0, 0}, {0, 0}, {0, 0}, {0, 0}};  // 0: the window at image_size
  int num_classes = 1000, in_chans = 3, patch_size = 4;  // num_classes: 0 for no head
  double mlp_ratio = 4;
  int extra_norm_period = 0;

  int dim(int stage) const { return embed_dim << stage; }
  int hidden(int stage) const { return static_cast<int>(dim(stage) * mlp_ratio); }
  int features() const { return dim(static_cast<int>(depths.size()) - 1); }
  // One more norm on the main branch after every so many blocks of stage 3 (the paper's giants, section 3.2).
  bool has_extra_norm(int stage, int block) const {
    return extra_norm_period > 0 && stage == 2 && (block + 1) % extra_norm_period == 0;
  }

  // Per stage, the window that the position bias of these weights was trained with.
  std::vector<Pair> trained_windows() const;

  // The solved geometry for an image of height x width pixels. Throws Error BAD_ARGUMENT where a side is below
  // one pixel, or where the tokens of a padded map would not fit an int.
  std::vector<Stage> stages(int height, int width) const;
};

struct Preprocess {
  Pair size{256, 256};   // of the tensor, in pixels
  bool squash = false;   // both sides to size; otherwise the shorter side to resize_to and the centre cut out
  int resize_to = 292;
  bool bicubic = true;   // or bilinear; both antialiased as Pillow's
  std::vector<float> mean{0.485f, 0.456f, 0.406f}, std{0.229f, 0.224f, 0.225f};  // one each for every channel
};

}  // namespace swinv2
