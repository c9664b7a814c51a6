// JPEG by libjpeg (libjpeg-turbo), with the settings and the leniency of Pillow: the accurate DCT, smooth
// upsampling, four components as Adobe's inverted CMYK, corrupt data shown as it comes, missing data refused.
//
// libjpeg reports errors by longjmp. Every method of Decompressor that calls it sets its own target first and
// holds nothing with a destructor; our memory is allocated between these calls, never inside.

#if defined(SWINV2_JPEG)

#include <algorithm>
#include <csetjmp>
#include <cstddef>
#include <cstdio>  // jpeglib.h needs FILE and size_t
#include <utility>
#include <vector>

#include <jpeglib.h>

#include "decode.h"
#include "exif.h"

#if defined(_MSC_VER)
#pragma warning(disable : 4611)  // setjmp beside destructors: see above
#endif

namespace swinv2 {
namespace {

// A small progressive file can demand thousands of passes over all pixels; real ones have a dozen.
constexpr int MAX_SCANS = 500;

class Decompressor {
 public:
  explicit Decompressor(Bytes bytes);
  ~Decompressor() { jpeg_destroy_decompress(&info_); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  void read_header() {
    check(header());
    const int components = info_.num_components;
    if (components != 1 && components != 3 && components != 4)
      throw_damaged("it has " + std::to_string(components) + " components; 1, 3 or 4 make a picture");
  }
  void start() { check(started()); }
  void read_row(uint8_t* row) { check(row_read(row)); }

  int width() const { return static_cast<int>(info_.image_width); }
  int height() const { return static_cast<int>(info_.image_height); }
  Row kind() const {
    return info_.num_components == 1 ? Row::grey : info_.num_components == 3 ? Row::rgb : Row::cmyk;
  }

 private:
  enum class Outcome { done, out_of_data, failed };
  Outcome header();
  Outcome started();
  Outcome row_read(uint8_t* row);
  void check(Outcome outcome) const {
    if (outcome == Outcome::failed) throw_damaged(message_);
    if (outcome == Outcome::out_of_data) throw_damaged("its data ends too early");
  }

  static Decompressor* self(j_common_ptr info) { return static_cast<Decompressor*>(info->client_data); }
  static void on_error(j_common_ptr info);
  static void on_message(j_common_ptr) {}
  static void on_progress(j_common_ptr info);
  static void do_nothing(j_decompress_ptr) {}
  static boolean suspend(j_decompress_ptr) { return FALSE; }
  static void skip(j_decompress_ptr info, long count);

  jpeg_decompress_struct info_{};
  jpeg_error_mgr errors_{};
  jpeg_source_mgr source_{};
  jpeg_progress_mgr progress_{};
  std::jmp_buf target_;
  char message_[JMSG_LENGTH_MAX] = "";
};

Decompressor::Decompressor(Bytes bytes) {
  info_.err = jpeg_std_error(&errors_);
  errors_.error_exit = on_error;
  errors_.output_message = on_message;
  info_.client_data = this;
  if (setjmp(target_)) throw_damaged(message_);  // the library and its header are of different versions
  jpeg_create_decompress(&info_);
  progress_.progress_monitor = on_progress;
  info_.progress = &progress_;
  // All bytes are there at once. Where they end the library suspends, as in Pillow, instead of going on.
  source_.init_source = source_.term_source = do_nothing;
  source_.fill_input_buffer = suspend;
  source_.skip_input_data = skip;
  source_.resync_to_restart = jpeg_resync_to_restart;
  source_.next_input_byte = bytes.data;
  source_.bytes_in_buffer = bytes.size;
  info_.src = &source_;
}

Decompressor::Outcome Decompressor::header() {
  if (setjmp(target_)) return Outcome::failed;
  int found = JPEG_HEADER_TABLES_ONLY;
  while (found == JPEG_HEADER_TABLES_ONLY) found = jpeg_read_header(&info_, FALSE);
  return found == JPEG_HEADER_OK ? Outcome::done : Outcome::out_of_data;
}

Decompressor::Outcome Decompressor::started() {
  if (setjmp(target_)) return Outcome::failed;
  info_.out_color_space = kind() == Row::grey ? JCS_GRAYSCALE : kind() == Row::rgb ? JCS_RGB : JCS_CMYK;
  info_.dct_method = JDCT_ISLOW;
  info_.do_fancy_upsampling = TRUE;
  return jpeg_start_decompress(&info_) ? Outcome::done : Outcome::out_of_data;
}

Decompressor::Outcome Decompressor::row_read(uint8_t* row) {
  if (setjmp(target_)) return Outcome::failed;
  return jpeg_read_scanlines(&info_, &row, 1) == 1 ? Outcome::done : Outcome::out_of_data;
}

void Decompressor::on_error(j_common_ptr info) {
  Decompressor* decompressor = self(info);
  info->err->format_message(info, decompressor->message_);
  std::longjmp(decompressor->target_, 1);
}

void Decompressor::on_progress(j_common_ptr info) {
  Decompressor* decompressor = self(info);
  if (decompressor->info_.input_scan_number <= MAX_SCANS) return;
  std::snprintf(decompressor->message_, sizeof decompressor->message_, "more than %d scans", MAX_SCANS);
  std::longjmp(decompressor->target_, 1);
}

void Decompressor::skip(j_decompress_ptr info, long count) {
  jpeg_source_mgr* source = info->src;
  if (count <= 0) return;
  const size_t skipped = std::min(static_cast<size_t>(count), source->bytes_in_buffer);
  source->next_input_byte += skipped;
  source->bytes_in_buffer -= skipped;
}

}  // namespace

Image decode_jpeg(Bytes bytes, int channels) {
  Decompressor decompressor(bytes);
  decompressor.read_header();
  const Row kind = decompressor.kind();
  Image image = allocate(decompressor.width(), decompressor.height(), channels);
  decompressor.start();

  std::vector<uint8_t> row(static_cast<size_t>(image.width) * values_of(kind));
  for (int y = 0; y < image.height; ++y) {
    uint8_t* out = image.row(y);
    const bool as_it_is = values_of(kind) == channels;
    decompressor.read_row(as_it_is ? out : row.data());
    if (as_it_is) continue;
    if (kind == Row::cmyk)
      for (uint8_t& value : row) value = static_cast<uint8_t>(255 - value);
    store_row(kind, row.data(), image.width, channels, out);
  }
  return upright(std::move(image), orientation(metadata_of_jpeg(bytes)));
}

}  // namespace swinv2

#endif
