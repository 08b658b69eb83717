#!/usr/bin/env bash
# Builds, tests and measures the CUDA kernels on a machine with an NVIDIA GPU, where torch, pytest and nvcc are there.
# No network is needed.
#
#   bash scripts/gpu_check.sh [FOLDER] [PART ...] [-- OPTIONS]
#
# FOLDER  where logs, records and tables go (default: $OUT, else runs/gpu)
# PART    build, test, sanitize, bench (the op), engine (training) (default: these five, in this order); profile: clocks of a
#         training step by phase, for which the extension is compiled once more, beside the checkout
# OPTIONS of the benchmark: of benchmarks.cuda.engine where PART is engine alone, such as --minutes 8 --pieces study,
#         else of benchmarks.cuda.lstm, such as --minutes 8 --groups anchors (default: --minutes 4; engine: 7)
#
# A compiled part that is in the checkout already and works is used as it is, since a machine may have neither compiler
# nor network; REBUILD=1 builds it anew.
#
# Environment: PYTHON, REBUILD, MAX_JOBS, TORCH_CUDA_ARCH_LIST (default: the GPU's own), NVCC_FLAGS, JOBS (tests at once; default
# 6), TOOLS (of compute-sanitizer; default: memcheck racecheck synccheck, the last one for the engine alone and where
# blocks form clusters), LIMIT (seconds that a part may take; default 580).
# A part that fails keeps no later one from running; the exit code is then 1.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

folder=""
parts=()
while [ $# -gt 0 ]; do
    case "$1" in
        build | test | sanitize | bench | engine | profile) parts+=("$1") ;;
        --) shift && break ;;
        -h | --help) sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "$0" && exit 0 ;;
        -*) echo "error: $1 is no option of this script; those of the benchmark come after --" >&2 && exit 2 ;;
        *)
            [ -z "$folder" ] || { echo "error: $1 is neither build, test, sanitize, bench, engine nor profile" >&2 && exit 2; }
            folder="$1"
            ;;
    esac
    shift
done
[ ${#parts[@]} -gt 0 ] || parts=(build test sanitize bench engine)
bench_options=(--minutes 4)
engine_options=(--minutes 7)
if [ $# -gt 0 ]; then
    if [ "${parts[*]}" = engine ]; then engine_options=("$@"); else bench_options=("$@"); fi
fi
folder="${folder:-${OUT:-runs/gpu}}"
mkdir -p "$folder" || exit 2
folder="$(cd "$folder" && pwd)"
limit="${LIMIT:-580}"
python="${PYTHON:-$(command -v python3 || command -v python)}" || { echo "error: no Python found" >&2 && exit 2; }

# The checkout is what is tested, whether pip could install it or the module was built in place.
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
# A system's own Python may ask for the second of these.
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore
export SEAM_FAST_BUILD=cuda SEAM_FAST_REQUIRE_EXT=1

limited() { # $1: seconds; the rest: a command
    timeout -k 10 "$@"
}

left() { # $1: seconds at most -> those of them that this part still has; fails where it has none
    local rest=$((limit - SECONDS + begin))
    echo $((rest < $1 ? rest : $1))
    [ "$rest" -gt 0 ]
}

ready() { # says why the CUDA kernels cannot be used
    "$python" -c "
import sys
from seam_fast.backend import unavailable_reason
reason = unavailable_reason('cuda')
sys.exit(f'error: the CUDA kernels cannot be used: {reason}' if reason else 0)"
}

already_built() { # says which compiled part is used, and where it may be of other sources
    local module newer
    module="$("$python" -c "
from seam_fast import _ext
print(_ext.C.__file__)")"
    echo "not built: $module works and is used; REBUILD=1 builds it anew"
    newer="$(find setup.py csrc -type f -newer "$module" 2>/dev/null | wc -l)"
    [ "$newer" -eq 0 ] || echo "warning: $newer source files are newer than it: if they were changed since, REBUILD=1"
}

do_build() {
    local seconds
    "$python" -c "
import torch
print('torch', torch.__version__, 'for CUDA', torch.version.cuda)
if torch.cuda.is_available():
    print(torch.cuda.get_device_properties(0))" || return 1
    nvidia-smi || true
    if [ -z "${REBUILD:-}" ] && ready; then
        already_built
        "$python" -m seam_fast info
        return
    fi
    TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$("$python" -c "
import torch
print('%d.%d' % torch.cuda.get_device_capability())")}" || return 1
    export TORCH_CUDA_ARCH_LIST MAX_JOBS="${MAX_JOBS:-$(nproc)}"
    export NVCC_FLAGS="${NVCC_FLAGS--Xptxas -v}" # registers and spills of each kernel, in the log
    echo "for $TORCH_CUDA_ARCH_LIST with $MAX_JOBS jobs"
    if ! limited "$limit" "$python" -m pip install -v --no-build-isolation --no-deps -e .; then
        echo "pip could not; building in place"
        seconds="$(left "$limit")" && limited "$seconds" "$python" setup.py build_ext --inplace || return 1
    fi
    "$python" -m seam_fast info
    ready
}

do_test() {
    ready || return 1
    local tests="$folder/tests" file functions=() name status=0
    rm -rf "$tests" && mkdir -p "$tests"
    for file in test_cuda test_cuda_streams test_cuda_engine test_cuda_cohort test_cuda_training; do # op, modules, bases
        if [ ! -e "tests/$file.py" ]; then
            echo "tests/$file.py is not there"
            continue
        fi
        for name in $("$python" -m pytest "tests/$file.py" -o addopts= --collect-only -q |
            sed -n 's/^.*\.py::\([A-Za-z0-9_]*\).*$/\1/p' | sort -u); do
            functions+=("$file.$name")
        done
    done
    [ ${#functions[@]} -gt 0 ] || { echo "error: no tests were found" && return 1; }
    # A process for each function: after an illegal access, or in a kernel that never ends, only its own cases are lost.
    # shellcheck disable=SC2016
    printf '%s\n' "${functions[@]}" | xargs -P "${JOBS:-6}" -I{} bash -c '
        left=$(($4 - $(date +%s)))
        [ "$left" -gt 0 ] || { echo "$2: not begun, the time was over" | tee "$3/$2.log" && exit 1; }
        timeout -k 10 "$((left < 240 ? left : 240))" \
            "$1" -m pytest -v -ra --tb=short -o addopts= -o faulthandler_timeout=120 -p no:cacheprovider \
            "tests/${2%%.*}.py::${2#*.}" >"$3/$2.log" 2>&1
        code=$?
        echo "$2: exit $code; $(tail -n 1 "$3/$2.log")"
        exit $code' _ "$python" {} "$tests" "$(($(date +%s) + $(left "$limit")))" || status=1
    for name in "${functions[@]}"; do
        grep -q "passed\|skipped\|failed\|not begun" "$tests/$name.log" ||
            echo "$name: ended by the time limit or a crash"
    done
    grep -h '^FAILED\|^ERROR\|GPU was lost' "$tests"/*.log | cut -c1-300
    cat "$tests"/*.log >"$folder/tests.log"
    return $status
}

do_sanitize() {
    ready || return 1
    local sanitizer status=0 place tool
    sanitizer="$(command -v compute-sanitizer)" || for place in "${CUDA_HOME:-/usr/local/cuda}/bin" \
        "${CUDA_HOME:-/usr/local/cuda}/compute-sanitizer" "$(dirname "$(command -v nvcc || echo .)")"; do
        [ ! -x "$place/compute-sanitizer" ] || { sanitizer="$place/compute-sanitizer" && break; }
    done
    if [ -z "$sanitizer" ]; then
        echo "skipped: compute-sanitizer was not found"
        return 0
    fi
    local tools="${TOOLS:-memcheck racecheck synccheck}"
    for tool in $tools; do
        [ "$tool" != synccheck ] || clusters || { echo "synccheck: left out, no clusters on this GPU" && continue; }
        sanitized engine "$tool" scripts/gpu_engine_tour.py 90 || status=1
    done
    for tool in $tools; do
        [ "$tool" = synccheck ] || sanitized op "$tool" scripts/gpu_tour.py 200 || status=1
    done
    return $status
}

clusters() { # whether blocks can form them
    "$python" -c "
import sys, torch
sys.exit(torch.cuda.get_device_capability() < (9, 0))"
}

sanitized() { # $1: of what; $2: a tool; $3: a script; $4: seconds at most
    local log="$folder/$1-$2.log" code seconds
    seconds="$(left "$4")" || { echo "$1, $2: not begun, the time was over" && return 1; }
    # Each tensor in memory of its own, or an access beyond its end lands in torch's pool and is not seen.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 limited "$seconds" "$sanitizer" --tool "$2" --error-exitcode 9 --print-limit 20 \
        "$python" "$3" >"$log" 2>&1
    code=$?
    echo "$1, $2: exit $code; $(grep 'SUMMARY' "$log" | tail -n 1)"
    return $code
}

do_bench() {
    limited "$limit" "$python" -m benchmarks.cuda.lstm --out "$folder/cuda_lstm.json" "${bench_options[@]}"
}

do_engine() {
    limited "$limit" "$python" -m benchmarks.cuda.engine --out "$folder/cuda_engine.json" "${engine_options[@]}"
}

do_profile() { # in a copy, so that what is measured elsewhere does not count its clocks
    local copy="$folder/profile" seconds
    mkdir -p "$copy" && cp -r setup.py pyproject.toml README.md csrc seam_fast scripts "$copy" || return 1
    rm -f "$copy"/seam_fast/_C*.so
    TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST:-$("$python" -c "
import torch
print('%d.%d' % torch.cuda.get_device_capability())")}" || return 1
    export TORCH_CUDA_ARCH_LIST MAX_JOBS="${MAX_JOBS:-$(nproc)}"
    (
        cd "$copy" || exit 1
        export CFLAGS="${CFLAGS:-} -DSEAM_PROFILE" NVCC_FLAGS="${NVCC_FLAGS:-} -DSEAM_PROFILE" PYTHONPATH="$copy"
        limited "$limit" "$python" setup.py build_ext --inplace >build.log 2>&1 || { tail -n 40 build.log && exit 1; }
        seconds="$(left 120)" && limited "$seconds" "$python" scripts/gpu_phases.py
    )
}

failed=()
for part in "${parts[@]}"; do
    echo "== $part"
    begin=$SECONDS
    "do_$part" >"$folder/$part.log" 2>&1
    code=$?
    tail -n 40 "$folder/$part.log"
    line="$part: $([ $code -eq 0 ] && echo "done" || echo "FAILED with exit code $code") after $((SECONDS - begin)) s"
    [ $code -eq 0 ] || failed+=("$part")
    echo "$line" | tee -a "$folder/summary.txt"
done
[ ${#failed[@]} -eq 0 ] || { echo "failed: ${failed[*]}; logs in $folder" && exit 1; }
