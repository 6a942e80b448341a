#!/usr/bin/env bash
# A real Slurm of one node with accounting, all of it in a folder of its own:
#   tests/cluster/slurm.sh up DIR     starts it; then: export SLURM_CONF=DIR/slurm.conf; sinfo
#   tests/cluster/slurm.sh down DIR   stops it
# Installs Debian's packages where they are missing, as root. Exit code 3: it cannot run here.
set -euo pipefail
action=$1 dir=$(realpath -m "$2")
ports=(16817 16818 16819 13306)
packages=(slurmctld slurmd slurmdbd slurm-client munge mariadb-server)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$dir/slurm.conf

refuse() { echo "$1" >&2; exit 3; }

install_packages() {
  for command in slurmctld slurmd slurmdbd munged mariadbd; do
    if ! command -v "$command" >/dev/null; then
      [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null ||
        refuse "$command is not installed: apt-get install ${packages[*]}"
      # Only the programs: the machine's own services are not to start.
      printf '#!/bin/sh\nexit 101\n' >"$dir/policy-rc.d" && chmod +x "$dir/policy-rc.d"
      [[ -e /usr/sbin/policy-rc.d ]] || { cp "$dir/policy-rc.d" /usr/sbin/; trap 'rm -f /usr/sbin/policy-rc.d' EXIT; }
      { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "${packages[@]}"; } >"$dir/apt.log" 2>&1 ||
        refuse "Debian's packages cannot be installed: $dir/apt.log"
      return
    fi
  done
}

wait_for() { # until a command succeeds, half a minute at most
  for _ in $(seq 150); do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
  echo "does not answer: $*; see the logs in $dir" >&2
  exit 1
}

write_settings() {
  local host cpus memory user
  host=$(hostname -s) user=$(id -un)
  read -r cpus memory < <(slurmd -C | sed -n 's/.*CPUs=\([0-9]*\).*RealMemory=\([0-9]*\).*/\1 \2/p')
  cat >"$dir/slurm.conf" <<CONF
ClusterName=greenlab
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
SlurmUser=$user
SlurmdUser=$user
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/linux
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort=${ports[2]}
AccountingStoragePass=$dir/munge.socket
ReturnToService=2
SlurmdTimeout=20
SchedulerType=sched/backfill
SchedulerParameters=requeue_setup_env_fail,batch_sched_delay=1
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
  cat >"$dir/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort=${ports[2]}
SlurmUser=$user
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=${ports[3]}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
PidFile=$dir/slurmdbd.pid
LogFile=$dir/slurmdbd.log
CONF
  chmod 600 "$dir/slurmdbd.conf"
}

up() {
  mkdir -p "$dir" && chmod 755 "$dir"
  install_packages
  mkdir -p "$dir"/{state,spool}
  [[ -e $dir/munge.key ]] || { head -c 128 /dev/urandom >"$dir/munge.key"; chmod 400 "$dir/munge.key"; }
  munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" \
    --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
  [[ -d $dir/mariadb ]] || mariadb-install-db --no-defaults --datadir="$dir/mariadb" \
    --user="$(id -un)" --auth-root-authentication-method=normal >"$dir/mariadb-install.log" 2>&1
  setsid mariadbd --no-defaults --datadir="$dir/mariadb" --user="$(id -un)" --port="${ports[3]}" \
    --bind-address=127.0.0.1 --socket="$dir/mariadb.socket" --pid-file="$dir/mariadbd.pid" \
    >"$dir/mariadbd.log" 2>&1 &
  local sql=(mariadb --no-defaults --socket="$dir/mariadb.socket" --user=root)
  wait_for "${sql[@]}" -e 'select 1'
  "${sql[@]}" -e "create database if not exists slurm_acct_db;
    create user if not exists 'slurm'@'127.0.0.1' identified by 'slurm';
    create user if not exists 'slurm'@'localhost' identified by 'slurm';
    grant all on slurm_acct_db.* to 'slurm'@'127.0.0.1';
    grant all on slurm_acct_db.* to 'slurm'@'localhost';"
  write_settings
  slurmdbd
  wait_for sacctmgr --noheader show cluster
  slurmctld -f "$dir/slurm.conf"
  wait_for scontrol ping
  slurmd -f "$dir/slurm.conf"
  wait_for sh -c 'sinfo --noheader --format=%T | grep -q idle'
  sinfo
}

down() {
  scancel --user="$(id -un)" >/dev/null 2>&1 || true
  for daemon in slurmd slurmctld slurmdbd mariadbd munged; do
    [[ -e $dir/$daemon.pid ]] || continue
    local pid
    pid=$(cat "$dir/$daemon.pid")
    kill "$pid" 2>/dev/null || continue
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  done
}

"$action"
