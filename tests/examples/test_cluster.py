"""The examples for clusters: their commands exist, and they hold together when a node is taken away."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from ruamel.yaml import YAML

from prunetune.search.cli import app
from prunetune.search.study.study_spec import StudySpec

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
SLURM, KUBERNETES = FOLDER / "slurm.sh", FOLDER / "kubernetes.yaml"

SBATCH = {
    "--job-name", "--array", "--gpus-per-node", "--cpus-per-task", "--time", "--signal", "--requeue", "--open-mode",
    "--output",
}  # fmt: skip
"""Options that sbatch has."""


def check_command(words: list[str]) -> dict[str, Any]:
    """Parses a command line as prunetune does; returns its parameters."""
    assert words[:2] == ["prunetune", "run"]
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    command = group.commands["run"]
    parsed = command.make_context("run", words[2:], resilient_parsing=False).params
    for override in parsed["overrides"] or ():
        key, equals, value = override.partition("=")
        assert equals, override
        assert key.partition(".")[0] in StudySpec.model_fields, override
        assert value
    return dict(parsed)


# SLURM


def test_the_script_is_one_and_its_options_exist() -> None:
    subprocess.run(["bash", "-n", SLURM], check=True)
    text = SLURM.read_text(encoding="utf-8")
    options = [re.split(r"[= ]", line)[1] for line in re.findall(r"^#SBATCH .*$", text, re.MULTILINE)]
    assert set(options) <= SBATCH
    first = text.index("\nprunetune ")
    assert text.rindex("\n#SBATCH") < first, "sbatch reads no options after the first command"
    assert os.access(SLURM, os.X_OK)


def test_the_command_of_the_script_exists() -> None:
    text = SLURM.read_text(encoding="utf-8")
    (line,) = re.findall(r"^(prunetune .*) &$", text, re.MULTILINE)
    (usage,) = re.findall(r"^#   sbatch \S+ (.*)$", text, re.MULTILINE)
    line = line.replace('"$@"', usage).replace('"${SLURM_GPUS_ON_NODE:-1}"', "2")
    parsed = check_command(shlex.split(line))
    assert parsed["stopped_code"] == 75
    assert parsed["workers"] == 2
    assert parsed["overrides"][0].startswith("storage=postgresql+psycopg://")


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with a `prunetune` that stops when told to, and a `scontrol` that notes what it is asked."""
    programs = {
        "prunetune": 'echo "$@" >> "$NOTES"\n'
        "trap 'echo stopping; exit 75' TERM\n"
        '[ -n "$DONE" ] && exit "$DONE"\n'
        "echo ready\nwhile true; do read -r -t 0.05 < /dev/zero; done\n",
        "scontrol": 'echo "scontrol $@" >> "$NOTES"\n',
    }
    for name, script in programs.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}")
        (tmp_path / name).chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "NOTES": str(tmp_path / "notes"),
        "SLURM_JOB_ID": "4711",
        "SLURM_GPUS_ON_NODE": "2",
        "DONE": "",
    }


def test_a_job_whose_time_is_over_goes_back_into_the_queue(cluster: dict[str, str]) -> None:
    with subprocess.Popen([SLURM, "study.yaml", "trials=9"], env=cluster, stdout=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "ready\n"
        job.send_signal(signal.SIGTERM)  # to the script alone, as --signal=B: does
        assert job.stdout.read() == "stopping\n"
    assert job.returncode == 75
    notes = Path(cluster["NOTES"]).read_text().splitlines()
    assert notes == ["run study.yaml trials=9 --workers 2 --stopped-code 75", "scontrol requeue 4711"]


@pytest.mark.parametrize("code", [0, 2])
def test_a_job_that_is_done_or_failed_does_not(cluster: dict[str, str], code: int) -> None:
    job = subprocess.run([SLURM, "study.yaml"], env={**cluster, "DONE": str(code)}, check=False)
    assert job.returncode == code
    assert "scontrol" not in Path(cluster["NOTES"]).read_text()


# Kubernetes


@pytest.fixture
def job() -> dict[str, Any]:
    (found,) = YAML(typ="safe", pure=True).load_all(KUBERNETES.read_text(encoding="utf-8"))
    return dict(found)


def test_the_command_of_the_pods_exists(job: dict[str, Any]) -> None:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert all(isinstance(word, str) for word in container["command"] + container["args"])
    parsed = check_command(container["command"] + container["args"])
    keys = {override.partition("=")[0] for override in parsed["overrides"]}
    assert {"storage", "runs"} <= keys, "what all pods share"
    assert parsed["stopped_code"] in job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"]


def test_a_pod_that_is_pre_empted_is_replaced(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec = job["spec"]
    pod = spec["template"]["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"], "each pod is one of the workers"
    assert pod["restartPolicy"] == "Never", "a podFailurePolicy needs it"
    assert [rule["action"] for rule in spec["podFailurePolicy"]["rules"]] == ["Ignore", "Ignore"]
    names = {rule.get("onExitCodes", {}).get("containerName", "worker") for rule in spec["podFailurePolicy"]["rules"]}
    assert names == {container["name"] for container in pod["containers"]}
    assert pod["terminationGracePeriodSeconds"] > 30, "an epoch takes longer than what Kubernetes waits by itself"


def test_the_pods_mount_what_their_command_names(job: dict[str, Any]) -> None:
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    paths = [word.partition("=")[2] or word for word in container["args"] if "/" in word and "://" not in word]
    assert paths
    assert all(path.startswith((*mounts.values(),)) for path in paths)


@pytest.mark.parametrize("file", [SLURM, KUBERNETES], ids=lambda file: file.name)
def test_no_password_stands_in_an_address(file: Path) -> None:
    for address in re.findall(r"postgresql\S+", file.read_text(encoding="utf-8")):
        assert not re.search(r"//[^/@]*:[^/@]*@", address), address
