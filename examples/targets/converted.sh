#!/bin/sh
# Converts an ONNX file on this machine, measures the result on a board, prints what that prints.
#
#   converted.sh HOST FILE.onnx 'CONVERTER with $ONNX' 'COMMAND' [SECONDS]
#
# The converter starts in an empty folder. What it leaves there is sent to the board, and the command runs in it.
# $HERE is this script's folder. HOST - is this machine itself. A file is converted once, however often it is measured.
set -eu
host=$1 converter=$3 command=$4 seconds=${5:-100}
HERE=$(cd "$(dirname "$0")" && pwd)
ONNX=$(cd "$(dirname -- "$2")" && pwd)/$(basename -- "$2")
export HERE ONNX

cache=${XDG_CACHE_HOME:-$HOME/.cache}/prunetune/converted
mkdir -p "$cache"
find "$cache" -mindepth 1 -maxdepth 1 -mmin +360 -exec rm -rf {} +
made=$cache/$({ cat "$ONNX" && printf %s "$converter"; } | sha256sum | cut -c1-32).tar
if [ ! -f "$made" ]; then
    draft=$(mktemp -d "$cache/draft-XXXXXX")
    trap 'rm -rf "$draft"' EXIT
    mkdir "$draft/made"
    # What it says is told only when it fails: numbers in it are no latency.
    (cd "$draft/made" && sh -ec "$converter") >"$draft/log" 2>&1 || { tail -n 5 "$draft/log" >&2; exit 1; }
    tar -cf "$draft/tar" -C "$draft/made" .
    mv "$draft/tar" "$made"
fi
touch "$made"

on_board="
    folder=\$(mktemp -d) || exit
    trap 'rm -rf \"\$folder\"' EXIT
    cd \"\$folder\" && tar -xf - && timeout $seconds $command
"
if [ "$host" = - ]; then
    sh -c "$on_board" <"$made"
else
    ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" "$on_board" <"$made"
fi
