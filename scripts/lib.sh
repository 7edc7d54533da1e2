# Sourced by the scripts beside it; not a program of its own.
# shellcheck shell=bash
set -euo pipefail

LARDER_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=~  # also without HOME in the environment
LARDER_CACHE=$(realpath -m "${LARDER_CACHE:-${XDG_CACHE_HOME:-$home/.cache}/larder}")
export LARDER_ROOT LARDER_CACHE

say() { echo "${0##*/}: $*" >&2; }

die() {
  say "$*"
  exit 1
}

# The comment at the head of the calling script.
usage() { sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then
    env "$@"
  elif command -v sudo >/dev/null; then
    sudo env "$@"
  else
    die "not root and no sudo; as root, run: $*"
  fi
}

# need_packages FILE...: installs those of the listed Debian packages that are missing. Without missing ones it neither
# uses the network nor asks for rights.
need_packages() {
  local wanted missing
  wanted=$(sed 's/#.*//' "$@" | tr -s ' \n' '\n' | sed '/^$/d' | sort -u)
  if ! command -v dpkg-query >/dev/null; then
    say "this is not a Debian system; going on as if the equivalents of these were installed: ${wanted//$'\n'/ }"
    return
  fi
  missing=$(comm -23 <(echo "$wanted") <(installed_among "$wanted"))
  [ -n "$missing" ] || return 0
  say "installing ${missing//$'\n'/ }"
  as_root DEBIAN_FRONTEND=noninteractive apt-get -qq update </dev/null >&2
  # shellcheck disable=SC2086 # a list of words
  as_root DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing </dev/null >&2 ||
    die "apt-get could not install: ${missing//$'\n'/ }"
}

installed_among() {
  # shellcheck disable=SC2086,SC2016 # a list of words; dpkg-query's own variables
  dpkg-query -W -f '${db:Status-Status} ${Package}\n' $1 2>/dev/null | sed -n 's/^installed //p' | sort -u
}

# What tests need besides their programs: models, test data, clients. Without it they skip.
test_environment() {
  LARDER_SMOLLM2=$("$LARDER_ROOT/scripts/model" smollm2 | tail -n 1)
  LARDER_GEMMA3=$("$LARDER_ROOT/scripts/model" gemma3 | tail -n 1)
  LARDER_TEST_DATA_DIR=$("$LARDER_ROOT/scripts/test_data" | tail -n 1)
  LARDER_PYTHON=$("$LARDER_ROOT/scripts/python_env" clients | tail -n 1)
  export LARDER_SMOLLM2 LARDER_GEMMA3 LARDER_TEST_DATA_DIR LARDER_PYTHON
}
