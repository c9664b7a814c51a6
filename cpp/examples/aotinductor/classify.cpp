// The five likeliest classes of a picture by LibTorch, behind the preprocessing of the library:
//     ./classify_aotinductor model.pt2 photo.jpg
//
// model.pt2 is what `swinv2 export model.safetensors --to pt2` wrote; nothing else is needed. With `--device cuda` it
// holds code for a GPU, and this same program runs it there. The record inside says how pictures are prepared and what
// the classes are called. It is taken from there and not from model.safetensors, because a file may be exported for
// another image size than that of the model.
#include <caffe2/serialize/inline_container.h>
#include <swinv2.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/torch.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int checked(int status) {
  if (status < 0) throw std::runtime_error(swinv2_last_error());
  return status;
}

std::string record_of(const std::string& path) {  // a package is an archive; the record is one of its entries
  caffe2::serialize::PyTorchStreamReader package(path);
  const auto [data, size] = package.getRecord("extra/swinv2.json");
  return std::string(static_cast<const char*>(data.get()), size);
}

void classify(const std::string& model_path, const std::string& picture_path) {
  swinv2_model* opened = nullptr;
  checked(swinv2_open_record(record_of(model_path).c_str(), &opened));
  const std::unique_ptr<swinv2_model, void (*)(swinv2_model*)> model(opened, swinv2_close);
  const swinv2_info& info = *swinv2_describe(model.get());

  std::ifstream file(picture_path, std::ios::binary);
  if (!file) throw std::runtime_error(picture_path + " cannot be opened");
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  const torch::Tensor image = torch::empty({1, info.channels, info.height, info.width});
  checked(swinv2_prepare_bytes(model.get(), bytes.data(), bytes.size(), image.data_ptr<float>()));

  const c10::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader network(model_path);
  const torch::Device device(network.get_metadata().at("AOTI_DEVICE_KEY"));  // "cpu" or "cuda"
  const torch::Tensor logits = network.run({image.to(device)}).at(0).cpu().contiguous();

  swinv2_score top[5];
  const int found = checked(swinv2_rank(model.get(), logits.data_ptr<float>(), 5, top));
  for (int i = 0; i < found; i++) std::cout << 100 * top[i].score << " %  " << top[i].name << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) throw std::runtime_error("usage: classify_aotinductor model.pt2 photo.jpg");
  classify(argv[1], argv[2]);
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
