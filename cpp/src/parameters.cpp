// The contract between an architecture and its weights.

#include "parameters.h"

namespace swinv2 {
namespace {

struct List {
  std::vector<Parameter> rows;

  void add(const std::string& name, std::vector<int64_t> shape) { rows.push_back({name, std::move(shape)}); }
  void linear(const std::string& name, int64_t outs, int64_t ins) { add(name + ".weight", {outs, ins}); }
  void linear_with_bias(const std::string& name, int64_t outs, int64_t ins) {
    linear(name, outs, ins);
    add(name + ".bias", {outs});
  }
  void norm(const std::string& name, int64_t dim) {
    add(name + ".weight", {dim});
    add(name + ".bias", {dim});
  }
};

}  // namespace

std::vector<Parameter> parameters(const Config& config) {
  List list;
  const int64_t patch = config.patch_size;
  list.add("patch_embed.proj.weight", {config.embed_dim, config.in_chans, patch, patch});
  list.add("patch_embed.proj.bias", {config.embed_dim});
  list.norm("patch_embed.norm", config.embed_dim);
  const int stages = static_cast<int>(config.depths.size());
  for (int i = 0; i < stages; i++) {
    const std::string layer = "layers." + std::to_string(i);
    const size_t at = static_cast<size_t>(i);
    const int64_t dim = config.dim(i), hidden = config.hidden(i), heads = config.heads[at];
    for (int b = 0; b < config.depths[at]; b++) {
      const std::string block = layer + ".blocks." + std::to_string(b);
      list.norm(block + ".norm1", dim);
      list.add(block + ".attn.logit_scale", {heads, 1, 1});
      list.add(block + ".attn.q_bias", {dim});
      list.add(block + ".attn.v_bias", {dim});
      list.linear_with_bias(block + ".attn.cpb_mlp.0", position_hidden, 2);
      list.linear(block + ".attn.cpb_mlp.2", heads, position_hidden);
      list.linear(block + ".attn.qkv", 3 * dim, dim);
      list.linear_with_bias(block + ".attn.proj", dim, dim);
      list.norm(block + ".norm2", dim);
      list.linear_with_bias(block + ".mlp.fc1", hidden, dim);
      list.linear_with_bias(block + ".mlp.fc2", dim, hidden);
      if (config.has_extra_norm(i, b)) list.norm(block + ".norm3", dim);
    }
    if (i < stages - 1) {
      list.linear(layer + ".downsample.reduction", 2 * dim, 4 * dim);
      list.norm(layer + ".downsample.norm", 2 * dim);
    }
  }
  list.norm("norm", config.features());
  if (config.num_classes > 0) list.linear_with_bias("head", config.num_classes, config.features());
  return list.rows;
}

}  // namespace swinv2
