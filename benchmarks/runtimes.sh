#!/usr/bin/env bash
# Time ResNet50-, 75- and 86-MoD in the runtimes on a CPU, in the paper's form and with candidates=4; ResNet50- and 75-MoD
# also compiled and in INT8. One process after the other. Takes an hour on two cores; run nothing else.
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
