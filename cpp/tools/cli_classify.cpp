// swinv2-cli classify: the likeliest classes of files, folders and stdin, printed as `swinv2 predict` does.

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <set>

#include "cli.h"

namespace fs = std::filesystem;

namespace cli {
namespace {

const std::set<std::string> suffixes = {
    ".jpg",  ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif",  ".bmp", ".tif",
    ".tiff", ".ppm",  ".pgm", ".pbm",  ".pnm", ".mpo",  ".ico",  ".avif", ".jp2",
};

bool is_picture(const fs::path& path) {
  std::string suffix = path.extension().u8string();
  for (char& c : suffix)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return suffixes.count(suffix) != 0;
}

// Pictures below a folder, by suffix; links are followed, hidden files left out.
void find_below(const fs::path& folder, std::set<fs::path>* seen, std::vector<fs::path>* found) {
  std::error_code error;
  if (!seen->insert(fs::canonical(folder, error)).second) return;  // a link that leads back up
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().u8string();
    std::error_code ignored;
    if (!name.empty() && name[0] == '.') continue;
    if (entry->is_directory(ignored)) find_below(entry->path(), seen, found);
    else if (is_picture(entry->path())) found->push_back(entry->path());
  }
}

struct Answer {
  std::string file, error;           // error: empty where there are scores
  std::vector<swinv2_score> scores;  // names belong to the model
};

Answer answer(const Model& model, const std::string& file, int top_k) {
  Answer answer{file == "-" ? "stdin" : file, "", {}};
  try {
    const std::string bytes = read(file);
    answer.scores.resize(top_k);
    const int found = swinv2_classify_bytes(model, bytes.data(), bytes.size(), top_k, answer.scores.data());
    answer.scores.resize(found < 0 ? 0 : found);
    if (found != SWINV2_BAD_IMAGE && found != SWINV2_UNSUPPORTED) checked(found);
    if (found < 0) answer.error = naming(answer.file, swinv2_last_error());
  } catch (const Failure& failure) {
    if (failure.exit != PARTIAL) throw;
    answer.error = failure.sentence;
  }
  return answer;
}

std::vector<Answer> refusals_and_files(const std::vector<std::string>& images) {
  std::vector<Answer> answers;  // not answered yet
  for (const std::string& image : images) {
    std::error_code error;
    if (!fs::is_directory(fs::u8path(image), error)) {
      answers.push_back({image, "", {}});
      continue;
    }
    std::set<fs::path> seen;
    std::vector<fs::path> files;
    find_below(fs::u8path(image), &seen, &files);
    std::sort(files.begin(), files.end());
    for (const fs::path& file : files) answers.push_back({file.u8string(), "", {}});
    if (files.empty())
      answers.push_back({image, image + " is a folder without images (.jpg, .png, .webp and so on)", {}});
  }
  return answers;
}

void print_text(const Answer& answer) {
  std::printf("%s\n", answer.file.c_str());
  for (const swinv2_score& score : answer.scores)
    std::printf("%8.2f %%  %s\n", 100.0 * score.score, score.name);
}

void add(Json* json, const Answer& answer) {
  json->open('{').key("file").value(answer.file);
  if (!answer.error.empty()) {
    json->key("error").value(answer.error);
  } else {
    json->key("predictions").open('[');
    for (const swinv2_score& score : answer.scores) {
      json->open('{').key("class_id").value(score.index).key("name").value(score.name);
      json->key("score").value(static_cast<double>(score.score)).close('}');
    }
    json->close(']');
  }
  json->close('}');
}

}  // namespace

Exit classify(const Arguments& arguments) {
  const Model model(arguments);
  const int top_k = std::min(arguments.top_k, std::max(model.info().classes, 1));
  bool failed = false;
  Json json;
  json.open('[');
  for (Answer& one : refusals_and_files(arguments.images)) {
    if (one.error.empty()) one = answer(model, one.file, top_k);
    if (!one.error.empty()) std::fprintf(stderr, "%s\n", one.error.c_str());
    failed |= !one.error.empty();
    if (arguments.json) add(&json, one);
    else if (one.error.empty()) print_text(one);
  }
  if (arguments.json) json.close(']').print();
  return failed ? PARTIAL : DONE;
}

}  // namespace cli
