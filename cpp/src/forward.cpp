// The pass through the network, in the order of the paper.
//
// Everything but attention works on single tokens, so a whole block runs on a few windows at a time: their
// tokens stay in the cache of one core from the qkv product to the last norm, and the map is read and written
// once. Where there are fewer windows than threads, all threads work on the same group and share out columns
// and heads instead.

#include <algorithm>
#include <cmath>
#include <cstring>

#include "network.h"

// B batch, n windows of an image, N tokens of a window, R rows of a group (its windows' tokens), C channels

namespace swinv2 {
namespace {

constexpr int GROUP = 128;     // rows that one member takes through a block at a time
constexpr int TOGETHER = 512;  // rows that all members take through a block together
constexpr size_t MAPS =
    16 << 20;  // bytes of the first map of all images that go through the network at a time
constexpr float REGION_PENALTY = -100;  // not -infinity: the released weights were trained with it
constexpr float EXCLUDED = -1e30f;      // what the softmax makes exactly 0
constexpr int REGIONS = 5;              // of a shifted window: four, and padding

// Room of a row of floats that a product writes whole panels into; an odd number of cache lines, so that the
// rows of a tile do not fall upon the same place of the cache.
size_t float_stride(int values) { return static_cast<size_t>((round_up(values, 32) / 16) | 1) * 16; }
size_t operand_stride(Precision precision, int values) {
  const size_t bytes =
      static_cast<size_t>(round_up(values, 32)) * static_cast<size_t>(bytes_of_value(precision));
  return ((bytes + LINE - 1) / LINE | 1) * LINE;
}

Operand float_rows(float* data, size_t stride) {
  return {Precision::fp32, reinterpret_cast<unsigned char*>(data), stride * sizeof(float), nullptr, nullptr};
}

Operand take_operand(Arena& arena, Precision precision, int rows, int values) {
  Operand operand;
  operand.precision = precision;
  operand.stride = operand_stride(precision, values);
  operand.data = arena.take<unsigned char>(static_cast<size_t>(rows) * operand.stride);
  if (precision == Precision::int8) {
    operand.scale = arena.take<float>(static_cast<size_t>(rows));
    operand.sum = arena.take<int32_t>(static_cast<size_t>(rows));
  }
  return operand;
}

}  // namespace

struct Workspace {
  int windows, rows, mlp_rows;  // of a group; of the MLP's part of it
  size_t padded;                // tokens of a window, rounded up to what kernels write
  int64_t* place;               // [R] row of the map, -1 for padding
  unsigned char* region;        // [R]
  bool* masked;                 // [windows] whether some of its tokens must not see each other
  float* masks;                 // [windows, REGIONS, padded]
  Operand x, attended, hidden;
  Operand qkv;      // [R, 3C] as attention computes
  float *y, *wide;  // [R, C]; [mlp_rows, 4C] where int8 has to see a row before it rounds it
  size_t y_stride, wide_stride;

  Workspace(Arena& arena, Precision precision, Precision inner, const Stage& stage, int hidden_dim,
            int windows, int mlp_rows)
      : windows(windows),
        rows(windows * stage.window.rows * stage.window.cols),
        mlp_rows(std::min(mlp_rows, rows)) {
    const size_t r = static_cast<size_t>(rows);
    padded = static_cast<size_t>(round_up(stage.window.rows * stage.window.cols, 32));
    place = arena.take<int64_t>(r);
    region = arena.take<unsigned char>(r);
    masked = arena.take<bool>(static_cast<size_t>(windows));
    masks = arena.take<float>(static_cast<size_t>(windows) * REGIONS * padded);
    x = take_operand(arena, precision, rows, stage.dim);
    attended = take_operand(arena, precision, rows, stage.dim);
    y_stride = float_stride(stage.dim);
    wide_stride = float_stride(hidden_dim);
    qkv = take_operand(arena, inner, rows, 3 * stage.dim);
    y = arena.take<float>(r * y_stride);
    hidden = take_operand(arena, precision, this->mlp_rows, hidden_dim);
    wide = precision == Precision::int8 ? arena.take<float>(static_cast<size_t>(this->mlp_rows) * wide_stride)
                                        : nullptr;
  }
};

namespace {

// Which tokens of the map a window holds, and which of them must not see each other (ops/reference.py states
// the rules).
void lay_window(const Stage& stage, Pair shift, int image, int window, Workspace& w, int index) {
  const Pair padded = stage.padded(), side = stage.window, grid = stage.grid;
  const int across = padded.cols / side.cols, tokens = side.rows * side.cols;
  const int top = window / across * side.rows, left = window % across * side.cols;
  int64_t* place = w.place + static_cast<ptrdiff_t>(index) * tokens;
  unsigned char* region = w.region + static_cast<ptrdiff_t>(index) * tokens;
  bool differ = false;
  for (int i = 0; i < tokens; i++) {
    const int y = (top + i / side.cols + shift.rows) % padded.rows,
              x = (left + i % side.cols + shift.cols) % padded.cols;
    const bool padding = y >= grid.rows || x >= grid.cols;
    place[i] = padding ? -1 : (static_cast<int64_t>(image) * grid.rows + y) * grid.cols + x;
    region[i] = padding ? 4 : static_cast<unsigned char>(2 * (y < shift.rows) + (x < shift.cols));
    differ |= region[i] != region[0];
  }
  w.masked[index] = differ;
  if (!differ) return;
  const float penalty = padded == grid ? REGION_PENALTY : EXCLUDED;
  float* masks = w.masks + static_cast<size_t>(index) * REGIONS * w.padded;
  for (int r = 0; r < REGIONS; r++)
    for (size_t j = 0; j < w.padded; j++)
      masks[static_cast<size_t>(r) * w.padded + j] =
          j >= static_cast<size_t>(tokens) || region[j] == r ? 0 : penalty;
}

// One block on a group of windows, by members of one team or by one alone.
struct GroupPass {
  const Kernels& k;
  const Block& block;
  const Stage& stage;
  Pair shift;
  Precision precision;
  const float* tables;
  size_t table_stride;
  const float* zeros;  // a token of padding
  Workspace& w;
  unsigned char* scratch;  // of this member, for attention
  int member, members;
  Team* team;  // null where one works alone
  float* x;    // the map

  void meet() const {
    if (team) team->meet();
  }
  void linear(const Operand& out, const Operand& in, int rows, const Linear& l) const {
    k.linear(out, in, rows, l.packed, share(l.packed.panels, member, members),
             share(l.packed.panels, member + 1, members));
  }

  void run(int first, int count) const {
    const int tokens = stage.window.rows * stage.window.cols, rows = count * tokens, dim = stage.dim;
    const int windows = stage.padded().rows / stage.window.rows * (stage.padded().cols / stage.window.cols);
    for (int i = share(count, member, members); i < share(count, member + 1, members); i++)
      lay_window(stage, shift, (first + i) / windows, (first + i) % windows, w, i);
    meet();
    for (int r = share(rows, member, members); r < share(rows, member + 1, members); r++)
      k.encode(w.x, r, w.place[r] < 0 ? zeros : x + w.place[r] * dim, dim, round_up(dim, 4));
    meet();
    linear(w.qkv, w.x, rows, block.qkv);
    meet();
    attend(count, tokens);
    meet();
    if (precision == Precision::int8) {
      for (int r = share(rows, member, members); r < share(rows, member + 1, members); r++)
        k.encode(w.attended, r, w.y + static_cast<size_t>(r) * w.y_stride, dim, round_up(dim, 4));
      meet();
    }
    linear(float_rows(w.y, w.y_stride), w.attended, rows, block.proj);
    meet();
    for (int row = 0; row < rows; row += w.mlp_rows) mlp(row, std::min(w.mlp_rows, rows - row));
  }

  void attend(int count, int tokens) const {
    const int heads = stage.heads, head_dim = stage.dim / heads;
    for (int i = share(count * heads, member, members); i < share(count * heads, member + 1, members); i++) {
      const int window = i / heads, head = i % heads;
      const ptrdiff_t row = static_cast<ptrdiff_t>(window) * tokens;
      Attention a;
      a.precision = w.qkv.precision;
      a.qkv = w.qkv.from(static_cast<int>(row)).data + head * head_dim * bytes_of_value(a.precision);
      a.stride = w.qkv.stride;
      a.dim = stage.dim;
      a.head_dim = head_dim;
      a.rows = stage.window.rows;
      a.cols = stage.window.cols;
      a.scale = block.scale[static_cast<size_t>(head)];
      a.table = tables + static_cast<size_t>(head) * table_stride;
      a.region = w.masked[window] ? w.region + row : nullptr;
      a.masks = w.masks + static_cast<size_t>(window) * REGIONS * w.padded;
      a.masks_stride = w.padded;
      if (precision == Precision::int8) {  // rounded later, when the row is complete
        a.out =
            reinterpret_cast<unsigned char*>(w.y + static_cast<size_t>(row) * w.y_stride + head * head_dim);
        a.out_stride = w.y_stride * sizeof(float);
        a.out_precision = Precision::fp32;
      } else {
        a.out = w.attended.data + static_cast<size_t>(row) * w.attended.stride +
                head * head_dim * bytes_of_value(precision);
        a.out_stride = w.attended.stride;
        a.out_precision = precision;
      }
      k.attention(a, scratch);
    }
  }

  // From the result of the projection to the end of the block, for some rows of the group.
  void mlp(int row, int rows) const {
    const int dim = stage.dim, hidden = block.fc1.packed.outs,
              padded = block.fc2.packed.steps * values_of_step(precision);
    const int first = row + share(rows, member, members), last = row + share(rows, member + 1, members);
    for (int r = first; r < last; r++) {
      if (w.place[r] < 0) continue;  // x still holds what was encoded; nobody sees the result
      float* at = x + w.place[r] * dim;
      k.add_norm(at, w.y + static_cast<size_t>(r) * w.y_stride, dim, block.norm1.gain.data(),
                 block.norm1.bias.data());
      k.encode(w.x, r, at, dim, round_up(dim, 4));
    }
    meet();
    const Packed& fc1 = block.fc1.packed;
    const int from = share(fc1.panels, member, members), to = share(fc1.panels, member + 1, members);
    if (precision == Precision::int8) {
      k.linear_gelu(float_rows(w.wide, w.wide_stride), w.x.from(row), rows, fc1, from, to);
      meet();
      for (int r = share(rows, member, members); r < share(rows, member + 1, members); r++)
        k.encode(w.hidden, r, w.wide + static_cast<size_t>(r) * w.wide_stride, hidden, padded);
    } else {
      k.linear_gelu(w.hidden, w.x.from(row), rows, fc1, from, to);
    }
    meet();
    linear(float_rows(w.y + static_cast<size_t>(row) * w.y_stride, w.y_stride), w.hidden, rows, block.fc2);
    meet();
    for (int r = first; r < last; r++) {
      if (w.place[r] < 0) continue;
      float* at = x + w.place[r] * dim;
      k.add_norm(at, w.y + static_cast<size_t>(r) * w.y_stride, dim, block.norm2.gain.data(),
                 block.norm2.bias.data());
      if (!block.norm3.gain.empty()) k.norm(at, at, dim, block.norm3.gain.data(), block.norm3.bias.data());
    }
    meet();
  }
};

}  // namespace

void Network::block(const Block& block, const Stage& stage, int index, const float* tables,
                    size_t table_stride, int batch, float* x) {
  const int tokens = stage.window.rows * stage.window.cols;
  const int windows =
      batch * (stage.padded().rows / stage.window.rows) * (stage.padded().cols / stage.window.cols);
  const int members = team_.size(), hidden = block.fc1.packed.outs;
  const bool alone = windows % members == 0 || windows >= 4 * members;
  const int count = std::min(alone ? std::max(1, GROUP / tokens) : std::max(1, TOGETHER / tokens), windows);
  const size_t scratch = whole_lines(attention_scratch(tokens, stage.dim / stage.heads));
  const auto lay = [&](Arena& arena) {
    return Workspace(arena, precision_, edge_precision_, stage, hidden, count, alone ? GROUP : TOGETHER);
  };
  Arena counter;
  lay(counter);
  const size_t workspace = counter.used(),
               zeros = whole_lines(sizeof(float) * static_cast<size_t>(stage.dim));
  unsigned char* memory = arena(zeros + static_cast<size_t>(members) * scratch +
                                static_cast<size_t>(alone ? members : 1) * workspace);
  std::memset(memory, 0, zeros);
  shares_.deal(windows, count);
  team_.run([&](int member) {
    unsigned char* mine = memory + zeros + static_cast<size_t>(member) * scratch;
    unsigned char* groups = memory + zeros + static_cast<size_t>(members) * scratch;
    Arena place(groups + (alone ? static_cast<size_t>(member) * workspace : 0));
    Workspace w = lay(place);
    const GroupPass pass{kernels_,
                         block,
                         stage,
                         index % 2 ? stage.shift : Pair{0, 0},
                         precision_,
                         tables,
                         table_stride,
                         reinterpret_cast<const float*>(memory),
                         w,
                         mine,
                         alone ? 0 : member,
                         alone ? 1 : members,
                         alone ? nullptr : &team_,
                         x};
    if (alone) {
      for (int64_t first, last; shares_.take(member, first, last);)
        pass.run(static_cast<int>(first), static_cast<int>(last - first));
    } else {
      for (int i = 0; i < windows; i += count) pass.run(i, std::min(count, windows - i));
    }
  });
}

// Rows of a map that a product makes of pieces of another: patches of pixels, neighbours of tokens.
// gather(row, to): writes the values of a row.
template <class Gather>
static void project(const Kernels& k, Team& team, Shares& shares, unsigned char* memory, size_t memory_of_member,
                    const Linear& linear, const Norm& norm, int64_t rows, const Gather& gather, float* out) {
  const int in = linear.packed.in, outs = linear.packed.outs,
            padded = linear.packed.steps * values_of_step(linear.packed.precision);
  shares.deal(rows, GROUP);
  team.run([&](int member) {
    Arena arena(memory + static_cast<size_t>(member) * memory_of_member);
    const Operand x = take_operand(arena, linear.packed.precision, GROUP, in);
    float* values = arena.take<float>(static_cast<size_t>(in));
    const size_t stride = float_stride(outs);
    float* y = arena.take<float>(GROUP * stride);
    for (int64_t row, last; shares.take(member, row, last);) {
      const int count = static_cast<int>(last - row);
      for (int r = 0; r < count; r++) {
        if (x.precision == Precision::fp32) {  // is what it is made of
          gather(row + r, reinterpret_cast<float*>(x.data + static_cast<size_t>(r) * x.stride));
        } else {
          gather(row + r, values);
          k.encode(x, r, values, in, padded);
        }
      }
      k.linear(float_rows(y, stride), x, count, linear.packed, 0, linear.packed.panels);
      for (int r = 0; r < count; r++)
        k.norm(out + (row + r) * outs, y + static_cast<size_t>(r) * stride, outs, norm.gain.data(),
               norm.bias.data());
    }
  });
}

static size_t project_bytes(const Linear& linear) {
  Arena counter;
  take_operand(counter, linear.packed.precision, GROUP, linear.packed.in);
  counter.take<float>(static_cast<size_t>(linear.packed.in));
  counter.take<float>(GROUP * float_stride(linear.packed.outs));
  return counter.used();
}

void Network::embed(const float* images, int batch, const Geometry& g, float* x) {
  const Pair grid = g.stages[0].grid;
  const int patch = config_.patch_size, channels = config_.in_chans, height = g.height, width = g.width;
  const auto gather = [=](int64_t row, float* to) {
    const int image = static_cast<int>(row / (grid.rows * grid.cols)),
              token = static_cast<int>(row % (grid.rows * grid.cols));
    const int top = token / grid.cols * patch, left = token % grid.cols * patch;
    for (int c = 0; c < channels; c++)
      for (int i = 0; i < patch; i++, to += patch) {
        const float* from =
            images + ((static_cast<int64_t>(image) * channels + c) * height + top + i) * width + left;
        if (top + i < height && left + patch <= width) {
          if (patch == 4)
            std::memcpy(to, from, 4 * sizeof(float));  // one instruction where the size is known
          else std::memcpy(to, from, static_cast<size_t>(patch) * sizeof(float));
          continue;
        }
        const int inside = top + i < height ? width - left : 0;  // zeros beyond the image
        for (int j = 0; j < patch; j++) to[j] = j < inside ? from[j] : 0;
      }
  };
  const size_t bytes = project_bytes(embed_);
  project(kernels_, team_, shares_, arena(bytes * static_cast<size_t>(team_.size())), bytes, embed_, embed_norm_,
          static_cast<int64_t>(batch) * grid.rows * grid.cols, gather, x);
}

void Network::merge(const Layer& layer, const Stage& stage, int batch, const float* x, float* out) {
  const Pair grid = stage.grid, half{(grid.rows + 1) / 2, (grid.cols + 1) / 2};
  const int dim = stage.dim;
  const auto gather = [=](int64_t row, float* to) {
    const int64_t image = row / (half.rows * half.cols);
    const int token = static_cast<int>(row % (half.rows * half.cols)), top = token / half.cols * 2,
              left = token % half.cols * 2;
    for (int i = 0; i < 4; i++, to += dim) {  // (0, 0), (1, 0), (0, 1), (1, 1): the official order
      const int r = top + i % 2, c = left + i / 2;
      if (r < grid.rows && c < grid.cols)
        std::memcpy(to, x + ((image * grid.rows + r) * grid.cols + c) * dim,
                    sizeof(float) * static_cast<size_t>(dim));
      else std::memset(to, 0, sizeof(float) * static_cast<size_t>(dim));
    }
  };
  const size_t bytes = project_bytes(layer.reduction);
  project(kernels_, team_, shares_, arena(bytes * static_cast<size_t>(team_.size())), bytes, layer.reduction,
          layer.norm, static_cast<int64_t>(batch) * half.rows * half.cols, gather, out);
}

void Network::classify(int batch, const Stage& last, float* x, float* logits, const Watch* watch) {
  const int dim = last.dim, tokens = last.grid.rows * last.grid.cols, classes = outputs();
  const size_t stride = float_stride(classes);
  const auto lay = [&](Arena& arena, Operand& pooled, float*& means, float*& out) {
    pooled = take_operand(arena, edge_precision_, batch, dim);
    means = arena.take<float>(static_cast<size_t>(batch) * static_cast<size_t>(dim));
    out = arena.take<float>(static_cast<size_t>(batch) * stride);
  };
  Operand pooled;
  float *means, *out;
  Arena counter;
  lay(counter, pooled, means, out);
  Arena place(arena(counter.used()));
  lay(place, pooled, means, out);
  team_.run([&](int member) {
    for (int b = share(batch, member, team_.size()); b < share(batch, member + 1, team_.size()); b++) {
      float* mean = means + static_cast<ptrdiff_t>(b) * dim;
      std::fill_n(mean, dim, 0.0f);
      for (int t = 0; t < tokens; t++) {
        float* token = x + (static_cast<ptrdiff_t>(b) * tokens + t) * dim;
        kernels_.norm(token, token, dim, norm_.gain.data(), norm_.bias.data());
        for (int c = 0; c < dim; c++) mean[c] += token[c];
      }
      for (int c = 0; c < dim; c++) mean[c] /= static_cast<float>(tokens);
      kernels_.encode(pooled, b, mean, dim, round_up(dim, 4));
    }
    if (!config_.num_classes) return;
    team_.meet();
    const Packed& head = head_.packed;
    kernels_.linear(float_rows(out, stride), pooled, batch, head, share(head.panels, member, team_.size()),
                    share(head.panels, member + 1, team_.size()));
  });
  for (int b = 0; b < batch; b++)
    std::memcpy(
        logits + static_cast<ptrdiff_t>(b) * classes,
        config_.num_classes ? out + static_cast<size_t>(b) * stride : means + static_cast<ptrdiff_t>(b) * dim,
        sizeof(float) * static_cast<size_t>(classes));
  if (watch) {
    (*watch)("norm", x, {last.grid.rows, last.grid.cols, dim});
    (*watch)("pooled", means, {dim});
    (*watch)("logits", logits, {classes});
  }
}

void Network::portion(const float* images, int batch, const Geometry& g, float* logits, const Watch* watch) {
  const auto values = [&](const Stage& s) {
    return static_cast<size_t>(batch) * static_cast<size_t>(s.grid.rows) * static_cast<size_t>(s.grid.cols) *
           static_cast<size_t>(s.dim);
  };
  for (const Stage& stage : g.stages) {  // maps take turns
    Memory& memory = maps_[stage.index % 2];
    if (memory.size() >= sizeof(float) * values(stage)) continue;
    memory = Memory();
    memory = Memory(sizeof(float) * values(stage));
  }
  float *map = maps_[0].floats(), *other = maps_[1].floats();
  embed(images, batch, g, map);
  if (watch) (*watch)("embed", map, {g.stages[0].grid.rows, g.stages[0].grid.cols, g.stages[0].dim});
  for (const Stage& stage : g.stages) {
    const size_t s = static_cast<size_t>(stage.index);
    const Layer& layer = layers_[s];
    const std::string name = "stage" + std::to_string(stage.index + 1);
    for (size_t b = 0; b < layer.blocks.size(); b++) {
      block(layer.blocks[b], stage, static_cast<int>(b), g.tables[s][b].floats(), g.table_stride[s], batch,
            map);
      if (watch)
        (*watch)((name + ".block" + std::to_string(b + 1)).c_str(), map,
                 {stage.grid.rows, stage.grid.cols, stage.dim});
    }
    if (s + 1 == layers_.size()) break;
    merge(layer, stage, batch, map, other);
    std::swap(map, other);
    const Stage& next = g.stages[s + 1];
    if (watch) (*watch)(name.c_str(), map, {next.grid.rows, next.grid.cols, next.dim});
  }
  classify(batch, g.stages.back(), map, logits, watch);
}

void Network::run(const float* images, int64_t batch, int height, int width, float* logits,
                  const Watch* watch) {
  const Geometry& g = geometry(height, width);
  const size_t map = sizeof(float) * static_cast<size_t>(g.stages[0].grid.rows) *
                     static_cast<size_t>(g.stages[0].grid.cols) * static_cast<size_t>(g.stages[0].dim);
  const int64_t images_at_once = std::max<int64_t>(1, static_cast<int64_t>(MAPS / map));
  const int64_t image = static_cast<int64_t>(config_.in_chans) * height * width;
  for (int64_t b = 0; b < batch; b += images_at_once)
    portion(images + b * image, static_cast<int>(std::min(images_at_once, batch - b)), g,
            logits + b * outputs(), watch);
}

}  // namespace swinv2
