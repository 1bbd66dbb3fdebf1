#!/usr/bin/env bash
# Runs the official JavaScript clients against servers of their own. ANABRANCH_BIN names the program under test.
#   conformance/js/run.sh [FILE...]      by default all *.test.mjs
# Packages go to a temporary folder, as the lock file says.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
: "${ANABRANCH_BIN:?names the program under test}"
ANABRANCH_BIN=$(realpath "$ANABRANCH_BIN")
export ANABRANCH_BIN
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
cp "$here"/*.mjs "$here"/package.json "$here"/package-lock.json "$place/"
cd "$place"
npm ci --silent --no-audit --no-fund
files=("$@")
[ ${#files[@]} -gt 0 ] || files=(*.test.mjs)
node --test --test-reporter=spec "${files[@]}"
