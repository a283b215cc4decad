#!/bin/sh
# How fast pretraining is on this machine, and what bounds it: all that docs/speed.md speaks of, in one log.
#
#   sh experiments/speed.sh runs/speed                             one GPU
#   PRESETS=base EACH=8 sh experiments/speed.sh runs/speed         half of it
#   PRESETS=nano BATCH=8 IMG_SIZE=64 COMPILE=false EACH=5 SUSTAINED=20 PATCHES=200 sh experiments/speed.sh runs/speed
#
# It needs torch, timm, safetensors and NumPy, not rasterio or papermill, and no data: the records are made here.

out=${1:-runs/speed}
mkdir -p "$out"
shape="--data=bigearthnet-v2 --img_size=${IMG_SIZE:-120} --patch_size=8 --batch_size=${BATCH:-256}"
each="--seconds ${EACH:-15}"
compile="--compile=${COMPILE:-true}"

bench() { # one measurement; where it fails the others are made all the same
    echo "# fmlib bench $*"
    "${PYTHON:-python3}" -m fmlib.cli bench "$@" || echo "# failed"
}

for preset in ${PRESETS:-base small}; do
    model="$shape --preset=$preset"
    bench sustained $model $compile --folder "$out/records" --patches "${PATCHES:-20000}" --seconds "${SUSTAINED:-180}"
    bench train $model $compile $each --against plain
    bench train $model $each
    if [ "${COMPILE:-true}" = true ]; then
        bench train $model $compile --compile_mode=reduce-overhead $each
        bench train $model $compile --compile_mode=blocks $each
        bench train $model $compile --precision=fp8 $each
    fi
done 2>&1 | tee "$out/speed.log"
bench attention $each 2>&1 | tee -a "$out/speed.log"
