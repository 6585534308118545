#!/usr/bin/env bash
# Time two forms of the MoD block that are not in the paper in ResNet50- and 75-MoD. One process after the other. Takes
# half an hour on two cores; run nothing else.
set -eu
cd "$(dirname "$0")/results"
compare() { cnnmod compare resnet50_mod resnet75_mod "$@" --threads 2 --batch 1 8 --rounds 20 >/dev/null; }

declare -A forms=(
  [static]="c=4 select=first scale=none fuse_to=all"
  [gated]="c=4 select=first scale=input fuse_to=all"
)
for form in "${!forms[@]}"; do
  read -ra changes <<<"${forms[$form]}"
  compare --runtimes onnxruntime openvino openvino-bf16 --set "${changes[@]}" --out "resnets-runtimes-$form.json"
  compare --runtimes eager compile --channels-last --set "${changes[@]}" --out "resnets-torch-$form.json"
done
