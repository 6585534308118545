#!/usr/bin/env bash
# CIFAR-10 with the recipe cifar10_fast: baseline, MoD network and control, then the MoD network with one choice of
# MoDConfig changed at a time; several seeds each. Two runs side by side, one thread each: many hours on two cores.
# Cut off, it goes on where it stopped: what runs came to is kept in runs/cifar10, also in git.
#
#     benchmarks/cifar10.sh [SEEDS]    # writes results/cifar10.json and results/cifar10-CHANGE.json
set -eu
cd "$(dirname "$0")/.."
runs=benchmarks/runs/cifar10
seeds=$(seq 0 $((${1:-3} - 1)))
data=${CNNMOD_DATA:-../shared/data}/cifar10
export OMP_NUM_THREADS=1
rows=(baseline control mod)
changes=(order=index select=first select=random candidates=4 candidates=16 residual=false order=index,c=4)
sets() { for change in ${1//,/ }; do printf 'config.%s ' "$change"; done; }

{
for seed in $seeds; do
  for row in "${rows[@]}"; do
    echo "--row $row --seed $seed --out $runs/rows/$row-seed$seed"
  done
done
for seed in $seeds; do
  for change in "${changes[@]}"; do
    echo "--row mod --seed $seed --out $runs/$change/mod-seed$seed --set $(sets "$change")"
  done
done
} | xargs -P 2 -L 1 cnnmod train cifar10_fast --data "$data"

collect() { cnnmod train cifar10_fast --data "$data" --out "$runs/$1" --seeds $seeds "${@:3}"; cp "$runs/$1/accuracy.json" "benchmarks/results/$2.json"; }
collect rows cifar10 --rows baseline mod control
for change in "${changes[@]}"; do
  collect "$change" "cifar10-${change//=/_}" --rows mod --set $(sets "$change")
done
