#!/usr/bin/env bash
# A real Ray cluster of two nodes, a and b, on this machine:
#   tests/cluster/ray.sh up DIR BIN     starts it with BIN/python, which its cells have too; port 6399
#   tests/cluster/ray.sh down DIR BIN   stops it
set -euo pipefail
action=$1 dir=$(realpath -m "$2") ray=("$3/python" -m ray.scripts.scripts)
export RAY_DISABLE_IMPORT_WARNING=1 RAY_USAGE_STATS_ENABLED=0

start() { # each with one machine to give away, whatever the cores say
  "${ray[@]}" start --num-cpus=2 --resources='{"machine": 1}' --node-ip-address=127.0.0.1 \
    --disable-usage-stats "$@" >>"$dir/ray.log" 2>&1
}

up() {
  mkdir -p "$dir"
  start --head --port=6399 --node-name=a --include-dashboard=false --temp-dir="$dir/a"
  start --address=127.0.0.1:6399 --node-name=b
  "${ray[@]}" status --address=127.0.0.1:6399
}

down() { # its own processes: ray stop would end every cluster's on this machine
  pkill -KILL -f "$dir/a/|--gcs-address=127.0.0.1:6399" || true
}

"$action"
