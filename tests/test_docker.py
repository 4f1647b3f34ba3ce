"""What can be known of docker/ without an engine: its files, commands, flags and versions."""

import re
import shlex
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
import yaml
from packaging.requirements import Requirement

from curate.cli import app
from curate.pipeline_file.config import load

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def manifests() -> dict[str, dict]:
    text = (DOCKER / "kuberay-rayjob.yaml").read_text()
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def parse(words: list[str]) -> None:
    """Let the command's own parser read its arguments; it raises where one is unknown."""
    from ray.scripts.scripts import cli as ray

    program, command, *arguments = words
    found = {"ray": ray, "curate": typer.main.get_command(app)}[program].commands[command]
    found.make_context(command, list(arguments))


def built(name: str) -> str:
    """The default of a build argument."""
    return re.search(rf"^ARG {name}=(\S+)$", DOCKERFILE, re.MULTILINE)[1]


def test_every_file_that_the_image_copies_is_there_and_not_ignored():
    kept = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [word for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE)
              for word in line.split()[:-1]]  # fmt: skip
    assert copied
    for name in copied:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in kept, name
    # What the build of the wheel reads beside the packages.
    assert {PROJECT["readme"], "pyproject.toml", "pipelines", "curate", "filters"} <= set(copied)


def test_the_image_has_what_the_package_asks_for():
    python = re.search(r"^FROM python:(\d+\.\d+)-", DOCKERFILE, re.MULTILINE)[1]
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python)
    extras = re.search(r"extras=([\w,]+)", DOCKERFILE)[1].split(",")
    extras += re.search(r"extras=\$extras,(\w+)", DOCKERFILE)[1].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    ray = next(r for r in map(Requirement, PROJECT["dependencies"]) if r.name == "ray")
    assert ray.specifier.contains(built("RAY"))
    # The RayJob tells KubeRay the version that is in the image, and it is the tested one.
    assert built("RAY").rpartition(".")[0] == version("ray").rpartition(".")[0]


def test_the_cluster_is_a_head_two_workers_and_a_store(compose):
    services = compose["services"]
    assert services["worker"]["deploy"]["replicas"] == 2
    for name, service in services.items():
        assert "ports" not in service, f"{name} listens on the host"
        for other in service.get("depends_on", {}):
            assert "healthcheck" in services[other], other
        if name != "store":
            file = DOCKER / service["build"]["context"] / service["build"]["dockerfile"]
            assert file.samefile(DOCKER / "Dockerfile")
            assert service["environment"]["AWS_ENDPOINT_URL"] == "http://store:9000"
    assert ":" in services["store"]["image"]


def test_every_command_of_the_cluster_parses(compose):
    services = compose["services"]
    for name in ("head", "worker"):
        parse(services[name]["command"])
    parse(services["head"]["healthcheck"]["test"][1:])
    shell, flag, script, _ = services["curate"]["entrypoint"]
    assert (shell, flag) == ("bash", "-c")
    join, _, then = script.partition(" > /dev/null && exec ")
    parse(shlex.split(join))
    assert then == 'curate "$$@"'  # $$: compose leaves one for the shell
    assert f"--port={join.partition(':')[2].split()[0]}" in services["head"]["command"]


def test_the_job_runs_a_pipeline_that_loads(manifests, tmp_path):
    job = manifests["RayJob"]["spec"]
    parse(shlex.split(job["entrypoint"]))
    (name, text), = manifests["ConfigMap"]["data"].items()  # fmt: skip
    assert job["entrypoint"].endswith(f"/{name}")
    (tmp_path / name).write_text(text)
    run = load(str(tmp_path / name)).config.run
    assert (run.address, run.steps["clip"].gpus) == ("auto", 1)


def test_the_jobs_pods_fit_the_image(manifests):
    cluster = manifests["RayJob"]["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == built("RAY")
    head = cluster["headGroupSpec"]["template"]["spec"]
    (mount,) = head["containers"][0]["volumeMounts"]
    (volume,) = head["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert manifests["RayJob"]["spec"]["entrypoint"].split()[-1].startswith(mount["mountPath"])
    groups = [head, *(group["template"]["spec"] for group in cluster["workerGroupSpecs"])]
    assert len({pod["containers"][0]["image"] for pod in groups}) == 1
    readme = (DOCKER / "README.md").read_text()
    for pod in groups:
        for source in pod["containers"][0]["envFrom"]:
            assert source["secretRef"]["name"] in readme  # the user has to make it
