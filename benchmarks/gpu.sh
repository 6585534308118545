#!/usr/bin/env bash
# Run gpu.py on a machine with a GPU that has torch but no access to the network, and pack what it wrote.
#
#     benchmarks/gpu.sh FOLDER --minutes 9    # writes FOLDER/gpu.tgz and FOLDER/gpu.log
#
# Packages that the machine lacks can be in .wheels/ (pip download --no-deps -d .wheels tyro docstring-parser typeguard),
# and the data sets in .data/ (.data/cifar100). Git ignores both folders. gpu.tgz is unpacked in the root of the
# repository. The script ends within 590 s, and a part that takes longer is lost.
set -u
out=$(realpath "$1")
shift
cd "$(dirname "$0")/.."
site=$(mktemp -d) python=${PYTHON:-python3}
if [ -d .wheels ]; then "$python" -m pip install -q --no-index --no-deps --target "$site" .wheels/*.whl; fi
if [ -d .data ]; then export CNNMOD_DATA=$PWD/.data; fi
export PYTHONPATH=$site:$PWD/src PYTHONUNBUFFERED=1
timeout --signal=INT --kill-after=5 580 "$python" benchmarks/gpu.py "$@" 2>&1 | tee "$out/gpu.log"
status=${PIPESTATUS[0]}
find benchmarks/results benchmarks/runs -newer "$site" -name '*.json' \
  \( -path '*/results/*' -o -name result.json -o -name run.json \) -print0 |
  tar czf "$out/gpu.tgz" --null -T -
exit "$status"
