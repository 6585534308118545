#!/usr/bin/env bash
# ResNet50-, 75- and 86-MoD in the runtimes on a CPU, the paper's and with candidates=4, two of them also compiled and
# in INT8; one process after the other: an hour on two cores. Let nothing else run meanwhile.
set -eu
cd "$(dirname "$0")/results"
compare() { cnnmod compare "$@" --threads 2 --batch 1 8 >/dev/null; }

for config in "" candidates=4; do
  name=${config:+-${config//=/_}}
  changes=(${config:+--set "$config"})
  compare resnet50_mod resnet75_mod resnet86_mod --runtimes onnxruntime openvino openvino-bf16 --rounds 30 \
    "${changes[@]}" --out "resnets-runtimes$name.json"
  compare resnet50_mod resnet75_mod --runtimes eager compile --channels-last --rounds 40 "${changes[@]}" \
    --out "resnets-torch$name.json"
  compare resnet50_mod resnet75_mod --runtimes onnxruntime-int8 openvino-int8 --rounds 30 "${changes[@]}" \
    --out "resnets-int8$name.json"
done
