#!/bin/sh
# Alternates trit and PyTorch on the study's model: bench/train/run.sh [PYTHON] [ROUNDS]. On a machine that does other work, compare
# tokens_per_cpu_s, which other programs disturb less. Then torch.compile, float32 backward products, full precision, and the
# parts of a step.
set -e
cd "$(dirname "$0")"
python=${1:-python3}
rounds=${2:-2}
bin=$(mktemp -d)
trap 'rm -rf "$bin"' EXIT
go build -o "$bin/train" .
for _ in $(seq "$rounds"); do
  "$bin/train" -steps 3
  "$python" torch_speed.py --steps 2
done
"$bin/train" -steps 3
"$python" torch_speed.py --steps 2 --compile || echo "torch.compile does not work here"
"$bin/train" -steps 3 -grad-precision f32
"$bin/train" -steps 3 -precision float
"$python" torch_speed.py --steps 2 --precision float
"$bin/train" -steps 6 -stages
