// How a picture has to be turned to stand upright, from the EXIF and XMP data inside its file.
#pragma once

#include <cstdint>
#include <string>

#include "decode.h"

namespace swinv2 {

// What a file carries besides its pixels; empty where it carries none.
struct Metadata {
  std::string exif;  // a TIFF directory, perhaps behind "Exif\0\0"
  std::string xmp;
};

Metadata metadata_of_jpeg(Bytes bytes);
Metadata metadata_of_webp(Bytes bytes);
// As ImageMagick keeps it in a text chunk of a PNG: hexadecimal.
std::string exif_of_raw_profile(const std::string& text);

// 1 to 8 as EXIF numbers them; 1 (upright) where nothing is said or what is said cannot be read.
int orientation(const Metadata& metadata);

// The image turned upright.
Image upright(Image image, int orientation);

// The chunks of a RIFF file: what follows "RIFF", its length and the kind of the file.
class RiffChunks {
 public:
  explicit RiffChunks(Bytes body) : rest_(body) {}
  bool next();  // false where no further chunk begins
  bool is(const char* four_letters) const;
  Bytes payload;  // cut off where the file is

 private:
  Bytes rest_;
  const unsigned char* name_ = nullptr;
};

}  // namespace swinv2
