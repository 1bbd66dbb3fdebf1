#!/usr/bin/env bash
# Runs the official Python client against servers of their own. ANABRANCH_BIN names the program under test.
#   conformance/python/run.sh [TEST...]      as for python -m unittest; by default all
# The package goes to a temporary folder.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${ANABRANCH_BIN:?names the program under test}"
ANABRANCH_BIN=$(realpath "$ANABRANCH_BIN")
export ANABRANCH_BIN PYTHONDONTWRITEBYTECODE=1
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cd "$here"
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(test_sql)
"$place/venv/bin/python" -m unittest --verbose "${tests[@]}"
