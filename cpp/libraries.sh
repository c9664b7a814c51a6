#!/usr/bin/env sh
# What the engine and its tests are built with: a C++17 compiler and the libraries that decode pictures. Installs what
# is missing where apt-get may do that, and says what to do where it may not.
set -eu

has() { printf '#include <optional>\n%s\n' "$1" | "${CXX:-c++}" -std=c++17 -fsyntax-only -x c++ - >/dev/null 2>&1; }
decoders='#include <stdio.h>
#include <jpeglib.h>
#include <png.h>
#include <webp/demux.h>'
packages="g++ pkg-config libjpeg-dev libpng-dev libwebp-dev"

has "$decoders" && exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null; then
  echo "make: installing $packages"
  log=$(mktemp)
  { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $packages; } \
    >"$log" 2>&1 || tail -n 3 "$log" >&2
  rm -f "$log"
fi
has "$decoders" && exit 0
if has ""; then
  echo "make: the headers of libjpeg, libpng or libwebp are missing: the engine is built without them, and tests of
make: pictures are skipped. On Debian: apt-get install $packages; on a Mac: brew install jpeg-turbo libpng webp" >&2
  exit 0
fi
echo "make: there is no C++17 compiler, and the tests of the engine need one.
make: On Debian: apt-get install $packages; on a Mac: xcode-select --install" >&2
exit 1
