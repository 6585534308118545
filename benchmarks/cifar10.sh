#!/usr/bin/env bash
# Train CIFAR-10 with the recipe cifar10_fast and several seeds: baseline, MoD network, control, and the MoD network with
# its channels in index order. Two runs at a time with one thread each take 85 minutes per seed on two cores. If it is
# interrupted, call it again and it resumes. The results of the runs are kept in runs/cifar10, which is in git.
#
#     benchmarks/cifar10.sh [SEEDS]    # writes results/cifar10.json and results/cifar10-order_index.json
set -eu
cd "$(dirname "$0")/.."
runs=benchmarks/runs/cifar10
seeds=$(seq 0 $((${1:-3} - 1)))
data=${CNNMOD_DATA:-../shared/data}/cifar10
export OMP_NUM_THREADS=1

for seed in $seeds; do
  for row in baseline control mod; do
    echo "--row $row --seed $seed --out $runs/rows/$row-seed$seed"
  done
  echo "--row mod --seed $seed --out $runs/order=index/mod-seed$seed --set config.order=index"
done | xargs -P 2 -L 1 cnnmod train cifar10_fast --data "$data"

train() { cnnmod train cifar10_fast --data "$data" --out "$runs/$1" --seeds $seeds "${@:2}"; }
train rows --rows baseline mod control
cp "$runs/rows/accuracy.json" benchmarks/results/cifar10.json
train order=index --rows mod --set config.order=index
cp "$runs/order=index/accuracy.json" benchmarks/results/cifar10-order_index.json
