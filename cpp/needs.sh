#!/usr/bin/env sh
# needs.sh "PROGRAM ..." PACKAGE ...: installs packages of Debian where a program is missing and apt-get may do that, and
# says what to do where it may not.
set -eu

programs=$1
shift

missing() {
  for program in $programs; do command -v "$program" >/dev/null || printf ' %s' "$program"; done
}

[ -n "$(missing)" ] || exit 0
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo -n"
if command -v apt-get >/dev/null; then
  echo "make: installing $*"
  log=$(mktemp)
  { $as_root apt-get update && $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@"; } \
    >"$log" 2>&1 || tail -n 3 "$log" >&2
  rm -f "$log"
fi
[ -n "$(missing)" ] || exit 0
echo "make: cannot install what is missing:$(missing). On Debian: apt-get install $*" >&2
exit 1
