// swinv2-cli: the library on the command line. It uses nothing but swinv2.h, and so is an example of it too.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "cli.h"

#if defined(_WIN32)
#ifndef NOMINMAX
#define NOMINMAX
#endif
#define WIN32_LEAN_AND_MEAN
#include <windows.h>

#include <shellapi.h>  // needs the one before
#endif

namespace cli {
namespace {

const char USAGE_TEXT[] =
    R"(usage: swinv2-cli classify MODEL IMAGE... [--top-k N] [--json]
       swinv2-cli bench MODEL [IMAGE...] [--batch N] [--size ROWSxCOLUMNS] [--warm-up N] [--runs N] [--json]
       swinv2-cli dump MODEL IMAGE [--output FOLDER] [--json]
       swinv2-cli info MODEL [--json]

classify  the likeliest classes of pictures: files, folders (searched below) or - for stdin
bench     how long the network takes, and with pictures how long all takes from their bytes to the classes
dump      the named intermediates of one picture: shape and mean |x|; --output writes them as .npy
info      what a model is and how it would be computed here

  --threads N          of the computation; the processor's cores by default
  --precision P        fp32 (default), bf16, int8
  --instructions I     the best that this processor has by default; reference everywhere
  --top-k N            classes per picture (5)
  --batch N            images that the network sees at once (1)
  --size ROWSxCOLUMNS  of the images of bench; those of the model's preprocessing by default
  --warm-up N          runs that do not count (10)
  --runs N             runs that count (100)
  --output FOLDER      where dump writes its files
  --json               print the result as one JSON document
  --version            print the version of the library and the formats of pictures that it reads

exit codes: 0 done, 1 failed, 2 usage, 3 the model cannot be used, 5 some pictures could not be read
)";

[[noreturn]] void misused(const std::string& sentence) {
  throw Failure{USAGE, sentence + " (swinv2-cli --help)"};
}

int whole_number(const std::string& option, const std::string& text, int least) {
  char* end = nullptr;
  const long number = std::strtol(text.c_str(), &end, 10);
  if (text.empty() || *end || number < least || number > 1000000)
    misused(option + " is " + text + "; give a whole number from " + std::to_string(least) + " to 1000000");
  return static_cast<int>(number);
}

void read_size(const std::string& text, Arguments* arguments) {
  const size_t cross = text.find('x');
  if (cross == std::string::npos) misused("--size is " + text + "; give ROWSxCOLUMNS, as 256x256");
  arguments->height = whole_number("--size", text.substr(0, cross), 1);
  arguments->width = whole_number("--size", text.substr(cross + 1), 1);
}

Arguments parse(const std::vector<std::string>& given) {
  Arguments arguments;
  std::vector<std::string> words;
  for (size_t i = 0; i < given.size(); ++i) {
    std::string name = given[i], value;
    if (name.compare(0, 2, "--") != 0) {
      words.push_back(name);
      continue;
    }
    if (name == "--json") {
      arguments.json = true;
      continue;
    }
    if (const size_t equals = name.find('='); equals != std::string::npos) {
      value = name.substr(equals + 1);
      name.resize(equals);
    } else if (i + 1 < given.size()) {
      value = given[++i];
    } else {
      misused(name + " stands at the end; options other than --json take a value");
    }
    if (name == "--top-k") arguments.top_k = whole_number(name, value, 1);
    else if (name == "--threads") arguments.threads = whole_number(name, value, 1);
    else if (name == "--precision") arguments.precision = value;
    else if (name == "--instructions") arguments.instructions = value;
    else if (name == "--batch") arguments.batch = whole_number(name, value, 1);
    else if (name == "--warm-up") arguments.warm_up = whole_number(name, value, 0);
    else if (name == "--runs") arguments.runs = whole_number(name, value, 1);
    else if (name == "--size") read_size(value, &arguments);
    else if (name == "--output") arguments.output = value;
    else misused(name + " is no option");
  }
  if (words.empty()) misused("no command is given; give classify, bench, dump or info");
  arguments.command = words[0];
  if (words.size() > 1) arguments.model = words[1];
  if (words.size() > 2) arguments.images.assign(words.begin() + 2, words.end());
  return arguments;
}

Exit run(const Arguments& arguments) {
  struct Command {
    const char* name;
    size_t fewest, most;  // images
    Exit (*run)(const Arguments&);
  };
  static const Command commands[] = {
      {"classify", 1, SIZE_MAX, classify},
      {"bench", 0, SIZE_MAX, bench},
      {"dump", 1, 1, dump},
      {"info", 0, 0, info},
  };
  for (const Command& command : commands) {
    if (arguments.command != command.name) continue;
    if (arguments.model.empty()) misused(arguments.command + " needs a model file");
    const size_t images = arguments.images.size();
    if (images < command.fewest) misused(arguments.command + " needs an image");
    if (images > command.most)
      misused(arguments.command + (command.most ? " takes one image" : " takes a model and no images"));
    return command.run(arguments);
  }
  misused(arguments.command + " is no command; give classify, bench, dump or info");
}

int main(const std::vector<std::string>& given) {
  for (const std::string& word : given) {
    if (word == "--help" || word == "-h") return std::fputs(USAGE_TEXT, stdout), DONE;
    if (word == "--version") return std::puts(swinv2_build()), DONE;
  }
  try {
    return run(parse(given));
  } catch (const Failure& failure) {
    std::fprintf(stderr, "swinv2-cli: %s\n", failure.sentence.c_str());
    return failure.exit;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "swinv2-cli: %s\n", error.what());
    return FAILED;
  }
}

}  // namespace

Exit info(const Arguments& arguments) {
  const Model model(arguments);
  const swinv2_info& about = model.info();
  if (arguments.json) {
    Json json;
    json.open('{');
    json.key("architecture").value(about.architecture);
    json.key("precision").value(about.precision);
    json.key("instructions").value(about.instructions);
    json.key("threads").value(about.threads);
    json.key("classes").value(about.classes);
    json.key("channels").value(about.channels);
    json.key("height").value(about.height);
    json.key("width").value(about.width);
    json.key("stages").value(about.stages);
    json.key("weight_bytes").value(static_cast<int64_t>(about.weight_bytes));
    json.key("library").value(swinv2_build());
    json.key("record").raw(swinv2_record(model));
    json.close('}').print();
    return DONE;
  }
  std::printf("architecture  %s\n", about.architecture);
  std::printf("image         %d x %d pixels, %d channel%s\n", about.height, about.width, about.channels,
              about.channels == 1 ? "" : "s");
  std::printf("classes       %d", about.classes);
  for (int i = 0; i < 3 && i < about.classes; ++i)
    std::printf("%s%s", i ? ", " : ": ", swinv2_class_name(model, i));
  std::printf("%s\n", about.classes > 3 ? ", ..." : "");
  std::printf("computed in   %s with %s instructions on %d thread%s\n", about.precision, about.instructions,
              about.threads, about.threads == 1 ? "" : "s");
  std::printf("weights       %.1f MB in memory\n", static_cast<double>(about.weight_bytes) / 1e6);
  std::printf("library       %s\n", swinv2_build());
  return DONE;
}

}  // namespace cli

#if defined(_WIN32)
// Windows gives main() the words in the user's code page, which lacks most characters; here all text is UTF-8.
int main() {
  SetConsoleOutputCP(CP_UTF8);
  int count = 0;
  wchar_t** words = CommandLineToArgvW(GetCommandLineW(), &count);
  std::vector<std::string> given;
  for (int i = 1; i < count; ++i) {
    const int size = WideCharToMultiByte(CP_UTF8, 0, words[i], -1, nullptr, 0, nullptr, nullptr);
    std::string word(static_cast<size_t>(size), '\0');
    WideCharToMultiByte(CP_UTF8, 0, words[i], -1, &word[0], size, nullptr, nullptr);
    word.pop_back();  // the zero
    given.push_back(word);
  }
  LocalFree(words);
  return cli::main(given);
}
#else
int main(int argc, char** argv) { return cli::main({argv + 1, argv + argc}); }
#endif
