// PNG by libpng: all colour types, depths and interlacing. 16-bit values keep their high byte; the
// transparent colour of files without an alpha channel is compared as Pillow compares it, so that the same
// pixels are white.
//
// libpng reports errors by longjmp. Every method of Reader that calls it sets its own target first and holds
// nothing with a destructor; our memory is allocated between these calls, never inside.

#if defined(SWINV2_PNG)

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>
#include <utility>
#include <vector>

#include <png.h>

#include "decode.h"
#include "exif.h"

#if defined(_MSC_VER)
#pragma warning(disable : 4611)  // setjmp beside destructors: see above
#endif

namespace swinv2 {
namespace {

// One byte of deflated data holds at most 1,032 of pixels: a header that promises more is a lie.
constexpr uint64_t MAX_EXPANSION = 1040;
constexpr size_t MAX_TEXT = 1 << 20;  // bytes
constexpr int MAX_TEXTS = 64;

struct Header {
  int width = 0, height = 0, depth = 0, colour_type = 0, passes = 1;
  size_t row_bytes = 0;  // as libpng hands them over
  bool has_key = false;  // one colour, or some entries of the palette, are transparent
  uint16_t grey_key = 0, red_key = 0, green_key = 0, blue_key = 0;
  uint8_t palette[256][4] = {};  // red, green, blue, alpha; black where the file has no entry, as in Pillow
};

class Reader {
 public:
  explicit Reader(Bytes bytes);
  ~Reader() { png_destroy_read_struct(&png_, &info_, nullptr); }
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  void read_header() { check(header()); }
  void read_row(uint8_t* row) { check(row_read(row)); }
  // What follows the pixels may be missing or broken: they are whole.
  Metadata read_rest();

  Header head;

 private:
  bool header();
  bool row_read(uint8_t* row);
  bool end_read();
  void check(bool done) const {
    if (!done) throw_damaged(message_);
  }
  void read_key(png_bytep alphas, int count, png_color_16p key);

  static void on_error(png_structp png, png_const_charp message);
  static void on_warning(png_structp, png_const_charp) {}
  static void give(png_structp png, png_bytep out, png_size_t count);

  Bytes rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  std::jmp_buf target_;
  char message_[128] = "";
};

// libpng allocates what a chunk claims to need before it looks for the data, so it is given no chunk that the
// file breaks off in. Pixels are read as they come and may break off anywhere.
Bytes without_broken_chunk(Bytes file) {
  Bytes rest = file.from(8);
  while (rest.size >= 8) {
    size_t length = 0;
    for (int i = 0; i < 4; ++i) length = length << 8 | rest.data[i];
    if (length > rest.size - 8) {
      if (rest.from(4).starts_with("IDAT", 4)) return file;
      break;
    }
    rest = rest.from(8 + length).from(4);
  }
  return {file.data, file.size - rest.size};
}

Reader::Reader(Bytes bytes) : rest_(without_broken_chunk(bytes)) {
  if (setjmp(target_) == 0) {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, on_error, on_warning);
    if (png_) info_ = png_create_info_struct(png_);
  }
  if (!info_) {
    png_destroy_read_struct(&png_, nullptr, nullptr);
    throw_damaged("libpng cannot begin to read it");
  }
}

void Reader::on_error(png_structp png, png_const_charp message) {
  Reader* reader = static_cast<Reader*>(png_get_error_ptr(png));
  std::snprintf(reader->message_, sizeof reader->message_, "%s", message);
  std::longjmp(reader->target_, 1);
}

void Reader::give(png_structp png, png_bytep out, png_size_t count) {
  Reader* reader = static_cast<Reader*>(png_get_io_ptr(png));
  if (count > reader->rest_.size) png_error(png, "its data ends too early");
  std::memcpy(out, reader->rest_.data, count);
  reader->rest_ = reader->rest_.from(count);
}

bool Reader::header() {
  if (setjmp(target_)) return false;
  // What says nothing about the pixels is skipped unread: less to go wrong.
  static const png_byte skipped[] =
      "bKGD\0cHRM\0gAMA\0hIST\0iCCP\0oFFs\0pCAL\0pHYs\0sBIT\0sCAL\0sPLT\0sRGB\0tIME";
  png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, skipped, static_cast<int>(sizeof skipped / 5));
  png_set_user_limits(png_, PNG_UINT_31_MAX, PNG_UINT_31_MAX);             // refuse_size() has the limit
  png_set_chunk_malloc_max(png_, std::max<size_t>(rest_.size, MAX_TEXT));  // of texts when they are inflated
  png_set_chunk_cache_max(png_, MAX_TEXTS);
  png_set_read_fn(png_, this, give);
  png_set_crc_action(png_, PNG_CRC_ERROR_QUIT, PNG_CRC_ERROR_QUIT);
  png_read_info(png_, info_);
  png_set_crc_action(png_, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);  // Pillow checks no sums from the pixels on
  head.width = static_cast<int>(png_get_image_width(png_, info_));
  head.height = static_cast<int>(png_get_image_height(png_, info_));
  head.depth = png_get_bit_depth(png_, info_);
  head.colour_type = png_get_color_type(png_, info_);

  png_bytep alphas = nullptr;
  png_color_16p key = nullptr;
  int count = 0;
  head.has_key = png_get_tRNS(png_, info_, &alphas, &count, &key) != 0;
  for (auto& entry : head.palette) entry[3] = 255;
  png_colorp palette = nullptr;
  int colours = 0;
  if (png_get_PLTE(png_, info_, &palette, &colours))
    for (int i = 0; i < colours && i < 256; ++i) {
      head.palette[i][0] = palette[i].red;
      head.palette[i][1] = palette[i].green;
      head.palette[i][2] = palette[i].blue;
    }
  if (head.has_key) read_key(alphas, count, key);

  if (head.colour_type == PNG_COLOR_TYPE_GRAY && head.depth < 8) png_set_expand_gray_1_2_4_to_8(png_);
  if (head.colour_type == PNG_COLOR_TYPE_PALETTE) png_set_packing(png_);
  // 16-bit grey with a transparent value is the one kind that is compared with all 16 bits.
  const bool whole = head.colour_type == PNG_COLOR_TYPE_GRAY && head.has_key;
  if (head.depth == 16 && !whole) png_set_strip_16(png_);
  head.passes = png_set_interlace_handling(png_);
  png_read_update_info(png_, info_);
  head.row_bytes = png_get_rowbytes(png_, info_);
  return true;
}

void Reader::read_key(png_bytep alphas, int count, png_color_16p key) {
  if (head.colour_type == PNG_COLOR_TYPE_PALETTE) {
    for (int i = 0; alphas && i < count && i < 256; ++i) head.palette[i][3] = alphas[i];
  } else if (key) {
    head.grey_key = key->gray;
    head.red_key = key->red;
    head.green_key = key->green;
    head.blue_key = key->blue;
    if (head.depth == 1) head.grey_key = key->gray ? 255 : 0;
  }
}

bool Reader::row_read(uint8_t* row) {
  if (setjmp(target_)) return false;
  png_read_row(png_, row, nullptr);
  return true;
}

bool Reader::end_read() {
  if (setjmp(target_)) return false;
  png_read_end(png_, info_);
  return true;
}

Metadata Reader::read_rest() {
  end_read();
  Metadata metadata;
  png_textp texts = nullptr;
  int count = 0;
  png_get_text(png_, info_, &texts, &count);
  for (int i = 0; i < count; ++i) {
    const bool international = texts[i].compression >= PNG_ITXT_COMPRESSION_NONE;
    const size_t length = international ? texts[i].itxt_length : texts[i].text_length;
    const std::string text(texts[i].text ? texts[i].text : "", texts[i].text ? length : 0);
    if (std::strcmp(texts[i].key, "XML:com.adobe.xmp") == 0) metadata.xmp = text;
    if (std::strcmp(texts[i].key, "Raw profile type exif") == 0) metadata.exif = exif_of_raw_profile(text);
  }
#if defined(PNG_eXIf_SUPPORTED)
  png_uint_32 size = 0;
  png_bytep exif = nullptr;
  if (png_get_eXIf_1(png_, info_, &size, &exif) && exif)
    metadata.exif.assign(reinterpret_cast<const char*>(exif), size);
#endif
  return metadata;
}

// One row as libpng gives it -> pixels. wide has room for four values per pixel.
void store_png_row(const Header& head, const uint8_t* row, int channels, uint8_t* wide, uint8_t* out) {
  const int width = head.width;
  const auto opaque_unless = [](bool is_key) { return static_cast<uint8_t>(is_key ? 0 : 255); };
  switch (head.colour_type) {
    case PNG_COLOR_TYPE_GRAY_ALPHA: return store_row(Row::grey_alpha, row, width, channels, out);
    case PNG_COLOR_TYPE_RGB_ALPHA: return store_row(Row::rgba, row, width, channels, out);
    case PNG_COLOR_TYPE_PALETTE:
      for (int x = 0; x < width; ++x) std::memcpy(wide + 4 * x, head.palette[row[x]], 4);
      return store_row(Row::rgba, wide, width, channels, out);
    case PNG_COLOR_TYPE_GRAY:
      if (!head.has_key) return store_row(Row::grey, row, width, channels, out);
      for (int x = 0; x < width; ++x) {
        const int value = head.depth == 16 ? row[2 * x] << 8 | row[2 * x + 1] : row[x];
        // Pillow compares 2 and 4 bits after widening them, with a key that is not widened.
        const int key = head.depth == 16 ? head.grey_key : head.grey_key & 0xff;
        wide[2 * x] = static_cast<uint8_t>(head.depth == 16 ? value >> 8 : value);
        wide[2 * x + 1] = opaque_unless(value == key);
      }
      return store_row(Row::grey_alpha, wide, width, channels, out);
    default:
      if (!head.has_key) return store_row(Row::rgb, row, width, channels, out);
      // Of 16 bits Pillow compares the high byte of the pixel with the low one of the key.
      for (int x = 0; x < width; ++x, row += 3) {
        std::memcpy(wide + 4 * x, row, 3);
        wide[4 * x + 3] =
            opaque_unless(row[0] == (head.red_key & 0xff) && row[1] == (head.green_key & 0xff) &&
                          row[2] == (head.blue_key & 0xff));
      }
      return store_row(Row::rgba, wide, width, channels, out);
  }
}

}  // namespace

Image decode_png(Bytes bytes, int channels) {
  Reader reader(bytes);
  reader.read_header();
  const Header& head = reader.head;
  refuse_size(head.width, head.height);
  const uint64_t encoded = static_cast<uint64_t>(head.row_bytes) * head.height;
  const uint64_t deflated = encoded * std::min(head.depth, 8) / 8;  // at least: 8 bits or more per value here
  if (deflated / MAX_EXPANSION > bytes.size) throw_damaged("its data ends too early");

  const bool interlaced = head.passes > 1;  // then all rows are there only after the last pass
  std::vector<uint8_t> rows(head.row_bytes * (interlaced ? head.height : 1));
  for (int pass = 1; pass < head.passes; ++pass)
    for (int y = 0; y < head.height; ++y) reader.read_row(rows.data() + y * head.row_bytes);
  Image image = allocate(head.width, head.height, channels);
  std::vector<uint8_t> wide(static_cast<size_t>(head.width) * 4);
  for (int y = 0; y < head.height; ++y) {
    uint8_t* row = rows.data() + (interlaced ? y * head.row_bytes : 0);
    reader.read_row(row);
    store_png_row(head, row, channels, wide.data(), image.row(y));
  }
  return upright(std::move(image), orientation(reader.read_rest()));
}

}  // namespace swinv2

#endif
