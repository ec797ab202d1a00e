#!/bin/bash
# Four nodes share one study, which is resumed where it was stopped:
#
#   sbatch examples/cluster/slurm.sh study.yaml storage=postgresql+psycopg://prunetune@db.example/studies
#
# The study's folder (`runs`) is on a file system that all nodes share. The password is in ~/.pgpass.
#SBATCH --job-name=prunetune
#SBATCH --array=0-3
#SBATCH --gpus-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --time=04:00:00
# SIGTERM to this script so many seconds before the time is over: longer than an epoch takes.
#SBATCH --signal=B:TERM@600
# Pre-empted jobs go back into the queue. Their epochs until then are kept.
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=prunetune-%A_%a.log

trap 'kill -TERM "$!"' TERM # before there is anything to end: a signal may come at any time
prunetune run "$@" --workers "${SLURM_GPUS_ON_NODE:-1}" --stopped-code 75 &
worker=$!

wait "$worker"
code=$?
while kill -0 "$worker" 2>/dev/null; do # the signal ends the first wait, and the worker its epoch
  wait "$worker"
  code=$?
done
if [ "$code" -eq 75 ]; then # stopped before the study was done
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
