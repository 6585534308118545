#!/usr/bin/env bash
# CIFAR-10 with the recipe cifar10_fast: baseline, MoD network and control, several seeds. Two runs side by side, one
# thread each: 65 minutes a seed for two cores. Cut off, it goes on where it stopped: what runs came to is kept in
# runs/cifar10, also in git.
#
#     benchmarks/cifar10.sh [SEEDS]    # writes results/cifar10.json
set -eu
cd "$(dirname "$0")/.."
runs=benchmarks/runs/cifar10/rows
seeds=$(seq 0 $((${1:-3} - 1)))
data=${CNNMOD_DATA:-../shared/data}/cifar10
export OMP_NUM_THREADS=1

for seed in $seeds; do
  for row in baseline control mod; do
    echo "--row $row --seed $seed --out $runs/$row-seed$seed"
  done
done | xargs -P 2 -L 1 cnnmod train cifar10_fast --data "$data"
cnnmod train cifar10_fast --data "$data" --out "$runs" --seeds $seeds --rows baseline mod control
cp "$runs/accuracy.json" benchmarks/results/cifar10.json
