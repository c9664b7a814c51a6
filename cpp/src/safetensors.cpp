// The rules of the format's own reader, and two more: a row has three fields, and no name is there twice.

#include "safetensors.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "error.h"
#include "json.h"
#include "sentence.h"

namespace swinv2 {
namespace {

constexpr uint64_t largest_header = 100'000'000;  // the format's own limit

const struct {
  const char* name;
  Type type;
  int bits;
} types[] = {
    {"F32", Type::f32, 32},
    {"F16", Type::f16, 16},
    {"BF16", Type::bf16, 16},
    {"F64", Type::f64, 64},
};

[[noreturn]] void refuse(const std::string& sentence) { throw Error(SWINV2_BAD_MODEL, sentence); }

[[noreturn]] void refuse_format(const std::string& name, const char* more = "") {
  refuse(name + " is not a safetensors file" + more +
         "; `swinv2 convert` reads the formats of other libraries");
}

// A whole number of at least 0; Json knows those below 10^18, so that sums of two do not overflow.
std::optional<uint64_t> natural(const Json& value) {
  if (!value.whole || value.text[0] == '-') return std::nullopt;
  return static_cast<uint64_t>(*value.whole);
}

struct Row {
  const std::string* name;
  Tensor tensor;
  uint64_t start, end;  // of its bytes, counted from the end of the header
};

Row read_row(const Json::Member& member, const std::string& file) {
  const Json *type = member.value.find("dtype"), *shape = member.value.find("shape"),
             *offsets = member.value.find("data_offsets");
  if (!type || !shape || !offsets || member.value.members.size() != 3) refuse_format(file);
  if (!type->is(Json::Kind::string) || !shape->is(Json::Kind::list) || !offsets->is(Json::Kind::list) ||
      offsets->items.size() != 2) {
    refuse_format(file);
  }
  Row row{&member.key, {Type::other, {}, nullptr}, 0, 0};
  for (const auto& known : types) {
    if (type->text == known.name) row.tensor.type = known.type;
  }
  for (const Json& item : shape->items) {
    const auto length = natural(item);
    if (!length) refuse_format(file);
    row.tensor.shape.push_back(static_cast<int64_t>(*length));
  }
  const auto start = natural(offsets->items[0]), end = natural(offsets->items[1]);
  if (!start || !end) refuse_format(file);
  row.start = *start;
  row.end = *end;
  return row;
}

// Bytes that values of a type take; nothing where that is beyond 64 bits or the type is another.
std::optional<uint64_t> bytes_of(const Tensor& tensor) {
  uint64_t bits = 0;
  for (const auto& known : types) {
    if (tensor.type == known.type) bits = static_cast<uint64_t>(known.bits);
  }
  for (int64_t length : tensor.shape) {
    const uint64_t by = static_cast<uint64_t>(length);
    if (by != 0 && bits > UINT64_MAX / by) return std::nullopt;
    bits *= by;
  }
  return bits / 8;
}

std::map<std::string, std::string> read_metadata(const Json& value, const std::string& file) {
  std::map<std::string, std::string> metadata;
  if (!value.is(Json::Kind::object)) refuse_format(file);
  for (const Json::Member& member : value.members) {
    if (!member.value.is(Json::Kind::string)) refuse_format(file);
    metadata[member.key] = member.value.text;
  }
  return metadata;
}

void check_places(std::vector<Row>& rows, uint64_t available, const std::string& file) {
  uint64_t needed = 0;
  for (const Row& row : rows) needed = std::max(needed, row.end);
  if (needed > available) {
    refuse(file + " was cut off: " + with_commas(available) + " of " + with_commas(needed) +
           " bytes of weights; copy or download it again");
  }
  std::sort(rows.begin(), rows.end(),
            [](const Row& a, const Row& b) { return std::tie(a.start, a.end) < std::tie(b.start, b.end); });
  uint64_t place = 0;
  for (const Row& row : rows) {
    const bool fits = row.tensor.type == Type::other || bytes_of(row.tensor) == row.end - row.start;
    if (row.start != place || row.end < row.start || !fits) {
      refuse(file + " is damaged: the bytes of " + shown(*row.name) +
             " are not where they should be; copy or download it again");
    }
    place = row.end;
  }
  if (place != available) {
    refuse(file + " is damaged: " + with_commas(available - place) +
           " bytes follow the last tensor; copy or download it again");
  }
}

}  // namespace

Container read_safetensors(const unsigned char* bytes, size_t size, const std::string& name) {
  uint64_t length = 0;
  for (size_t i = 0; i < 8 && size >= 8; i++) length |= static_cast<uint64_t>(bytes[i]) << 8 * i;
  if (length == 0 || length > largest_header || length > size - 8) {
    refuse_format(name, ", or was cut off");
  }
  Json header;
  try {
    header = Json::parse(reinterpret_cast<const char*>(bytes) + 8, static_cast<size_t>(length));
  } catch (const JsonError&) {
    refuse_format(name);
  }
  if (!header.is(Json::Kind::object)) refuse_format(name);
  Container out;
  std::vector<Row> rows;
  for (const Json::Member& member : header.members) {
    if (member.key == "__metadata__") {
      if (!member.value.is(Json::Kind::null)) out.metadata = read_metadata(member.value, name);
    } else {
      rows.push_back(read_row(member, name));
    }
  }
  check_places(rows, size - 8 - length, name);
  for (Row& row : rows) {
    row.tensor.data = bytes + 8 + length + row.start;
    out.tensors.emplace(*row.name, std::move(row.tensor));
  }
  return out;
}

}  // namespace swinv2
