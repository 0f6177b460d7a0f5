#!/usr/bin/env bash
# A Slurm of one node on the loopback, with one pretend GPU, for as long as a command runs: one_node.sh COMMAND...
# Needs root on Debian or Ubuntu. Installs slurm-wlm and munge if they are missing, and leaves them there; stops what it
# started, and puts back the configuration that it found. The command finds in $SLURM_TEST a folder with the daemons'
# logs and jobs.log, which has a line as each job begins and ends (its comment, the GPUs allocated to it) and as each of
# its processes begins (the GPUs that this may use).
set -euo pipefail

[ "$(id -u)" = 0 ] || { echo "error: Slurm's daemons need root here; run this as root in a container" >&2; exit 1; }
if pgrep -x slurmctld > /dev/null || pgrep -x slurmd > /dev/null; then
    echo "error: a Slurm is running on this machine already; this would start another" >&2
    exit 1
fi
folder=$(mktemp -d)
mkdir "$folder/state" "$folder/spool"
touch "$folder/jobs.log"
if ! type -P slurmctld slurmd munged > /dev/null; then
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge > "$folder/apt.log" 2>&1 \
        || { tail "$folder/apt.log" >&2; echo "error: apt-get found no Slurm; try apt-get update" >&2; exit 1; }
fi

started=()
stop() {
    status=$?
    for process in "${started[@]}"; do kill "$process" 2> /dev/null || true; done
    for process in "${started[@]}"; do wait "$process" 2> /dev/null || true; done
    for name in slurm.conf gres.conf; do
        rm -f "/etc/slurm/$name"
        [ ! -e "$folder/before-$name" ] || mv "$folder/before-$name" "/etc/slurm/$name"
    done
    if [ "$status" = 0 ]; then rm -r "$folder"; else echo "Slurm's logs: $folder" >&2; fi
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# In /etc/slurm, as the executor takes SLURM_* out of the environment of its jobs, SLURM_CONF among them.
mkdir -p /etc/slurm
for name in slurm.conf gres.conf; do
    [ ! -e "/etc/slurm/$name" ] || mv "/etc/slurm/$name" "$folder/before-$name"
done
host=$(hostname -s)
cat > /etc/slurm/slurm.conf <<CONF
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
Prolog=$folder/begin
Epilog=$folder/end
TaskProlog=$folder/process
PrologFlags=Alloc
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
GresTypes=gpu
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 Gres=gpu:1 State=UNKNOWN
PartitionName=all Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
for event in begin end process; do
    cat > "$folder/$event" <<LOG
#!/bin/sh
echo "$event \$(date +%s.%N) \$SLURM_JOB_ID comment=\$SLURM_JOB_COMMENT gpus=\$CUDA_VISIBLE_DEVICES" >> $folder/jobs.log
LOG
    chmod +x "$folder/$event"
done
echo "NodeName=$host Name=gpu Count=1 File=/dev/null" > /etc/slurm/gres.conf

if ! munge -n < /dev/null > /dev/null 2>&1; then
    install -d -o munge -m 755 /run/munge
    setpriv --reuid munge --regid munge --clear-groups munged --foreground --num-threads 2 > "$folder/munged.log" 2>&1 &
    started+=($!)
fi
slurmctld -D > /dev/null 2>&1 &
started+=($!)
slurmd -D > /dev/null 2>&1 &
started+=($!)
for _ in $(seq 100); do
    [ "$(sinfo --noheader --format %t 2> /dev/null)" = idle ] && break
    sleep 0.2
done
if [ "$(sinfo --noheader --format %t)" != idle ]; then
    tail "$folder"/*.log >&2
    echo "error: Slurm's node did not become idle" >&2
    exit 1
fi

SLURM_TEST=$folder "$@"
