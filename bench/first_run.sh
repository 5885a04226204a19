#!/usr/bin/env bash
# The first runs on a GPU machine that has torch, CuPy and little else; CONTRIBUTING.md says how. Nothing is fetched.
#
#   bench/first_run.sh          the tests, a profile, then the benchmark from what is worth most, within 330 s
#   bench/first_run.sh again    the benchmark goes on, within 410 s
#
#   PYTHON    python3
#   WHEELS    a folder of wheels to install first: .whl, where it is there
#   OUT       results, eight files of less than 16 MiB: build/first-run
#   PARTS     parts.tgz of the run before, where bench/parts did not stay
#   LIMIT     seconds of the run; TESTS: of its tests, 150; PROFILE: of ncu, 50
#   REHEARSE  not empty: the same steps without a GPU. See bench/rehearse.sh
set -u
cd "$(dirname "$0")/.." || exit
again=${1:-}
export PYTHON=${PYTHON:-python3} WHEELS=${WHEELS:-.whl} WORK
WORK=$(mktemp -d)
out=$(realpath -m "${OUT:-build/first-run}") end=${LIMIT:-$([ "$again" ] && echo 410 || echo 330)} code=0
export PYTHONUNBUFFERED=1 PYTHONPATH=$WORK/site${PYTHONPATH:+:$PYTHONPATH} NUMBA_CACHE_DIR=$WORK/numba
unset PYTHONDONTWRITEBYTECODE # every file of tests is a process: what one compiles, the next has

say() { echo "$SECONDS s: $*" | tee -a "$out/steps.txt"; }

step() { # NAME SECONDS: the function of that name, stopped after that time or at the end; its last lines; what it left
  local limit=$(($2 < end - SECONDS ? $2 : end - SECONDS)) status
  if ((limit < 10)); then
    say "no time for $1"
    code=1
    return 0
  fi
  LEFT=$((limit * 9 / 10)) timeout -s INT -k 10 "$limit" bash -c "$1" >>"$out/$1.log" 2>&1
  status=$?
  say "$1 ended with $status, in at most $limit s"
  tail -n 20 "$out/$1.log"
  keep
  ((status == 0)) || code=1
  return $status
}

keep() { # what must not be lost with the machine
  cp "$(ls bench/parts/RESULTS.md 2>/dev/null || echo bench/RESULTS.md)" "$out" # of this machine alone, where there is one
  tar czf "$out/parts.tgz" bench/parts
  tar czf "$out/logs.tgz" -C "$WORK" tests profile
  find "$out" -name '*.log' -size +15M -exec truncate -s 15M {} +
}

install() { "$PYTHON" -m pip install -q --disable-pip-version-check --no-index --no-deps "$@"; }

environment() {
  nvidia-smi
  if compgen -G "$WHEELS/*.whl"; then install --no-compile --no-cache-dir --target "$WORK/site" "$WHEELS"/*.whl; fi
  install --no-build-isolation --editable .
  "$PYTHON" -m pip list | grep -Ei 'torch|cupy|num|pillow|scikit-image|lightning|timm|h5py|pytest|setuptools'
  "$PYTHON" -m lim_gpu.cli doctor
}

tests() { "$PYTHON" tests/file_by_file.py --jobs $((($(nproc) + 1) / 2)) --seconds "$LEFT" --logs "$WORK/tests"; }

profile() { # details.txt: where each kernel waits; source.csv: at which of its instructions
  command -v ncu || return 0
  ncu --set full --clock-control none --profile-from-start off --kernel-name 'regex:^(ssim|mi|hash|intensity|prune)_' \
    --export "$WORK/profile/kernels" "$PYTHON" -m bench.profiled || return
  ncu --import "$WORK/profile/kernels.ncu-rep" --page details >"$WORK/profile/details.txt"
  ncu --import "$WORK/profile/kernels.ncu-rep" --page source --csv >"$WORK/profile/source.csv"
  grep -E '^  [a-z_]+ \(|Duration|Issue Slots Busy|Registers Per Thread' "$WORK/profile/details.txt"
}

benchmark() {
  "$PYTHON" -m pytest bench -q -m gpu -r fEs --tb=short -p no:cacheprovider --seconds "$LEFT" \
    -o timeout=120 -o timeout_method=thread
}

measured() { grep -ls '"skipped": ""' bench/parts/*.json | wc -l; }

unended() { grep -qs 'the run ended within it' bench/parts/*.json; }

benchmark_to_the_end() { # a part that hangs or takes the GPU from its process comes last the next time
  local before status
  while before=$(measured); do
    step benchmark 600
    status=$?
    if ((status < 2)) && ! unended || (($(measured) == before)); then return; fi
  done
}

trap 'rm -rf "$WORK"' EXIT
export -f install environment tests profile benchmark
mkdir -p "$out" "$WORK/tests" "$WORK/profile" bench/parts
[ -z "${PARTS:-}" ] || tar xzf "$PARTS" bench/parts
step environment 80
if [ -z "${REHEARSE:-}" ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  say "torch sees no GPU. REHEARSE=1 goes through the steps without one"
  exit 4
fi
if [ -z "$again" ]; then
  step tests "${TESTS:-150}"
  step profile "${PROFILE:-50}"
fi
benchmark_to_the_end
say "results in $out"
exit $code
