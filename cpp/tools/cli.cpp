// The open model, files and JSON of swinv2-cli.

#include "cli.h"

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

namespace cli {
namespace {

// Continuation bytes that follow in a well-formed UTF-8 sequence, or -1.
int following(const unsigned char* p, size_t left) {
  const int length = p[0] < 0x80 ? 0 : p[0] >> 5 == 6 ? 1 : p[0] >> 4 == 14 ? 2 : p[0] >> 3 == 30 ? 3 : -1;
  if (length < 0 || static_cast<size_t>(length) >= left) return -1;
  for (int i = 1; i <= length; ++i)
    if (p[i] >> 6 != 2) return -1;
  const bool too_long =
      p[0] == 0xc0 || p[0] == 0xc1 || (p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xf0 && p[1] < 0x90);
  const bool no_character = (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf4 && p[1] > 0x8f) || p[0] > 0xf4;
  return too_long || no_character ? -1 : length;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  const auto* p = reinterpret_cast<const unsigned char*>(text.data());
  for (size_t i = 0; i < text.size();) {
    const int more = following(p + i, text.size() - i);
    if (more < 0) {
      out += "\xef\xbf\xbd";  // the replacement character, for names that are not UTF-8
    } else if (p[i] == '"' || p[i] == '\\') {
      out += '\\';
      out += text[i];
    } else if (p[i] < 0x20) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", p[i]);
      out += escape;
    } else {
      out.append(text, i, more + 1);
    }
    i += more < 0 ? 1 : more + 1;
  }
  return out + '"';
}

Exit exit_of(int status) {
  switch (status) {
    case SWINV2_BAD_ARGUMENT: return USAGE;
    case SWINV2_NO_FILE:
    case SWINV2_BAD_MODEL:
    case SWINV2_UNSUPPORTED: return MODEL;
    default: return FAILED;
  }
}

}  // namespace

Model::Model(const Arguments& arguments) {
  swinv2_options options{};
  options.version = SWINV2_VERSION;
  options.threads = arguments.threads;
  options.precision = arguments.precision.empty() ? nullptr : arguments.precision.c_str();
  options.instructions = arguments.instructions.empty() ? nullptr : arguments.instructions.c_str();
  checked(swinv2_open(arguments.model.c_str(), &options, &model_));
}

int checked(int status) {
  if (status < 0) throw Failure{exit_of(status), swinv2_last_error()};
  return status;
}

std::string naming(const std::string& file, const std::string& sentence) {
  const std::string nameless = "the image ";
  if (sentence.compare(0, nameless.size(), nameless) == 0) return file + sentence.substr(nameless.size() - 1);
  return file + ": " + sentence;
}

std::string read(const std::string& file) {
  std::string bytes;
  if (file == "-") {
#if defined(_WIN32)
    _setmode(_fileno(stdin), _O_BINARY);
#endif
    bytes.assign(std::istreambuf_iterator<char>(std::cin), {});
    return bytes;
  }
  std::ifstream stream(std::filesystem::u8path(file), std::ios::binary);
  if (stream) bytes.assign(std::istreambuf_iterator<char>(stream), {});
  if (!stream || stream.bad()) throw Failure{PARTIAL, file + " cannot be read: " + std::strerror(errno)};
  return bytes;
}

void Json::begin_value() {
  if (!after_key_ && depth_ > 0) {
    if (!first_) text_ += ',';
    text_ += '\n';
    text_.append(2 * depth_, ' ');
  }
  first_ = after_key_ = false;
}

Json& Json::open(char bracket) {
  begin_value();
  text_ += bracket;
  ++depth_;
  first_ = true;
  return *this;
}

Json& Json::close(char bracket) {
  --depth_;
  if (!first_) {
    text_ += '\n';
    text_.append(2 * depth_, ' ');
  }
  text_ += bracket;
  first_ = false;
  return *this;
}

Json& Json::key(const std::string& name) {
  begin_value();
  text_ += quoted(name) + ": ";
  after_key_ = true;
  return *this;
}

Json& Json::value(const std::string& text) { return raw(quoted(text)); }

Json& Json::value(double number) {
  char text[32] = "null";
  if (std::isfinite(number)) std::snprintf(text, sizeof text, "%.9g", number);
  return raw(text);
}

Json& Json::raw(const std::string& json) {
  begin_value();
  text_ += json;
  return *this;
}

void Json::print() const { std::printf("%s\n", text_.c_str()); }

}  // namespace cli
