// The likeliest class of every picture, in C++, in bfloat16 where the processor has it:
//     ./classify model.safetensors photo.jpg other.jpg
#include <swinv2.h>

#include <iostream>
#include <memory>

int main(int argc, char** argv) {
  swinv2_options options{};
  options.precision = "bf16";
  if (swinv2_check(&options)) options.precision = "fp32";
  swinv2_model* opened = nullptr;
  if (argc < 2 || swinv2_open(argv[1], &options, &opened)) {
    std::cerr << (argc < 2 ? "usage: classify model.safetensors photo.jpg ..." : swinv2_last_error()) << '\n';
    return 1;
  }
  const std::unique_ptr<swinv2_model, void (*)(swinv2_model*)> model(opened, swinv2_close);
  for (int i = 2; i < argc; i++) {
    swinv2_score top{};
    if (swinv2_classify_file(model.get(), argv[i], 1, &top) < 1) std::cerr << swinv2_last_error() << '\n';
    else std::cout << argv[i] << ": " << top.name << ", " << 100 * top.score << " %\n";
  }
}
