#!/usr/bin/env bash
# Runs the snippets of the documentation against a server, with the packages as they are published.
#   conformance/snippets/run.sh URL [LANGUAGE...]      URL: that of a database, e.g. http://127.0.0.1:8080/notes
# LANGUAGE: rust, javascript, python; all by default. Packages go to a temporary folder.
# Each is run twice, so the second run meets the files of the first, and must see all notes so far.
# The quick starts do what those of the clients' own documentation do, call by call, each in a database of its own.
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
            (cd "$here/.." && cargo build --quiet --locked --example snippet --example quickstart)
            examples=${CARGO_TARGET_DIR:-$here/../target}/debug/examples
            run_rust() { "$examples/snippet" "$url"; }
            start_rust() { "$examples/quickstart"; }
            ;;
        javascript)
            cp "$here"/*.mjs "$here/../js/package.json" "$here/../js/package-lock.json" "$place/"
            (cd "$place" && npm ci --silent --no-audit --no-fund)
            run_javascript() { node notes.mjs "$url"; }
            start_javascript() { node ../quickstart.mjs; }
            ;;
        python)
            python3 -m venv "$place/venv"
            "$place/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/../python/requirements.txt"
            run_python() { "$place/venv/bin/python" "$here/notes.py" "$url"; }
            start_python() { "$place/venv/bin/python" "$here/quickstart.py"; }
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

# What each prints on its first run; on the second the same once more.
declare -A users=([rust]="remote transaction replica" [javascript]="remote transaction replica" [python]="remote replica")
export TURSO_DATABASE_URL TURSO_AUTH_TOKEN=unused
for language in "${languages[@]}"; do
    # The slash at the end is for JavaScript, which takes the last segment for a file otherwise.
    TURSO_DATABASE_URL="${url%/}-$language/"
    mkdir "$place/$language"
    cd "$place/$language"
    expected=
    for round in 1 2; do
        expected+="${users[$language]} "
        seen=$("start_$language" | tr '\n' ' ')
        if [ "$seen" != "$expected" ]; then
            printf 'quick start of %s, round %s: expected\n%s\nbut it says\n%s\n' \
                "$language" "$round" "$expected" "$seen" >&2
            exit 1
        fi
    done
done
echo "snippets: ${languages[*]} ran twice and see each other's notes, and their quick starts run"
