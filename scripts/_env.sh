# Sourced by the scripts beside it. `use_venv EXTRA` completes .venv for that extra (demo or dev) and puts it on PATH.
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
  local name
  for name in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$name"; return; }
  done
  echo "celeray needs Python 3.11 or newer; name one with PYTHON=/path/to/python3" >&2
  return 1
}

make_venv() { # Debian's python3 has no ensurepip; there pip puts itself into the new environment.
  local python
  python=$(find_python)
  "$python" -m venv .venv >/dev/null 2>&1 && return
  "$python" -m venv --clear --without-pip .venv && "$python" -m pip --python .venv/bin/python install --quiet pip
}

use_venv() { # A stamp named after pyproject.toml's checksum says that the environment is complete for it.
  local extra=$1 sum
  sum=$(cksum <pyproject.toml | tr ' ' -)
  [ -x .venv/bin/python ] || make_venv
  export PATH="$PWD/.venv/bin:$PATH" VIRTUAL_ENV="$PWD/.venv"
  [ -e ".venv/.celeray-$extra-$sum" ] || [ -e ".venv/.celeray-dev-$sum" ] && return
  echo "setting up .venv for '$extra', log in .venv/pip.log" >&2
  if ! pip install --progress-bar off -e ".[$extra]" 2>&1 | tee .venv/pip.log | sed -un 's/^  Downloading \([^-]*\)-.* (\(.*\))$/  \1 \2/p' >&2; then
    tail -n 30 .venv/pip.log >&2
    return 1
  fi
  # The OCR package asks for opencv-python, which links libGL; a machine without a desktop may lack it.
  python -c 'import cv2' 2>/dev/null || { pip uninstall -qy opencv-python && pip install -q opencv-python-headless; }
  rm -f ".venv/.celeray-$extra-"* && touch ".venv/.celeray-$extra-$sum"
}
