#!/usr/bin/env bash
# Installs the wheel with the newest version of everything and runs the smoke test, then each extra alone.
#
#   tests/install/try_extras.sh [WORK_FOLDER] [EXTRA ...]      default: a temporary folder; cpu gpu train dev
#
# PyTorch (several GB) is installed once: each extra's environment sees the base environment's packages and adds its own.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
work=${1:-$(mktemp -d)}
shift || true
extras=("$@")
[ ${#extras[@]} -gt 0 ] || extras=(cpu gpu train dev)
export PIP_DISABLE_PIP_VERSION_CHECK=1
mkdir -p "$work"
work=$(cd "$work" && pwd)

python3 -m venv "$work/base"
"$work/base/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$root"
wheel=$(ls "$work"/wheel/structxlip-*.whl)
"$work/base/bin/python" -m pip install --quiet "$wheel"
cp "$root/tests/install/smoke.py" "$work/smoke.py"
cd "$work"
"$work/base/bin/python" smoke.py
"$work/base/bin/python" -m pip freeze --exclude structxlip > "$work/base.txt"

packages=$("$work/base/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
for extra in "${extras[@]}"; do
  python3 -m venv "$work/$extra"
  own=$("$work/$extra/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  echo "$packages" > "$own/base.pth"
  # The wheel itself is installed again, so that the command belongs to this environment.
  "$work/$extra/bin/python" -m pip install --quiet --ignore-installed --no-deps "$wheel"
  "$work/$extra/bin/python" -m pip install --quiet "$wheel[$extra]"
  "$work/$extra/bin/python" smoke.py "$extra"
  "$work/$extra/bin/python" -m pip freeze --exclude structxlip > "$work/$extra.txt"
done
echo "all extras passed: ${extras[*]}"
