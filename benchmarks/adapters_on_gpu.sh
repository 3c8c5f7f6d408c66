#!/bin/bash
# Trains adapters and their rivals side by side on one GPU: a sweep of learning rates, then three seeds of each method
# at the rate of the lowest loss.  Meanwhile the official predictor and ours compile for SAM 2.1 B+; they are timed when
# the trainings are over.  Ends in ten minutes or less.
#
#     bash benchmarks/adapters_on_gpu.sh OUT
#
# OUT gets the adapters, the fine-tuned weights, all logs and the table of the tracker.  SWEEP: minutes of computing of a
# sweep's training; SECONDS_EACH: of the others; DEVICE; SETTINGS: further settings of all trainings; BENCH: options of
# benchmarks.tracker.  The defaults want an H200.
set -u
cd "$(dirname "$0")/.." || exit 2
out=${1:?where the results go}
python=${PYTHON:-python3} work=${WORK:-$(mktemp -d)}
mkdir -p "$out" "$work"
read -ra settings <<<"device=${DEVICE:-cuda} stages.0.passes=1 validate_clips=4 log_steps=5 validate_seconds=9999 \
  ${SETTINGS:-stages.0.size=320 stages.0.frames=6 stages.0.clips=8}"
read -ra bench <<<"${BENCH:---model sam2.1_base_plus --image-sizes 1024 --encoders compiled --objects 4 1 --camera 1280 720}"
train=("$python" -m benchmarks.ablations)
common=(--run "$work/run" --out "$work" --methods moga lora frame-wise fine-tuned --workers 12 --train-only)
# ATEN: the official settings try some twenty Triton kernels for each of some hundred matrix products, for many minutes
TORCHINDUCTOR_MAX_AUTOTUNE_GEMM_BACKENDS=ATEN TORCHINDUCTOR_COMPILE_THREADS=4 \
  "$python" -m benchmarks.tracker --precisions bfloat16 "${bench[@]}" --frames 48 --rounds 2 \
  --rehearse "$work/go" --out "$work/tracker" >"$work/tracker.log" 2>&1 &
timing=$!
say() { echo "== $SECONDS s: $*"; }

pack() {
  (cd "$work" && find . \( -name '*.log' -o -name log.txt -o -name '*.csv' -o -name tracker.png \) -print0 |
    tar czf "$out/logs.tar.gz" --null -T -)
}

"${train[@]}" sweep "${common[@]}" --steps 0 "stages.0.minutes=${SWEEP:-1.5}" "${settings[@]}" || say sweep failed
say sweep
(cd "$work/run" && ls -- *-100.safetensors | grep -v fine-tuned | tar cf "$out/sweep.tar" -T -)
"${train[@]}" methods "${common[@]}" --by-loss --seconds "${SECONDS_EACH:-140}" "${settings[@]}" || say methods failed
say methods
touch "$work/go"
(cd "$work/run" && ls -- *-[012].safetensors | grep -v fine-tuned | tar cf "$out/adapters.tar" -T -)
cp "$work"/run/fine-tuned*-[012].safetensors "$out"
pack
wait $timing || say tracker failed
pack
grep -v -i autotune "$work/tracker.log" | tail -30
say all
