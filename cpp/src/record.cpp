// Field by field, as strict as Python or stricter: a whole number is not 8.0 and not true.

#include "record.h"

#include <climits>
#include <cmath>
#include <stdexcept>

#include "error.h"
#include "sentence.h"

namespace swinv2 {
namespace {

constexpr int64_t format_version = 1;

struct Reason : std::runtime_error {  // why a record cannot be used; read_record() says of which file
  using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const std::string& name, const Json& value, const std::string& wanted) {
  throw Reason(name + " is " + shown(value) + "; give " + wanted);
}

int whole(const std::string& name, const Json& value, int least, int most) {
  if (!value.whole || *value.whole < least || *value.whole > most) {
    refuse(name, value,
           "a whole number from " + std::to_string(least) + " to " + with_commas(uint64_t(most)));
  }
  return static_cast<int>(*value.whole);
}

double number(const std::string& name, const Json& value) {
  if (!value.is(Json::Kind::number) || !std::isfinite(value.number)) refuse(name, value, "a finite number");
  return value.number;
}

std::string text(const std::string& name, const Json& value) {
  if (!value.is(Json::Kind::string)) refuse(name, value, "text");
  return value.text;
}

const std::vector<Json>& list(const std::string& name, const Json& value) {
  if (!value.is(Json::Kind::list)) refuse(name, value, "a list");
  return value.items;
}

// An int n is (n, n), a list of two is (height, width).
Pair pair(const std::string& name, const Json& value, int least, int most) {
  if (value.whole) return {whole(name, value, least, most), whole(name, value, least, most)};
  if (!value.is(Json::Kind::list) || value.items.size() != 2) {
    refuse(name, value, "one whole number or two (height, width)");
  }
  return {whole(name, value.items[0], least, most), whole(name, value.items[1], least, most)};
}

bool choice(const std::string& name, const Json& value, const std::string& yes, const std::string& no) {
  if (value.is(Json::Kind::string) && value.text == yes) return true;
  if (value.is(Json::Kind::string) && value.text == no) return false;
  refuse(name, value, yes + " or " + no);
}

std::vector<int> wholes(const std::string& name, const Json& value, int least, int most) {
  std::vector<int> out;
  for (const Json& item : list(name, value)) out.push_back(whole(name, item, least, most));
  return out;
}

std::vector<float> floats(const std::string& name, const Json& value) {
  std::vector<float> out;
  for (const Json& item : list(name, value)) {
    // In float as numpy rounds it; what is beyond a float is no mean or deviation of a pixel.
    if (std::fabs(number(name, item)) > 1e30) refuse(name, item, "a value of the size of pixels, 0 to 1");
    out.push_back(static_cast<float>(item.number));
  }
  return out;
}

std::vector<std::string> texts(const std::string& name, const Json& value) {
  std::vector<std::string> out;
  for (const Json& item : list(name, value)) out.push_back(text(name, item));
  return out;
}

// An object of the record, whose keys must all be known.
class Fields {
 public:
  Fields(const Json& record, const std::string& key, const char* title, std::vector<std::string> known)
      : object_(record.find(key)) {
    if (!object_) throw Reason("'" + key + "' is missing");
    if (!object_->is(Json::Kind::object)) refuse(key, *object_, "an object");
    std::string unknown;
    for (const Json::Member& member : object_->members) {
      bool is_known = false;
      for (const std::string& name : known) is_known = is_known || member.key == name;
      if (!is_known) unknown += (unknown.empty() ? "" : ", ") + member.key;
    }
    if (!unknown.empty()) {
      throw Reason(std::string("the ") + title + " record holds " + shown(unknown) +
                   ", which this version does not know");
    }
  }

  // set(name, value) where the field is there; otherwise the default stays.
  template <class Set>
  void take(const std::string& name, Set set) const {
    if (const Json* value = object_->find(name)) set(name, *value);
  }

 private:
  const Json* object_;
};

void check_stages(const Config& config) {
  const size_t stages = config.depths.size();
  if (stages != config.heads.size() || stages != config.pretrained_windows.size()) {
    throw Reason(shown(config.architecture) + ": depths, heads and pretrained_windows name " +
                 std::to_string(stages) + ", " + std::to_string(config.heads.size()) + " and " +
                 std::to_string(config.pretrained_windows.size()) + " stages; give each one value per stage");
  }
  if (stages < 1 || stages > Limits::stages) {
    throw Reason("depths names " + std::to_string(stages) + " stages; give 1 to " +
                 std::to_string(Limits::stages));
  }
  // Both bounds hold in every stage if they hold in the last: dim doubles.
  if (int64_t{config.embed_dim} << (stages - 1) > Limits::dim) {
    throw Reason("the last stage has " + with_commas(uint64_t(config.embed_dim) << (stages - 1)) +
                 " channels; at most " + with_commas(Limits::dim) + " are computed");
  }
  if (config.dim(0) * config.mlp_ratio < 1 || config.features() * config.mlp_ratio > Limits::hidden) {
    throw Reason("mlp_ratio is " + std::to_string(config.mlp_ratio) + "; give one that makes 1 to " +
                 with_commas(Limits::hidden) + " channels of every stage's");
  }
  for (size_t i = 0; i < stages; i++) {
    const int dim = config.dim(static_cast<int>(i)), heads = config.heads[i];
    if (dim % heads != 0) {
      throw Reason("stage " + std::to_string(i + 1) + " has " + std::to_string(dim) + " channels, which " +
                   std::to_string(heads) + " heads do not divide");
    }
  }
}

Config read_config(const Json& record) {
  const Fields fields(
      record, "architecture", "architecture",
      {"architecture", "image_size", "window", "embed_dim", "depths", "heads", "pretrained_windows",
       "num_classes", "in_chans", "patch_size", "mlp_ratio", "drop_path", "extra_norm_period"});
  Config config;
  using Name = const std::string&;
  auto take_whole = [&](const char* field, int& into, int least, int most) {
    fields.take(field, [&](Name name, const Json& value) { into = whole(name, value, least, most); });
  };
  fields.take("architecture", [&](Name name, const Json& value) { config.architecture = text(name, value); });
  fields.take("image_size",
              [&](Name name, const Json& value) { config.image_size = pair(name, value, 1, Limits::side); });
  take_whole("window", config.window, 1, Limits::window);
  take_whole("embed_dim", config.embed_dim, 1, Limits::dim);
  fields.take("depths",
              [&](Name name, const Json& value) { config.depths = wholes(name, value, 0, Limits::depth); });
  fields.take("heads",
              [&](Name name, const Json& value) { config.heads = wholes(name, value, 1, Limits::dim); });
  fields.take("pretrained_windows", [&](Name name, const Json& value) {
    config.pretrained_windows.clear();
    for (const Json& item : list(name, value)) {
      config.pretrained_windows.push_back(pair(name, item, 0, Limits::window));
    }
  });
  take_whole("num_classes", config.num_classes, 0, Limits::classes);
  take_whole("in_chans", config.in_chans, 1, Limits::channels);
  take_whole("patch_size", config.patch_size, 1, Limits::patch);
  fields.take("mlp_ratio", [&](Name name, const Json& value) { config.mlp_ratio = number(name, value); });
  fields.take("drop_path", [&](Name name, const Json& value) {  // for training; only checked
    const double rate = number(name, value);
    if (rate < 0 || rate >= 1) refuse(name, value, "a rate from 0 up to, not including, 1");
  });
  take_whole("extra_norm_period", config.extra_norm_period, 0, Limits::depth);
  check_stages(config);
  return config;
}

Preprocess read_preprocess(const Json& record, int channels) {
  const Fields fields(record, "preprocess", "preprocessing",
                      {"size", "resize", "resize_to", "interpolation", "mean", "std"});
  Preprocess out;
  using Name = const std::string&;
  fields.take("size", [&](Name name, const Json& value) { out.size = pair(name, value, 1, Limits::side); });
  fields.take("resize",
              [&](Name name, const Json& value) { out.squash = choice(name, value, "squash", "shorter"); });
  fields.take("resize_to",
              [&](Name name, const Json& value) { out.resize_to = whole(name, value, 1, Limits::resize); });
  fields.take("interpolation", [&](Name name, const Json& value) {
    out.bicubic = choice(name, value, "bicubic", "bilinear");
  });
  fields.take("mean", [&](Name name, const Json& value) { out.mean = floats(name, value); });
  fields.take("std", [&](Name name, const Json& value) { out.std = floats(name, value); });
  bool positive = true;
  for (float s : out.std) positive = positive && s > 0;
  if (out.mean.empty() || out.mean.size() != out.std.size() || !positive) {
    throw Reason("mean has " + std::to_string(out.mean.size()) + " values, std " +
                 std::to_string(out.std.size()) + "; give one each per channel, std above 0");
  }
  // Python lets models of other than 1 and 3 channels say anything here, and then cannot run them.
  if (out.mean.size() != static_cast<size_t>(channels)) {
    throw Reason("the model takes " + std::to_string(channels) + " channels, its preprocessing gives " +
                 std::to_string(out.mean.size()));
  }
  if (int64_t{out.size.rows} * out.size.cols * channels > INT_MAX) {
    throw Reason("size and channels make more values than are computed");
  }
  return out;
}

std::vector<std::string> read_names(const Json& record, const std::string& key, const char* kind,
                                    int classes) {
  const Json* value = record.find(key);
  if (!value) return {};
  std::vector<std::string> names = texts(key, *value);
  if (!names.empty() && names.size() != static_cast<size_t>(classes)) {
    throw Reason("the model has " + std::to_string(classes) + " classes and " + std::to_string(names.size()) +
                 " " + kind);
  }
  return names;
}

// The hash, or nothing where this is none.
std::string read_hash(const Json* value) {
  if (!value || !value->is(Json::Kind::string) || value->text.size() != 64) return "";
  return value->text.find_first_not_of("0123456789abcdef") == std::string::npos ? value->text : "";
}

void check_version(const Json* version, const std::string& where) {
  if (version && version->whole == format_version) return;
  throw Error(SWINV2_BAD_MODEL,
              where + " has format version " + (version ? shown(*version) : "null") +
                  " and this library reads " + std::to_string(format_version) +
                  "; use a newer library, or `swinv2 convert` it with the version that wrote it");
}

Json parsed(const std::string& json, const std::string& where) {
  try {
    Json values = Json::parse(json);
    if (values.is(Json::Kind::object)) return values;
  } catch (const JsonError&) {
  }
  throw Error(SWINV2_BAD_MODEL, where + " has a record that is not JSON; copy or download it again");
}

}  // namespace

Record read_record(const std::string& json, const std::string& where) {
  const Json values = parsed(json, where);
  check_version(values.find("format_version"), where);
  try {
    Record record;
    record.config = read_config(values);
    record.preprocess = read_preprocess(values, record.config.in_chans);
    record.classes = read_names(values, "classes", "class names", record.config.num_classes);
    read_names(values, "synsets", "synsets", record.config.num_classes);
    for (const char* key : {"provenance", "accuracy"}) {  // not used here; what Python refuses is damaged
      const Json* value = values.find(key);
      if (value && !value->is(Json::Kind::object)) refuse(key, *value, "an object");
    }
    record.tensors_sha256 = read_hash(values.find("tensors_sha256"));
    return record;
  } catch (const Reason& reason) {
    throw Error(SWINV2_BAD_MODEL, where + " cannot be used: " + reason.what());
  }
}

}  // namespace swinv2
