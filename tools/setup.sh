#!/usr/bin/env bash
# Makes the virtual environment, one step per call; the Makefile decides which steps are due.
#   tools/setup.sh packages | interfaces | project | engines | browser
# VENV: folder of the environment (default .venv).  PYTHON: interpreter to make it with (default: one that fits).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
venv=$(realpath -m "${VENV:-.venv}")
manifest=$venv/.stamps/interfaces_manifest.txt

fail() {
  echo "setup: $*" >&2
  exit 1
}

say() {
  echo "setup: $*"
}

# Whether the interpreter $1 runs and is of a supported version; one that is only a broken shim does not run.
is_supported() {
  "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1
}

find_python() {
  local candidate
  if [ -n "${PYTHON:-}" ]; then
    is_supported "$PYTHON" || fail "PYTHON=$PYTHON is not an interpreter of Python 3.10 to 3.13"
    echo "$PYTHON"
    return
  fi
  for candidate in python3 python3.11 python3.12 python3.10 python3.13; do
    if is_supported "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  fail "no Python 3.10 to 3.13 found: install one, or name it, as in PYTHON=/opt/python3.11/bin/python3 make setup"
}

check_machine() {
  local header
  header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
  [ -f "$header" ] || fail "$header is missing: install the headers of $("$python" -V) (Debian, Ubuntu: python3-dev)"
  command -v "${CC:-cc}" >/dev/null || fail "no C compiler '${CC:-cc}': install one (Debian, Ubuntu: build-essential)"
  command -v "${CXX:-c++}" >/dev/null || fail "no C++ compiler '${CXX:-c++}': install one (Debian, Ubuntu: build-essential)"
}

make_venv() {
  if "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    return
  fi
  [ ! -e "$venv" ] || [ -e "$venv/pyvenv.cfg" ] \
    || fail "$venv exists and is no virtual environment: move it away or name another folder, as in VENV=.venv2 make setup"
  say "making $venv with $("$python" -V)"
  "$python" -m venv --clear "$venv" || fail "'$python -m venv' failed (Debian, Ubuntu: install python3-venv)"
}

install_packages() {
  local pip=("$venv/bin/python" -m pip --disable-pip-version-check --quiet install)
  say "installing packages; torch is large, the first time takes minutes"
  "${pip[@]}" -r requirements/bootstrap.txt || fail "pip could not install requirements/bootstrap.txt (is there a package index?)"
  "${pip[@]}" --no-build-isolation -c requirements/constraints.txt \
    -r requirements/runtime.txt -r requirements/export.txt -r requirements/training.txt -r requirements/ros.txt -r requirements/ros-build.txt \
    -r requirements/dev.txt \
    || fail 'pip could not install the packages of requirements/: its message above names the one'
  SAM2_BUILD_CUDA=0 "${pip[@]}" --no-deps --no-build-isolation -r requirements/sam2.txt \
    || fail 'pip could not install sam2: its message is above'
}

install_engines() {
  say 'installing TensorRT for RTX'
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install --no-build-isolation \
    -c requirements/constraints.txt -r requirements/engines.txt \
    || fail 'pip could not install requirements/engines.txt: its message is above'
}

install_browser() {
  say 'installing what drives a browser'
  "$venv/bin/python" -m pip --disable-pip-version-check --quiet install \
    -c requirements/constraints.txt -r requirements/browser.txt \
    || fail 'pip could not install requirements/browser.txt: its message is above'
}

# A message that no longer exists must not stay importable, so what the last build installed goes first.
remove_old_interfaces() {
  [ -f "$manifest" ] || return 0
  xargs -r -d '\n' rm -f -- <"$manifest"
  rm -f "$manifest"
}

build_interfaces() {
  local log
  build=$(mktemp -d)  # not local: the trap runs after the function has returned
  trap 'rm -rf "$build"' EXIT
  log=$build/log.txt
  say 'building the messages of robust_pvos_interfaces'
  {
    "$venv/bin/cmake" -S robust_pvos_interfaces -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
      -DCMAKE_MAKE_PROGRAM="$venv/bin/ninja" -DPython3_EXECUTABLE="$venv/bin/python" \
      -DCMAKE_PROJECT_INCLUDE="$root/tools/drop_missing_includes.cmake" \
      -DCMAKE_PREFIX_PATH="$venv" -DCMAKE_INSTALL_PREFIX="$venv" \
      && "$venv/bin/cmake" --build "$build" -j2
  } >"$log" 2>&1 || { tail -n 40 "$log" >&2; fail 'robust_pvos_interfaces did not build: the end of its log is above'; }
  mkdir -p "$(dirname "$manifest")"
  remove_old_interfaces
  "$venv/bin/cmake" --install "$build" >>"$log" || fail 'robust_pvos_interfaces could not be installed'
  cp "$build/install_manifest.txt" "$manifest"
}

# What an ament installation has and pip's editable one has not: the entry in the resource index, the files in share, and
# the executables in lib/PACKAGE (pip puts them into bin), where ros2 run and launch look for them.
link_into_ament_layout() {
  local package=robust_pvos_ros name
  mkdir -p "$venv/share/ament_index/resource_index/packages"
  ln -sfn "$root/resource/$package" "$venv/share/ament_index/resource_index/packages/$package"
  rm -rf "$venv/share/$package" "$venv/lib/$package"
  mkdir -p "$venv/share/$package" "$venv/lib/$package"
  for name in package.xml launch config; do
    ln -s "$root/$name" "$venv/share/$package/$name"
  done
  "$venv/bin/python" - <<'PYTHON' | while read -r name; do ln -s "../../bin/$name" "$venv/lib/$package/$name"; done
from importlib.metadata import distribution
for point in distribution('robust_pvos_ros').entry_points.select(group='console_scripts'):
    print(point.name)
PYTHON
}

install_project() {
  local output
  say 'installing robust_pvos_ros (editable)'
  output=$("$venv/bin/python" -m pip --disable-pip-version-check install --no-deps --no-build-isolation -e . 2>&1) \
    || { echo "$output" >&2; fail 'pip could not install robust_pvos_ros: its message is above'; }
  link_into_ament_layout
}

case "${1:-}" in
  packages) python=$(find_python); check_machine; make_venv; install_packages ;;
  interfaces) build_interfaces ;;
  project) install_project ;;
  engines) install_engines ;;
  browser) install_browser ;;
  *) fail "unknown step '${1:-}': one of packages, interfaces, project, engines, browser" ;;
esac
