#!/usr/bin/env bash
# Measure all results of eager PyTorch on a CPU, one process after the other. Takes about 15 minutes on two cores; run
# nothing else.
set -eu
cd "$(dirname "$0")/results"
compare() { cnnmod compare --threads 2 "$@" >/dev/null; }

# At batch 1 the MoD tax differs more between processes than between rounds, so five processes run and the median counts.
several=$(mktemp -d)
for number in 1 2 3 4 5; do compare resnet75_mod --batch 1 --rounds 80 --out "$several/$number.json"; done
python ../middle.py resnet75_mod-eager-batch1.json "$several"/*.json
compare resnet75_mod --batch 8 --rounds 40 --channels-last --out resnet75_mod-eager-batch8-channels_last.json
compare resnet75_mod --batch 8 --rounds 15 --train --out resnet75_mod-train-batch8.json
compare resnet50_mod resnet75_mod resnet86_mod --batch 1 --rounds 40 --out resnets-eager-batch1.json
compare resnet50_mod resnet75_mod resnet86_mod --batch 8 --rounds 15 --channels-last \
  --out resnets-eager-batch8-channels_last.json
compare resnet18_mod resnet26_mod --batch 1 8 --rounds 30 --channels-last --out resnet18s-eager-channels_last.json
compare resnet34_mod resnet42_mod --batch 1 8 --rounds 30 --channels-last --out resnet34s-eager-channels_last.json
compare resnet101_mod resnet152_mod --batch 1 8 --rounds 15 --channels-last --out resnet101s-eager-channels_last.json
compare mobilenetv2_mod mobilenetv2_mod_l --batch 1 8 --rounds 40 --channels-last \
  --out mobilenetv2-eager-channels_last.json
compare vgg16_bn_cifar_mod --batch 1 64 --rounds 40 --out vgg16_cifar-eager.json
compare convnext_tiny_mod --against convnext_tiny --batch 1 8 --rounds 20 --channels-last \
  --out convnext_tiny-eager-channels_last.json

demo=$(mktemp -d)
cnnmod demo --out "$demo" >/dev/null
cp "$demo/digits.json" digits-demo.json
cnnmod plot resnets-eager-batch1.json resnets-eager-batch8-channels_last.json --out ../../docs/figure.png
