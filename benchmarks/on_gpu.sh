#!/bin/bash
# Checks and measures what needs a GPU, step by step; a step that fails or takes too long stops no other.
#
#     bash benchmarks/on_gpu.sh OUT [tests warm-official warm-ours precision engine tracker objects compact encoder ...]
#
# Steps that measure no time run beside each other; each of the others waits for these and runs alone.  OUT gets
# logs.tar.gz with one log for each step and all tables.  A compiler's results are kept in TORCHINDUCTOR_CACHE_DIR, so
# that after warm-official and warm-ours the tables are quick.  PYTHON: the interpreter.  QUICK=1: tiny settings, which
# try the script itself on any machine.
set -u -o pipefail
cd "$(dirname "$0")/.." || exit 2
out=${1:?where the results go}
shift
steps=("$@")
[ ${#steps[@]} -gt 0 ] || steps=(tests warm-official warm-ours precision engine tracker compact encoder)
python=${PYTHON:-python3}
work=${WORK:-$(mktemp -d)}
mkdir -p "$out" "$work"
export PYTHONUNBUFFERED=1 TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$work/inductor} XDG_CACHE_HOME=$work/cache
began=$SECONDS
background=()

pack() {
  (cd "$work" && find . -name '*.log' -o -name '*.csv' -o -name '*.png' | tar czf logs.part -T - 2>/dev/null) &&
    mv "$work/logs.part" "$out/logs.tar.gz"
}

# run NAME SECONDS COMMAND...: to a log; one line says how it ended
run() {
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout -k 5 "$limit" "$@" >"$work/$name.log" 2>&1 || code=$?
  local verdict=ok
  [ $code -eq 0 ] || verdict="FAILED ($code): $(grep -v '^\s*$' "$work/$name.log" | tail -1 | cut -c1-200)"
  echo "== $name: $((SECONDS - start)) s, $verdict"
}

if [ -n "${QUICK:-}" ]; then
  model=(--image-sizes 128 --device cpu) compact=(--image-sizes 128 --device cpu) device=(--device cpu)
  clip=(--frames 20 --rounds 1) frames=6 sizes=128 variants=bfloat16
  export_model=(--image-size 128) encoders=torch ours='ours bfloat16'
else
  model=(--model sam2.1_base_plus --image-sizes 1024) compact=() device=() clip=(--frames 48 --rounds 2)
  frames=200 sizes=320 variants="bfloat16 float16-encoder noise-1 compiled tensorrt tensorrt-compiled"
  export_model=() encoders=compiled ours='ours bfloat16, compiled'
fi
tracker=("$python" -m benchmarks.tracker --precisions bfloat16 --encoders "$encoders")
official='official bfloat16, compiled'
once=(--frames 20 --rounds 1)

step() {
  case $1 in
    tests) run tests 300 "$python" -m pytest -m gpu -rfEs -q --durations=12 -p no:cacheprovider \
      test/test_gpu.py test/test_staging.py ;;
    warm-official) run warm-official "${WARM_SECONDS:-420}" "${tracker[@]}" "${model[@]}" "${once[@]}" --objects 1 \
      --skip "$ours" "$ours + MoGA" ;;
    warm-ours) run warm-ours 300 "${tracker[@]}" "${model[@]}" "${once[@]}" --objects 1 4 \
      --skip "$official" ;;
    precision) run precision 200 "$python" -m benchmarks.precision "${device[@]}" --begins 2 11 --frames $frames --variants $variants \
      --out "$work/precision.csv" ;;
    engine) run engine 120 "$python" -m robust_pvos_ros.export.command "$work/encoder.onnx" "${export_model[@]}" \
      --precision float16 --engine ;;
    tracker) run tracker 240 "${tracker[@]}" "${model[@]}" "${clip[@]}" --objects 1 4 --camera 1280 720 \
      --out "$work/tracker" ;;
    objects) run objects 150 "${tracker[@]}" "${model[@]}" --frames 32 --rounds 1 --objects 8 \
      --out "$work/objects" ;;
    alone) run alone 200 "${tracker[@]}" "${model[@]}" "${clip[@]}" --objects 1 4 --camera 1280 720 --skip "$official" \
      --out "$work/alone" ;;
    compact) run compact 150 "${tracker[@]}" "${compact[@]}" "${clip[@]}" --objects 1 4 8 --out "$work/compact" ;;
    encoder) run encoder 90 "$python" -m benchmarks.encoder "${device[@]}" --image-sizes $sizes --out "$work/encoder" ;;
    *) echo "== $1: unknown step" ;;
  esac
}

for name in "${steps[@]}"; do
  case $name in
    tests | warm-official | warm-ours | precision | engine)
      step "$name" &
      background+=($!)
      ;;
    *)
      [ ${#background[@]} -eq 0 ] || wait "${background[@]}"
      background=()
      pack
      step "$name"
      pack
      ;;
  esac
done
[ ${#background[@]} -eq 0 ] || wait "${background[@]}"
pack
for table in $(find "$work" -name '*.csv' -not -path '*/inductor/*'); do
  echo "-- ${table#"$work"/}"
  cut -d, -f1-9 "$table"
done
echo "== all: $((SECONDS - began)) s; logs in $out/logs.tar.gz"
