# shellcheck shell=bash disable=SC2034
# What is particular to your cluster and account. Copy this file to slurm/site.sh and change it:
#
#   cp slurm/site.example.sh slurm/site.sh
#   anynet submit configs/digits/demo.yaml --site slurm/site.sh --dry-run
#
# bash reads it: once on `anynet submit`, and again in each job and task. What is left empty is left to
# SLURM's own default; a name that is not below is refused. Variables that only jobs have, such as
# $SLURM_TMPDIR, may be used from "How it is stopped" on. Put no passwords or keys in here: they belong in
# your login's environment or in ~/.netrc (`wandb login` writes it).

# --- What the job asks for (read by `anynet submit`, which turns it into options of sbatch) ---

ANYNET_ACCOUNT=          # who pays; `sacctmgr show associations user=$USER` lists yours
ANYNET_PARTITION=        # the queue; `sinfo` lists them
ANYNET_QOS=              # quality of service, where your cluster uses it
ANYNET_TIME=04:00:00     # longest time of one start; a run that needs longer is resumed in the next
ANYNET_GPUS_PER_NODE=1   # such as 4, or a100:4 for a type (`sinfo -o %G` lists them); 0 for nodes without GPUs
ANYNET_GPU_OPTION=gpus-per-node # how your cluster expects the request: gpus-per-node or gres
ANYNET_CPUS_PER_GPU=4    # cores for each process: they decode images
ANYNET_MEMORY=           # of a node, such as 64G; a job with fewer GPUs asks for a part; empty: the default
ANYNET_SBATCH_OPTIONS=() # anything else, one word each: (--constraint=h100 --mail-type=END)

# --- How it is stopped and resumed ---

ANYNET_SIGNAL=USR1         # the signal before the time limit: USR1, USR2 or HUP
ANYNET_SIGNAL_SECONDS=180  # how long before; SLURM may send it up to a minute earlier
ANYNET_MAX_RESTARTS=20     # a job is queued again at most this many times; 0: never

# --- Where python comes from: one of venv, conda, container ---

ANYNET_MODULES=            # environment modules to load first, such as "gcc/12 cuda/12.6"
ANYNET_VENV=$PWD/.venv     # what `make setup` made, on a disk that all nodes see
ANYNET_CONDA_ENV=          # name or path of a conda environment
ANYNET_CONTAINER=          # an image (slurm/anynet.def makes one); then ANYNET_VENV= unless it is in the image
ANYNET_CONTAINER_RUNTIME=apptainer # apptainer, singularity, or pyxis (srun --container-image)
ANYNET_CONTAINER_MOUNTS=   # further folders, such as "/datasets:/datasets"
ANYNET_CONTAINER_OPTIONS=() # further options of `apptainer exec`, or of srun with pyxis, one word each

# --- How it runs ---

ANYNET_PROCESSES_PER_NODE= # default: one for each GPU of the job, and one on nodes without
# Launch with accelerate and this file of launch/ (DeepSpeed, FSDP) instead of torchrun. It gives its processes
# 30 seconds to save when a job must make room; torchrun, as it is started here, waits for them.
ANYNET_ACCELERATE_CONFIG=
ANYNET_PREFLIGHT=no        # yes: check GPUs, network and clocks of all nodes before the run starts

# A disk of the node itself to copy .beton files to, such as /scratch/$USER/anynet or /dev/shm/anynet-$USER
# (memory); empty: read them where they are. With KEEP=no the copies are removed when the job ends; do that
# in memory, and only if no other job uses the same folder.
ANYNET_STAGE_DIR=
ANYNET_STAGE_KEEP=yes

# Network and logging; see your cluster's documentation for what to set.
# export NCCL_SOCKET_IFNAME=ib0
# export NCCL_DEBUG=WARN
