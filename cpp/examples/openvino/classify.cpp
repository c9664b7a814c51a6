// The five likeliest classes of a picture by OpenVINO, behind the preprocessing of the library:
//     ./classify_openvino model.xml photo.jpg [CPU, GPU or NPU]
//
// model.xml and model.bin are what `swinv2 export model.safetensors --to openvino` wrote; nothing else is needed. The
// record inside says how pictures are prepared and what the classes are called. It is taken from there and not from
// model.safetensors, because a file may be exported for another image size than that of the model.
#include <swinv2.h>

#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

int checked(int status) {
  if (status < 0) throw std::runtime_error(swinv2_last_error());
  return status;
}

void classify(const std::string& model_path, const std::string& picture_path, const std::string& device) {
  ov::Core core;
  const std::shared_ptr<ov::Model> graph = core.read_model(model_path);

  swinv2_model* opened = nullptr;
  checked(swinv2_open_record(graph->get_rt_info<std::string>("swinv2").c_str(), &opened));
  const std::unique_ptr<swinv2_model, void (*)(swinv2_model*)> model(opened, swinv2_close);
  const swinv2_info& info = *swinv2_describe(model.get());

  std::ifstream file(picture_path, std::ios::binary);
  if (!file) throw std::runtime_error(picture_path + " cannot be opened");
  const std::vector<char> bytes(std::istreambuf_iterator<char>(file), {});
  ov::Tensor image(ov::element::f32, {1, size_t(info.channels), size_t(info.height), size_t(info.width)});
  checked(swinv2_prepare_bytes(model.get(), bytes.data(), bytes.size(), image.data<float>()));

  // ACCURACY: in the precision of the file. Otherwise OpenVINO computes in bfloat16 where the processor has it.
  ov::CompiledModel compiled =
      core.compile_model(graph, device, ov::hint::execution_mode(ov::hint::ExecutionMode::ACCURACY),
                         ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
  ov::InferRequest request = compiled.create_infer_request();
  request.set_input_tensor(image);
  request.infer();

  swinv2_score top[5];
  const int found = checked(swinv2_rank(model.get(), request.get_output_tensor().data<float>(), 5, top));
  for (int i = 0; i < found; i++) std::cout << 100 * top[i].score << " %  " << top[i].name << '\n';
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) throw std::runtime_error("usage: classify_openvino model.xml photo.jpg [CPU, GPU or NPU]");
  classify(argv[1], argv[2], argc > 3 ? argv[3] : "CPU");
} catch (const std::exception& error) {
  std::cerr << error.what() << '\n';
  return 1;
}
