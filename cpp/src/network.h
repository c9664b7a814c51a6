// The network as it is computed: weights folded and packed for one instruction set and precision, the
// constants of one image size, and the pass through it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "artifact.h"
#include "config.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "threads.h"

namespace swinv2 {

struct Linear {
  Packed packed;
  Memory data, bias, scale;
};

struct Norm {
  std::vector<float> gain, bias;
};

struct Block {
  Linear qkv, proj, fc1, fc2;
  Norm norm1, norm2, norm3;                      // norm3 is empty but in the giants
  std::vector<float> scale;                      // exp of the clamped logit scale, per head
  std::vector<float> cpb_in, cpb_bias, cpb_out;  // the position bias MLP: [512, 2], [512], [heads, 512]
};

struct Layer {
  std::vector<Block> blocks;
  Linear reduction;  // empty in the last stage
  Norm norm;
};

// What depends on the image size alone.
struct Geometry {
  int height = 0, width = 0;
  std::vector<Stage> stages;
  // tables[stage][block]: the position bias, [heads, table_stride] floats (kernels.h, Attention)
  std::vector<std::vector<Memory>> tables;
  std::vector<size_t> table_stride;
};

// What one member, or all together, works with on a group of windows.
struct Workspace;

using Watch = std::function<void(const char* name, const float* values, std::vector<int64_t> shape)>;

class Network {
 public:
  Network(const Artifact& artifact, const Kernels& kernels, Precision precision, int threads);

  // images: [batch, channels, height, width]; logits: [batch, classes]. watch: only for a batch of 1.
  void run(const float* images, int64_t batch, int height, int width, float* logits,
           const Watch* watch = nullptr);

  int outputs() const { return config_.num_classes ? config_.num_classes : config_.features(); }
  size_t weight_bytes() const { return weight_bytes_; }
  int threads() const { return team_.size(); }

 private:
  // A weight [outs, ...] as the matrix [outs, in].
  Linear load(const Artifact& artifact, const std::string& weight, const std::vector<int64_t>& shape,
              Precision precision);
  void set_bias(Linear& linear, const std::vector<float>& bias);
  void load_block(const Artifact& artifact, int stage, int index, Block& block);
  const Geometry& geometry(int height, int width);
  void portion(const float* images, int batch, const Geometry& g, float* logits, const Watch* watch);
  void embed(const float* images, int batch, const Geometry& g, float* x);
  void block(const Block& block, const Stage& stage, int index, const float* tables, size_t table_stride,
             int batch, float* x);
  void merge(const Layer& layer, const Stage& stage, int batch, const float* x, float* out);
  void classify(int batch, const Stage& last, float* x, float* logits, const Watch* watch);
  unsigned char* arena(size_t bytes);

  Config config_;
  const Kernels& kernels_;
  Precision precision_, edge_precision_;  // edge: of the head and of attention; the patch embedding is fp32
  Team team_;
  Shares shares_;
  Linear embed_, head_;
  Norm embed_norm_, norm_;
  std::vector<Layer> layers_;
  std::vector<std::unique_ptr<Geometry>> geometries_;  // the last few sizes
  Memory arena_, maps_[2];
  size_t weight_bytes_ = 0;
};

}  // namespace swinv2
