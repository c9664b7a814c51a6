// swinv2-cli bench: the time of the network, and of everything from encoded pictures to their classes.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <random>

#include "cli.h"

namespace cli {
namespace {

struct Times {  // milliseconds of runs, sorted
  std::vector<double> ms;

  double percentile(double share) const {  // between the two runs beside it
    const double at = share * static_cast<double>(ms.size() - 1);
    const auto below = static_cast<size_t>(at);
    const double above = ms[std::min(below + 1, ms.size() - 1)];
    return ms[below] + (at - static_cast<double>(below)) * (above - ms[below]);
  }
  double total() const {
    double sum = 0;
    for (double one : ms) sum += one;
    return sum;
  }
};

template <typename Run>
Times measure(const Arguments& arguments, Run run) {
  Times times;
  for (int i = 0; i < arguments.warm_up + arguments.runs; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    run(i);
    const std::chrono::duration<double, std::milli> took = std::chrono::steady_clock::now() - begin;
    if (i >= arguments.warm_up) times.ms.push_back(took.count());
  }
  std::sort(times.ms.begin(), times.ms.end());
  return times;
}

Times measure_network(const Model& model, const Arguments& arguments, int height, int width) {
  const swinv2_info& about = model.info();
  std::vector<float> images(static_cast<size_t>(arguments.batch) * about.channels * height * width);
  std::mt19937 random(0);
  for (float& value : images) value = static_cast<float>(random()) / 2147483648.0f - 1.0f;  // -1 to 1
  std::vector<float> logits(static_cast<size_t>(arguments.batch) * about.classes);
  return measure(arguments, [&](int) {
    checked(swinv2_run(model, images.data(), arguments.batch, height, width, logits.data()));
  });
}

Times measure_pictures(const Model& model, const Arguments& arguments) {
  std::vector<std::string> files;
  for (const std::string& image : arguments.images) files.push_back(read(image));
  return measure(arguments, [&](int i) {
    const size_t which = i % files.size();
    swinv2_score top;
    if (swinv2_classify_bytes(model, files[which].data(), files[which].size(), 1, &top) < 0)
      throw Failure{PARTIAL, naming(arguments.images[which], swinv2_last_error())};
  });
}

void print(const char* what, const Times& times, int images) {
  std::printf("%-8s  median %.3f ms, p90 %.3f, p99 %.3f, fastest %.3f, slowest %.3f; %.1f images/s\n", what,
              times.percentile(0.5), times.percentile(0.9), times.percentile(0.99), times.ms.front(),
              times.ms.back(), 1000.0 * images * static_cast<double>(times.ms.size()) / times.total());
}

void add(Json* json, const char* what, const Times& times, int images) {
  json->key(what).open('{');
  json->key("median_ms").value(times.percentile(0.5));
  json->key("p90_ms").value(times.percentile(0.9));
  json->key("p99_ms").value(times.percentile(0.99));
  json->key("fastest_ms").value(times.ms.front());
  json->key("slowest_ms").value(times.ms.back());
  json->key("images_per_second")
      .value(1000.0 * images * static_cast<double>(times.ms.size()) / times.total());
  json->close('}');
}

}  // namespace

Exit bench(const Arguments& arguments) {
  const Model model(arguments);
  const swinv2_info& about = model.info();
  const int height = arguments.height ? arguments.height : about.height;
  const int width = arguments.width ? arguments.width : about.width;
  const Times network = measure_network(model, arguments, height, width);
  const bool has_pictures = !arguments.images.empty();
  const Times pictures = has_pictures ? measure_pictures(model, arguments) : Times{};

  if (arguments.json) {
    Json json;
    json.open('{');
    json.key("architecture").value(about.architecture).key("precision").value(about.precision);
    json.key("instructions").value(about.instructions).key("threads").value(about.threads);
    json.key("batch").value(arguments.batch).key("height").value(height).key("width").value(width);
    json.key("warm_up").value(arguments.warm_up).key("runs").value(arguments.runs);
    add(&json, "network", network, arguments.batch);
    if (has_pictures) add(&json, "pictures", pictures, 1);
    json.close('}').print();
    return DONE;
  }
  std::printf("%s, %s, %s, %d thread%s, %d x %d pixels, batch %d, %d runs after %d\n", about.architecture,
              about.precision, about.instructions, about.threads, about.threads == 1 ? "" : "s", height,
              width, arguments.batch, arguments.runs, arguments.warm_up);
  print("network", network, arguments.batch);
  if (has_pictures) print("pictures", pictures, 1);
  return DONE;
}

}  // namespace cli
