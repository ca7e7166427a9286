#!/usr/bin/env bash
# A SLURM of one machine, for tests/test_slurm.py: slurm.sh FOLDER COMMAND ... starts it with its files
# in FOLDER, runs the command with SLURM's tools pointed there, and stops it. As root, with Debian's
# slurm-wlm and munge:
#
#   apt-get install slurm-wlm munge
set -euo pipefail
folder=$1
shift
host=$(hostname -s)
mkdir -p "$folder"/{spool,state}
# The daemons' own credentials, in the folder and not in /etc.
head -c 1024 /dev/urandom >"$folder/munge.key"
chmod 400 "$folder/munge.key"
cat >"$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
KillWait=1
InactiveLimit=0
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
END
export SLURM_CONF=$folder/slurm.conf
daemons=()
stop() { # the last started first: what slurmd has run still reports by way of the others
    for daemon in "${daemons[@]}"; do
        kill "$daemon" 2>/dev/null || true
        for _ in $(seq 20); do
            if ! kill -0 "$daemon" 2>/dev/null; then break; fi
            sleep 0.5
        done
        kill -9 "$daemon" 2>/dev/null || true
    done
}
trap stop EXIT
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" \
    --pid-file="$folder/munge.pid" --seed-file="$folder/munge.seed" >"$folder/munged.out" 2>&1 &
daemons=($! "${daemons[@]}")
slurmctld -D -f "$SLURM_CONF" >"$folder/slurmctld.out" 2>&1 &
daemons=($! "${daemons[@]}")
slurmd -D -f "$SLURM_CONF" >"$folder/slurmd.out" 2>&1 &
daemons=($! "${daemons[@]}")
for _ in $(seq 60); do
    if sinfo --noheader --format=%T 2>/dev/null | grep -qx idle; then break; fi
    sleep 1
done
sinfo --noheader --format=%T | grep -qx idle
"$@"
