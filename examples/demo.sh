#!/usr/bin/env bash
# The whole way on an embedded data set: pictures -> model -> figures -> predictions. `make demo` runs it.
#
# Nothing is downloaded; it takes about a minute on two cores. Every line that starts with $ can be typed as it is.
# Give another folder than runs/demo as the first argument; further arguments go to `swinv2 train`.
set -euo pipefail

place=${1:-runs/demo}
shift || true
data=$place/digits
run=$place/digits-pico

run() {
    echo
    echo "\$ $*"
    "$@"
}

echo "1. Data: the handwritten digits inside scikit-learn, as a folder of pictures with one folder per class"
run swinv2 data prepare digits "$data"

echo
echo "2. Train: the smallest model, from random weights, at 32 x 32 pixels"
run swinv2 train "$data" --model swinv2_pico --recipe scratch_small --image-size 32 --output "$run" --overwrite "$@"

echo
echo "3. Evaluate: the held-out pictures, each counted once"
run swinv2 evaluate "$run/best.safetensors" "$data" --output "$run/evaluation"

echo
echo "4. Predict: one held-out picture of each digit, from its file"
run swinv2 predict "$data/samples" --model "$run/best.safetensors" --top-k 2

cat <<END

Made in $run:
  best.safetensors    the model: weights, preprocessing and class names in one file
  report.html         everything below on one page        checkpoints/    what --resume goes on from
  curves.png          loss and accuracy by epoch          confusion.png   what was taken for what
  augmented.png       a batch as the model sees it        predictions.csv every held-out picture
  metrics.jsonl       steps and epochs for programs       results.csv     epochs for spreadsheets
  recipe.yaml         all settings of this run            evaluation/     per class and per picture

Next, on a folder of your own with one folder of pictures per class:
  swinv2 train photos/                                         fine-tunes published weights (downloaded once)
  swinv2 train photos/ --recipe scratch_small --model swinv2_pico --image-size 64      starts from nothing
  swinv2 predict new.jpg --model runs/photos-swinv2_tiny_window8_256/best.safetensors
END
