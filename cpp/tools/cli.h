// What the commands of swinv2-cli share: their arguments, the open model, JSON, and how they fail.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "swinv2.h"

namespace cli {

// Exit codes, as those of `swinv2` (docs/cli.md).
enum Exit { DONE = 0, FAILED = 1, USAGE = 2, MODEL = 3, PARTIAL = 5 };

// The end of a command, in one sentence.
struct Failure {
  Exit exit;
  std::string sentence;
};

struct Arguments {
  std::string command, model;
  std::vector<std::string> images;  // files, folders, - for stdin
  int top_k = 5;
  bool json = false;
  int threads = 0;  // 0, "": as the library chooses
  std::string precision, instructions;
  int batch = 1, warm_up = 10, runs = 100;
  int height = 0, width = 0;  // of what bench computes; 0: as the model's preprocessing makes
  std::string output;         // folder of dump
};

class Model {
 public:
  explicit Model(const Arguments& arguments);  // throws Failure
  ~Model() { swinv2_close(model_); }
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  operator swinv2_model*() const { return model_; }
  const swinv2_info& info() const { return *swinv2_describe(model_); }

 private:
  swinv2_model* model_ = nullptr;
};

// Throws Failure with what the library says where status is one of an error; else returns it.
int checked(int status);

// What the library said of an image, with its name for "the image".
std::string naming(const std::string& file, const std::string& sentence);

// The bytes of a file or, for "-", of stdin. Throws Failure that names it.
std::string read(const std::string& file);

// JSON text of two spaces per level, as Python's json.dump(indent=2, ensure_ascii=False) writes it.
class Json {
 public:
  Json& open(char bracket);   // [ or {
  Json& close(char bracket);  // ] or }
  Json& key(const std::string& name);
  Json& value(const std::string& text);
  Json& value(const char* text) { return value(std::string(text)); }
  Json& value(int64_t number) { return raw(std::to_string(number)); }
  Json& value(int number) { return raw(std::to_string(number)); }
  Json& value(double number);  // null where it is not finite
  Json& raw(const std::string& json);
  void print() const;  // on stdout

 private:
  void begin_value();
  std::string text_;
  int depth_ = 0;
  bool first_ = true, after_key_ = false;
};

// One per command. Each returns an exit code or throws Failure.
Exit classify(const Arguments& arguments);
Exit bench(const Arguments& arguments);
Exit dump(const Arguments& arguments);
Exit info(const Arguments& arguments);

}  // namespace cli
