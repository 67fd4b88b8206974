#!/bin/bash
# 8 trainers and 24 engines on four 8-GPU nodes:  sbatch examples/cluster/ray.slurm.sh
#SBATCH --nodes=4 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 --time=24:00:00
# Slurm signals only this script, five minutes before the end: the trainers save a checkpoint.
# Submit the same script again to continue.
#SBATCH --signal=B:TERM@300
set -euo pipefail
run=runs/big
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" ray start --head --port=6379 --block &
sleep 20
srun --overlap --nodes=3 --ntasks=3 --exclude="$head" ray start --address="$head:6379" --block &
sleep 20
opsd launch copsd-qwen3-4b --address "$head:6379" --trainers 8 --engines 24 --output "$run" \
  --set 'train.async_rollouts={max_staleness: 2}' $(test -e "$run/metrics.jsonl" && echo --resume) &
launch=$!
trap 'kill -TERM $launch' TERM
# The first wait returns on the signal, the second when training has ended.
wait $launch || wait $launch
