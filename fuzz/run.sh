#!/bin/sh
# Runs the fuzz targets for FUZZ_SECONDS each (default 10) on the stable toolchain: fuzz/run.sh [TARGET...]
#   FUZZ_REMOTE=1 fuzz/run.sh   those of client, server and store as well, which take minutes to build
#
# With cargo-fuzz and a nightly toolchain, which adds the address sanitizer:
#   cargo +nightly fuzz run delta
# Findings stand in fuzz/artifacts/TARGET, the corpus in fuzz/corpus/TARGET.
set -eu
cd "$(dirname "$0")"
seconds=${FUZZ_SECONDS:-10}
[ "$seconds" -gt 0 ] 2>/dev/null || seconds=10
target_dir=${CARGO_TARGET_DIR:-$PWD/target}
host=$(rustc -vV | sed -n 's/^host: //p')
remote="arrival libsql info_file"
all=$(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"/\1/p' Cargo.toml)
features=
if [ "${FUZZ_REMOTE:-}" ]; then
    features="--features remote"
else
    for target in $remote; do all=$(echo "$all" | grep -vx "$target"); done
fi
targets=${*:-$all}

cargo run --quiet --bin seeds -- corpus

# What cargo-fuzz passes, less the sanitizer. The explicit --target keeps the flags away from build
# scripts and procedural macros, which have no fuzzer to link against.
bins=
for target in $targets; do bins="$bins --bin $target"; done
RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares" \
    cargo build --quiet --release --target "$host" $features $bins

for target in $targets; do
    echo "== $target, $seconds s"
    mkdir -p "corpus/$target" "artifacts/$target"
    # No decoder may hold more than its stated limits, which lie far below this.
    "$target_dir/$host/release/$target" "corpus/$target" -artifact_prefix="artifacts/$target/" \
        -max_total_time="$seconds" -max_len=8192 -timeout=5 -rss_limit_mb=512 \
        -print_final_stats=1 2>"artifacts/$target.log" || {
        tail -n 40 "artifacts/$target.log"
        echo "$target: found something, see fuzz/artifacts/$target" >&2
        exit 1
    }
    sed -n 's/^stat::\(number_of_executed_units\|peak_rss_mb\):/  \1/p' "artifacts/$target.log"
done
