#!/bin/bash
# Train on two nodes with four GPUs each: sbatch recipes/slurm.sh plan.yaml runs/mine
# The numbers below and those of `sfumato fit` must agree. Start it again to go on after the time is over.
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=SIGTERM@120
set -euo pipefail

srun sfumato fit --config "$1" --num-nodes 2 --devices 4 --out "$2" --resume --quiet
