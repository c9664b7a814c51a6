// From a model file to packed weights, and from an image size to its constants.

#include "network.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "error.h"

namespace swinv2 {
namespace {

constexpr int CPB_HIDDEN = 512;
constexpr float MAX_LOGIT_SCALE = 4.605170249938965f;  // ln 100 as float32: the clamp of the official code
constexpr size_t GEOMETRIES = 4;                       // image sizes that are kept
constexpr int TABLE_SLACK = 64;                        // kernels read whole vectors beyond the end

std::vector<int64_t> shape(int a) { return {a}; }
std::vector<int64_t> shape(int a, int b) { return {a, b}; }

Norm load_norm(const Artifact& artifact, const std::string& name, int dim) {
  return {artifact.read(name + ".weight", shape(dim)), artifact.read(name + ".bias", shape(dim))};
}

// Log-spaced offset along one axis, in float32 and in the official order of operations.
float log_spaced(int offset, int span) {
  const float t = static_cast<float>(offset) / static_cast<float>(span) * 8;
  const float size = std::log2(std::fabs(t) + 1) / 3;  // log2 8
  return t < 0 ? -size : size;
}

// The position bias of every head by offset (section 3.3): 16 sigmoid(MLP(offset)), columns mirrored
// (kernels.h).
void position_bias(const Block& block, const Stage& stage, int heads, float* tables, size_t table_stride,
                   int first, int last) {
  const int columns = 2 * stage.window.cols - 1;
  float hidden[CPB_HIDDEN];
  for (int at = first; at < last; at++) {
    const float down = log_spaced(at / columns - stage.window.rows + 1, stage.span.rows);
    const float across = log_spaced(stage.window.cols - 1 - at % columns, stage.span.cols);
    for (int i = 0; i < CPB_HIDDEN; i++) {
      const size_t w = 2 * static_cast<size_t>(i);
      hidden[i] = std::max(
          block.cpb_in[w] * down + block.cpb_in[w + 1] * across + block.cpb_bias[static_cast<size_t>(i)],
          0.0f);
    }
    for (int h = 0; h < heads; h++) {
      const float* out = block.cpb_out.data() + static_cast<size_t>(h) * CPB_HIDDEN;
      float sums[16] = {};  // as many as a vector holds: the compiler may then use one
      for (int i = 0; i < CPB_HIDDEN; i += 16)
        for (int j = 0; j < 16; j++) sums[j] += hidden[i + j] * out[i + j];
      float sum = 0;
      for (float s : sums) sum += s;
      tables[static_cast<size_t>(h) * table_stride + static_cast<size_t>(at)] = 16 / (1 + std::exp(-sum));
    }
  }
}

}  // namespace

Network::Network(const Artifact& artifact, const Kernels& kernels, Precision precision, int threads)
    : config_(artifact.config),
      kernels_(kernels),
      precision_(precision),
      edge_precision_(precision != Precision::fp32 && kernels.bf16 ? Precision::bf16 : Precision::fp32),
      team_(threads),
      shares_(threads) {
  const int stages = static_cast<int>(config_.depths.size());
  for (int s = 0; s < stages; s++) {
    const int dim = config_.dim(s), head_dim = dim / config_.heads[static_cast<size_t>(s)];
    if (dim % 16 || head_dim % 16 || head_dim > 128)
      throw Error(SWINV2_UNSUPPORTED, "stage " + std::to_string(s + 1) + " has " + std::to_string(dim) +
                                          " channels in heads of " + std::to_string(head_dim) +
                                          "; the engine runs heads of 16, 32, 48 ... 128 channels");
  }
  const int patch = config_.patch_size;
  embed_ = load(artifact, "patch_embed.proj.weight", {config_.embed_dim, config_.in_chans, patch, patch},
                Precision::fp32);
  set_bias(embed_, artifact.read("patch_embed.proj.bias", shape(config_.embed_dim)));
  embed_norm_ = load_norm(artifact, "patch_embed.norm", config_.embed_dim);
  layers_.resize(static_cast<size_t>(stages));
  for (int s = 0; s < stages; s++) {
    Layer& layer = layers_[static_cast<size_t>(s)];
    layer.blocks.resize(static_cast<size_t>(config_.depths[static_cast<size_t>(s)]));
    for (size_t b = 0; b < layer.blocks.size(); b++) {
      load_block(artifact, s, static_cast<int>(b), layer.blocks[b]);
      artifact.forget();  // or the file and the packed weights are in memory together
    }
    if (s + 1 < stages) {
      const std::string name = "layers." + std::to_string(s) + ".downsample.";
      const int dim = config_.dim(s);
      layer.reduction = load(artifact, name + "reduction.weight", shape(2 * dim, 4 * dim), precision_);
      layer.norm = load_norm(artifact, name + "norm", 2 * dim);
    }
  }
  norm_ = load_norm(artifact, "norm", config_.features());
  if (config_.num_classes) {
    head_ = load(artifact, "head.weight", shape(config_.num_classes, config_.features()), edge_precision_);
    set_bias(head_, artifact.read("head.bias", shape(config_.num_classes)));
  }
}

void Network::load_block(const Artifact& artifact, int stage, int index, Block& block) {
  const std::string name = "layers." + std::to_string(stage) + ".blocks." + std::to_string(index) + ".";
  const int dim = config_.dim(stage), hidden = config_.hidden(stage),
            heads = config_.heads[static_cast<size_t>(stage)];
  const size_t size = static_cast<size_t>(dim);
  block.qkv = load(artifact, name + "attn.qkv.weight", shape(3 * dim, dim), precision_);
  std::vector<float> bias(3 * size);  // q, nothing for k, v
  const std::vector<float> q = artifact.read(name + "attn.q_bias", shape(dim)),
                           v = artifact.read(name + "attn.v_bias", shape(dim));
  std::copy(q.begin(), q.end(), bias.begin());
  std::copy(v.begin(), v.end(), bias.begin() + 2 * static_cast<ptrdiff_t>(size));
  set_bias(block.qkv, bias);
  block.proj = load(artifact, name + "attn.proj.weight", shape(dim, dim), precision_);
  set_bias(block.proj, artifact.read(name + "attn.proj.bias", shape(dim)));
  block.fc1 = load(artifact, name + "mlp.fc1.weight", shape(hidden, dim), precision_);
  set_bias(block.fc1, artifact.read(name + "mlp.fc1.bias", shape(hidden)));
  block.fc2 = load(artifact, name + "mlp.fc2.weight", shape(dim, hidden), precision_);
  set_bias(block.fc2, artifact.read(name + "mlp.fc2.bias", shape(dim)));
  block.norm1 = load_norm(artifact, name + "norm1", dim);
  block.norm2 = load_norm(artifact, name + "norm2", dim);
  if (config_.has_extra_norm(stage, index)) block.norm3 = load_norm(artifact, name + "norm3", dim);
  block.scale = artifact.read(name + "attn.logit_scale", {heads, 1, 1});
  for (float& scale : block.scale)
    scale = std::exp(std::min(scale, MAX_LOGIT_SCALE));  // the clamp comes first
  block.cpb_in = artifact.read(name + "attn.cpb_mlp.0.weight", shape(CPB_HIDDEN, 2));
  block.cpb_bias = artifact.read(name + "attn.cpb_mlp.0.bias", shape(CPB_HIDDEN));
  block.cpb_out = artifact.read(name + "attn.cpb_mlp.2.weight", shape(heads, CPB_HIDDEN));
}

Linear Network::load(const Artifact& artifact, const std::string& weight, const std::vector<int64_t>& shape,
                     Precision precision) {
  const int outs = static_cast<int>(shape[0]);
  const int in = static_cast<int>(
      std::accumulate(shape.begin() + 1, shape.end(), int64_t{1}, std::multiplies<int64_t>()));
  Linear linear;
  Packed& packed = linear.packed;
  const int width = kernels_.width, values = values_of_step(precision);
  packed.precision = precision;
  packed.outs = outs;
  packed.in = in;
  packed.panels = round_up(outs, width) / width;
  packed.steps = round_up(in, values) / values;
  linear.data = Memory(packed_bytes(precision, outs, in, width));
  linear.scale = Memory(sizeof(float) * static_cast<size_t>(round_up(outs, width)));
  std::fill_n(linear.scale.floats(), round_up(outs, width), 0.0f);
  const size_t bytes_of_panel = static_cast<size_t>(packed.steps) * static_cast<size_t>(width) * 4;
  const std::vector<float> values_in = artifact.read(weight, shape);
  team_.run([&](int member) {  // panels are independent
    const int first = packed.panels * member / team_.size(),
              last = packed.panels * (member + 1) / team_.size();
    const int from = first * width, to = std::min(last * width, outs);
    if (from < to)
      pack(precision, values_in.data() + static_cast<size_t>(from) * static_cast<size_t>(in), to - from, in,
           width, kernels_.offset, linear.data.data() + static_cast<size_t>(first) * bytes_of_panel,
           linear.scale.floats() + from);
  });
  packed.data = linear.data.data();
  packed.scale = linear.scale.floats();
  set_bias(linear, {});
  weight_bytes_ += linear.data.size();
  return linear;
}

void Network::set_bias(Linear& linear, const std::vector<float>& bias) {
  const int padded = linear.packed.panels * kernels_.width;
  linear.bias = Memory(sizeof(float) * static_cast<size_t>(padded));
  std::fill_n(linear.bias.floats(), padded, 0.0f);
  std::copy(bias.begin(), bias.end(), linear.bias.floats());
  linear.packed.bias = linear.bias.floats();
}

const Geometry& Network::geometry(int height, int width) {
  for (size_t i = 0; i < geometries_.size(); i++)
    if (geometries_[i]->height == height && geometries_[i]->width == width) {
      std::rotate(geometries_.begin(), geometries_.begin() + static_cast<ptrdiff_t>(i),
                  geometries_.begin() + static_cast<ptrdiff_t>(i) + 1);
      return *geometries_.front();
    }
  auto g = std::make_unique<Geometry>();
  g->height = height;
  g->width = width;
  g->stages = config_.stages(height, width);
  for (const Stage& stage : g->stages) {
    const int offsets = (2 * stage.window.rows - 1) * (2 * stage.window.cols - 1);
    const size_t stride = static_cast<size_t>(round_up(offsets + TABLE_SLACK, 16));
    g->table_stride.push_back(stride);
    g->tables.emplace_back();
    for (const Block& block : layers_[static_cast<size_t>(stage.index)].blocks) {
      Memory tables(stride * static_cast<size_t>(stage.heads) * sizeof(float));
      std::fill_n(tables.floats(), stride * static_cast<size_t>(stage.heads), 0.0f);
      team_.run([&](int member) {
        const int64_t size = team_.size();
        position_bias(block, stage, stage.heads, tables.floats(), stride,
                      static_cast<int>(offsets * int64_t{member} / size),
                      static_cast<int>(offsets * int64_t{member + 1} / size));
      });
      g->tables.back().push_back(std::move(tables));
    }
  }
  geometries_.insert(geometries_.begin(), std::move(g));
  if (geometries_.size() > GEOMETRIES) geometries_.pop_back();
  return *geometries_.front();
}

unsigned char* Network::arena(size_t bytes) {
  if (arena_.size() < bytes) {
    arena_ = Memory();  // first give back, then ask: the peak is the larger of the two
    arena_ = Memory(bytes);
  }
  return arena_.data();
}

}  // namespace swinv2
