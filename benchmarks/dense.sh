#!/usr/bin/env bash
# Segmentation and detection.
# time: time the paper's networks for Cityscapes and VOC on a CPU. Takes half an hour on two cores; run nothing else.
# train: train baseline, MoD network and control on CamVid and BCCD from scratch, two runs at a time with one thread each.
# If it is interrupted, call it again and it resumes. The results of the runs are kept in runs/dense, which is in git.
# Needs the data in ../shared/data or $CNNMOD_DATA.
#
#     benchmarks/dense.sh time
#     benchmarks/dense.sh train 0 1 2    # the seeds
set -eu
cd "$(dirname "$0")"
data=${CNNMOD_DATA:-$PWD/../../shared/data}

if [ "$1" = time ]; then
  cd results
  compare() { cnnmod compare "$@" --threads 2 --batch 1 >/dev/null; }
  compare fcn_resnet50_mod fcn_resnet75_mod fcn_resnet86_mod --size 512 1024 --channels-last --rounds 8 \
    --out fcn-eager-channels_last.json
  compare fcn_resnet75_mod fcn_resnet86_mod --size 512 1024 --runtimes onnxruntime openvino --rounds 8 \
    --out fcn-runtimes.json
  compare faster_rcnn_resnet50_mod faster_rcnn_resnet75_mod faster_rcnn_resnet86_mod --size 600 1000 --channels-last \
    --rounds 8 --out faster_rcnn-eager-channels_last.json
else
  shift
  export OMP_NUM_THREADS=1
  for seed in "$@"; do
    for recipe in camvid bccd; do
      for row in baseline control mod; do
        echo "$recipe --data $data/$recipe --row $row --seed $seed --out runs/dense/$recipe/$row-seed$seed"
      done
    done
  done | xargs -P 2 -L 1 cnnmod train --skip-broken --workers 0
  for recipe in camvid bccd; do
    cnnmod train "$recipe" --data "$data/$recipe" --out "runs/dense/$recipe" --rows baseline mod control --seeds "$@" \
      --skip-broken --workers 0
    cp "runs/dense/$recipe/accuracy.json" "results/$recipe.json"
  done
fi
