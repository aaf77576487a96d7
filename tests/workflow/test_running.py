"""The lock of Snakemake: a killed run leaves it, and the next make removes it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from project import ROOT, call, copied, parsed

LOCKED = "Directory cannot be locked"
#: makes one small file, which needs the lock of the folder; even if another run has just made it
SETTINGS = ("-m", "snakemake", "--cores", "1", "--configfile", "config/smoke.yaml", "--force", "--")
SETTINGS += ("results/smoke/config/simulate.yaml",)
UNLOCK = ("-m", "studies.running")


@pytest.fixture
def project(tmp_path):
    return parsed(copied(tmp_path))


@pytest.fixture
def alive(project):
    """A run of the workflow that has locked its folder, with its jobs in one group."""
    command = [sys.executable, *SETTINGS[: SETTINGS.index("--")]]
    environment = os.environ | {"PYTHONPATH": str(project)}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    run = subprocess.Popen(command, cwd=project, env=environment, start_new_session=True, **quiet)
    locks = project / ".snakemake/locks"
    until = time.monotonic() + 120
    while not (locks.is_dir() and any(locks.iterdir())) and time.monotonic() < until:
        time.sleep(0.05)
    yield run
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_the_lock_of_a_killed_run_is_removed_and_that_of_a_live_one_stays(project, alive):
    locks = project / ".snakemake/locks"
    assert call(project, *UNLOCK).stdout == "" and any(locks.iterdir())
    assert LOCKED in call(project, *SETTINGS).stdout

    os.killpg(alive.pid, signal.SIGKILL)
    alive.wait()
    assert LOCKED in call(project, *SETTINGS).stdout
    assert "lock of a run that was killed is removed" in call(project, *UNLOCK).stdout
    answer = call(project, *SETTINGS)
    assert answer.returncode == 0, answer.stdout
    assert call(project, *UNLOCK).stdout == ""


@pytest.mark.parametrize("target", ["results", "smoke", "extended", "test"])
def test_make_unlocks_before_it_runs_the_workflow(target):
    command = ["make", "--dry-run", target]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert 0 < said.index("python -m studies.running") < said.index("bin/snakemake --cores")
