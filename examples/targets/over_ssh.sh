#!/bin/sh
# Measures an ONNX file on a board: sends it there, runs a command line on it, prints what that prints.
#
#   over_ssh.sh HOST FILE.onnx 'COMMAND with $ONNX' [SECONDS]
#
# A vendor's converter that runs on this machine goes before ssh, and its file is sent instead.
set -eu
host=$1 file=$2 command=$3 seconds=${4:-100}

# One connection does it all. The board ends a command that takes too long itself: ssh does not tell it to.
exec ssh -o BatchMode=yes -o ConnectTimeout=10 "$host" "
    folder=\$(mktemp -d) || exit
    trap 'rm -rf \"\$folder\"' EXIT
    export ONNX=\"\$folder/network.onnx\"
    cat >\"\$ONNX\" && timeout $seconds $command
" <"$file"
