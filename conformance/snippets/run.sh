#!/usr/bin/env bash
# Runs the snippets of the documentation against a server, with the packages as they are published.
#   conformance/snippets/run.sh URL [LANGUAGE...]      URL: that of a database, e.g. http://127.0.0.1:8080/notes
# LANGUAGE: rust, javascript, python; all by default. Packages go to a temporary folder.
# Each is run twice, so the second run meets the files of the first, and must see all notes so far.
set -euo pipefail
url=${1:?usage: conformance/snippets/run.sh URL [rust|javascript|python]...}
shift
languages=("$@")
[ ${#languages[@]} -gt 0 ] || languages=(rust javascript python)
here=$(cd "$(dirname "$0")" && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT

prepare() {
    case $1 in
        rust)
            (cd "$here/.." && cargo build --quiet --locked --example snippet)
            run_rust() { "${CARGO_TARGET_DIR:-$here/../target}/debug/examples/snippet" "$url"; }
            ;;
        javascript)
            cp "$here/notes.mjs" "$place/"
            (cd "$place" && npm install --silent --no-audit --no-fund --no-save @libsql/client@0.18.0)
            run_javascript() { node notes.mjs "$url"; }
            ;;
        python)
            python3 -m venv "$place/venv"
            "$place/venv/bin/pip" install --quiet --disable-pip-version-check libsql==0.1.11
            run_python() { "$place/venv/bin/python" "$here/notes.py" "$url"; }
            ;;
        *)
            echo "unknown language $1" >&2
            exit 2
            ;;
    esac
}

for language in "${languages[@]}"; do prepare "$language"; done
cd "$place"
declare -A name=([rust]=Rust [javascript]=JavaScript [python]=Python)
expected=
for round in 1 2; do
    for language in "${languages[@]}"; do
        expected+="from ${name[$language]}"$'\n'
        seen=$("run_$language")
        if [ "$seen" != "${expected%$'\n'}" ]; then
            printf '%s, round %s: expected\n%s\nbut it says\n%s\n' "$language" "$round" "$expected" "$seen" >&2
            exit 1
        fi
    done
done
echo "snippets: ${languages[*]} ran twice and see each other's notes"
