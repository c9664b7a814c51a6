// swinv2-cli dump: the named intermediates of one picture, to see where two engines first part.

#include <cmath>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>

#include "cli.h"

namespace fs = std::filesystem;

namespace cli {
namespace {

struct Map {
  std::string name;
  std::vector<int64_t> shape;
  double mean_magnitude;
};

struct Dump {
  fs::path folder;  // empty: nothing is written
  std::vector<Map> maps;
  std::exception_ptr error;  // nothing may be thrown through the library
};

std::string written(const std::vector<int64_t>& shape, const char* between) {
  std::string text;
  for (int64_t side : shape) text += (text.empty() ? "" : between) + std::to_string(side);
  return text;
}

// A file of numpy's format 1.0, little-endian float32.
void write_npy(const fs::path& path, const float* values, size_t count, const std::vector<int64_t>& shape) {
  std::string head = "{'descr': '<f4', 'fortran_order': False, 'shape': (" + written(shape, ", ") +
                     (shape.size() == 1 ? ",), }" : "), }");
  constexpr size_t before = 10;  // magic, version, length
  head.append(63 - (before + head.size()) % 64, ' ');
  head += '\n';
  std::string begin("\x93NUMPY\x01\x00", 8);
  begin += static_cast<char>(head.size() & 0xff);
  begin += static_cast<char>(head.size() >> 8);
  std::ofstream file(path, std::ios::binary);
  file << begin << head;
  file.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(count * sizeof(float)));
  file.close();
  if (!file) throw Failure{FAILED, path.u8string() + " cannot be written"};
}

void keep(Dump* dump, const char* name, const float* values, std::vector<int64_t> shape) {
  size_t count = 1;
  for (int64_t side : shape) count *= static_cast<size_t>(side);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += std::fabs(values[i]);
  if (!dump->folder.empty()) write_npy(dump->folder / (std::string(name) + ".npy"), values, count, shape);
  dump->maps.push_back({name, std::move(shape), count ? sum / static_cast<double>(count) : 0});
}

void watch(void* context, const char* name, const float* values, const int64_t* shape, int dims) {
  auto* dump = static_cast<Dump*>(context);
  if (dump->error) return;
  try {
    keep(dump, name, values, std::vector<int64_t>(shape, shape + dims));
  } catch (...) {
    dump->error = std::current_exception();
  }
}

}  // namespace

Exit dump(const Arguments& arguments) {
  const Model model(arguments);
  const swinv2_info& about = model.info();
  const std::string& image = arguments.images[0];
  const std::string bytes = read(image);
  std::vector<float> tensor(static_cast<size_t>(about.channels) * about.height * about.width);
  if (swinv2_prepare_bytes(model, bytes.data(), bytes.size(), tensor.data()) < 0)
    throw Failure{PARTIAL, naming(image, swinv2_last_error())};

  Dump dump;
  if (!arguments.output.empty()) {
    dump.folder = fs::u8path(arguments.output);
    std::error_code error;
    fs::create_directories(dump.folder, error);
    if (error) throw Failure{FAILED, arguments.output + " cannot be made: " + error.message()};
  }
  keep(&dump, "input", tensor.data(), {about.channels, about.height, about.width});
  checked(swinv2_trace(model, tensor.data(), about.height, about.width, watch, &dump));
  if (dump.error) std::rethrow_exception(dump.error);

  Json json;
  json.open('[');
  for (const Map& map : dump.maps) {
    if (!arguments.json)
      std::printf("%-20s %-16s %.6g\n", map.name.c_str(), written(map.shape, " x ").c_str(),
                  map.mean_magnitude);
    json.open('{').key("name").value(map.name).key("shape").open('[');
    for (int64_t side : map.shape) json.value(side);
    json.close(']').key("mean_magnitude").value(map.mean_magnitude).close('}');
  }
  json.close(']');
  if (arguments.json) json.print();
  return DONE;
}

}  // namespace cli
