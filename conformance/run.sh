#!/usr/bin/env bash
# Builds the official client and the suite, and runs everything against the real server.
#   conformance/run.sh              what CI runs: all scenarios, short random courses, and the clients of all languages
#   conformance/run.sh soak         arguments go to cargo test: one test or some
#   CONFORMANCE_ROUNDS=2000 CONFORMANCE_SEED=7 conformance/run.sh soak
#   CONFORMANCE_KILLS=200 conformance/run.sh killed_
# Python, and Node.js with npm, are needed; CONFORMANCE_LANGUAGES="rust python" leaves one out.
# ANABRANCH_BIN names the program under test; without it, it is built from the workspace, with crash points.
set -euo pipefail
cd "$(dirname "$0")"
# Most of a test is waiting for processes and disks.
threads=${CONFORMANCE_THREADS:-$(($(nproc) * 2))}

say() { printf -- '-- %s (%ss)\n' "$*" "$SECONDS"; }

# The program is built by the workspace above, with that one's flags for SQLite; see .cargo/config.toml.
if [ -z "${ANABRANCH_BIN:-}" ]; then
    say "the program under test"
    (cd .. && env -u LIBSQLITE3_FLAGS cargo build --quiet --locked --package anabranch-cli --features failpoints)
    ANABRANCH_BIN=${CARGO_TARGET_DIR:-$PWD/../target}/debug/anabranch
fi
ANABRANCH_BIN=$(realpath "$ANABRANCH_BIN")
export ANABRANCH_BIN

if [ $# -gt 0 ]; then
    exec cargo test --locked --test conformance -- --test-threads "$threads" "$@"
fi

say "format and lints"
cargo fmt --check
cargo clippy --quiet --locked --all-targets -- -D warnings
say "the official client"
cargo build --quiet --locked --all-targets
say "scenarios"
CONFORMANCE_ROUNDS=${CONFORMANCE_ROUNDS:-120} cargo test --quiet --locked --all-targets -- --test-threads "$threads"

read -ra languages <<< "${CONFORMANCE_LANGUAGES:-rust javascript python}"
for language in "${languages[@]}"; do
    case $language in
        javascript) say "JavaScript" && js/run.sh ;;
        python) say "Python" && python/run.sh ;;
    esac
done
say "snippets: ${languages[*]}"
place=$(mktemp -d)
"$ANABRANCH_BIN" serve --data "$place/data" --listen 127.0.0.1:0 2> "$place/log" &
server=$!
trap 'kill $server 2> /dev/null || true; wait $server 2> /dev/null || true; rm -rf "$place"' EXIT
until address=$(grep -om1 'http://127.0.0.1:[0-9]*' "$place/log"); do
    kill -0 $server || { cat "$place/log" >&2; exit 1; }
done
snippets/run.sh "$address/notes" "${languages[@]}"
say "done"
