#!/usr/bin/env bash
# Time the forms of the MoD block that are not in the paper: small networks for the return (pays.py has their accuracy),
# and ResNet50- and 75-MoD. One process after the other. Takes 40 minutes on two cores; run nothing else.
set -eu
cd "$(dirname "$0")/results"
compare() { cnnmod compare "$@" --threads 2 --batch 1 8 >/dev/null; }

declare -A forms=(
  [paper]="order=score"
  [slots]="c=4 select=slots scale=input fuse_to=all"
  [static]="c=4 select=first scale=none fuse_to=all"
  [gated]="c=4 select=first scale=input fuse_to=all"
)
for form in "${!forms[@]}"; do
  # shellcheck disable=SC2086
  compare resnet18_cifar_mod --against resnet18_cifar --runtimes eager onnxruntime openvino --rounds 60 \
    --set ${forms[$form]} --out "resnet18_cifar-arm_$form.json"
done
for form in static gated; do
  # shellcheck disable=SC2086
  compare resnet50_mod resnet75_mod --runtimes eager compile --channels-last --rounds 20 --set ${forms[$form]} \
    --out "resnets-torch-$form.json"
  # shellcheck disable=SC2086
  compare resnet50_mod resnet75_mod --runtimes onnxruntime openvino openvino-bf16 --rounds 20 --set ${forms[$form]} \
    --out "resnets-runtimes-$form.json"
done
