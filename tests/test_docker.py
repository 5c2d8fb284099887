"""The files in docker/: checked as they are written, and every command in them run, without a container engine."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
import time
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from container_files import COMPOSE, DOCKERFILE, ROOT, compose, default_command, instructions, lay_out, shell_command
from ray_head import HEAD_IP, RayHead, await_http, ended_with_block, free_port, of_driver, ray_environment

WORKER_IP = "127.0.0.3"
PATIENCE_S = 240
RAY_PROGRAM = "import sys\n\nfrom ray.scripts.scripts import main\n\nsys.exit(main())\n"


# --- as they are written ----------------------------------------------------------------------------------


def test_the_compose_file_keeps_to_the_specification():
    compose_spec = pytest.importorskip("compose_spec")
    merged = yaml.safe_dump(compose())  # it does not know "<<"
    compose_spec.PyCompose.from_yaml(merged).validate()
    with pytest.raises(ValueError, match="depend_on"):
        compose_spec.PyCompose.from_yaml(merged.replace("depends_on:", "depend_on:"))


def test_the_dockerfile_passes_its_linter():
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint has no wheel for this machine")
    linted = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_has_a_ray_and_a_python_that_setup_cfg_allows():
    from packaging.specifiers import SpecifierSet

    ray, python = re.search(
        r"ARG RAY_VERSION=(\S+)\nFROM rayproject/ray:\$\{RAY_VERSION\}-py3(\d+)", DOCKERFILE.read_text()
    ).groups()
    settings = (ROOT / "setup.cfg").read_text()
    assert ray in SpecifierSet(re.search(r"ray\[default\](\S+)", settings)[1])
    assert f"3.{python}" in SpecifierSet(re.search(r"python_requires = (\S+)", settings)[1])
    assert f"Programming Language :: Python :: 3.{python}\n" in settings


def test_what_the_dockerfile_copies_is_there():
    for instruction in instructions():
        if instruction.word == "COPY":
            *sources, _ = instruction.rest.split()
            assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_cluster_is_a_head_two_workers_and_a_submitter():
    services = compose()["services"]
    assert list(services) == ["head", "worker", "submitter"]
    assert services["worker"]["deploy"]["replicas"] == 2
    for service in services.values():
        assert service["image"] == "sage-flow"
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert (COMPOSE.parent / service["build"]["context"] / service["build"]["dockerfile"]).samefile(DOCKERFILE)
        assert set(service.get("depends_on", {})) <= set(services)


def test_only_this_machine_reaches_the_ports():
    published = [port for service in compose()["services"].values() for port in service.get("ports", [])]
    assert published
    assert [port for port in published if not str(port).startswith("127.0.0.1:")] == []


def test_no_folder_is_made_by_the_builder_which_may_make_it_as_root():
    """Without BuildKit a WORKDIR that is not there belongs to root, and the image's user cannot build in it."""
    there, folder = {"/home/ray"}, "/"
    for instruction in instructions():
        if instruction.word == "WORKDIR":
            folder = str(PurePosixPath(folder, instruction.rest))
            assert folder in there, f"WORKDIR {folder} is made by nobody before it"
        elif instruction.word == "RUN" and instruction.rest.startswith("mkdir -p "):
            there |= {str(PurePosixPath(folder, name)) for name in instruction.rest.split()[2:]}


def console_blocks() -> list[list[str]]:
    """The commands of each block of docker/README.md, without their comments."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "docker" / "README.md").read_text(), re.DOTALL)
    return [[re.sub(r"\s+# .*", "", line[2:]) for line in block.splitlines()] for block in blocks]


def test_the_blocks_of_the_page_follow_one_another():
    """The cluster that the first block starts is there for the second, which ends it."""
    first, second, at_once = console_blocks()
    started = [command for command in first if " up " in command]
    assert [("--detach" in command, "--exit-code-from" in command) for command in started] == [(True, False)]
    assert started[0].split()[-2:] == ["head", "worker"]  # the submitter would run twice
    assert first[-1].endswith(" run --rm submitter")
    assert [command.endswith(" down") for command in second] == [False] * (len(second) - 1) + [True]
    published = compose()["services"]["head"]["ports"][0].rpartition(":")[0]
    assert all(f"--address http://{published}" in command for command in second if command.startswith("sage-flow"))
    assert [command for command in at_once if "--exit-code-from submitter" in command] == at_once


def test_every_file_that_the_page_names_is_there():
    words = [word for block in console_blocks() for command in block for word in command.split()]
    named = [word for word in words if word.startswith(("docker/", "jobs/"))]
    assert named
    assert [word for word in named if not (ROOT / word).exists()] == []


# --- as they run ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A folder laid out as the Dockerfile says, its RUNs run by a Python of its own, which finds what we have."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", root / "python"], check=True)
    (packages,) = (root / "python").glob("lib/python*/site-packages")
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")  # else pip would fetch Ray
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = os.pathsep.join([str(root / "python" / "bin"), environment["PATH"]])
    layers, project = lay_out(root)
    for layer in layers:
        subprocess.run(layer.command, shell=True, check=True, cwd=layer.folder, env=environment, timeout=PATIENCE_S)
    ray = root / "python" / "bin" / "ray"
    ray.write_text(f"#!{ray.with_name('python')}\n" + RAY_PROGRAM)
    ray.chmod(0o755)
    return {"environment": environment, "project": project, "packages": packages}


@pytest.mark.slow
def test_the_image_has_sage_flow_installed(image):
    told = run(default_command(), image["environment"], image["project"])
    assert told.startswith("usage: sage-flow")
    code = "import sage_flow, pathlib; print(pathlib.Path(sage_flow.__file__).parents[1])"
    assert run(["python", "-c", code], image["environment"], image["project"]).strip() == str(image["packages"])


@pytest.mark.slow
@pytest.mark.ray
def test_the_commands_of_the_services_are_a_cluster_that_runs_the_job(image, tmp_path):
    port, dashboard = free_port(), free_port()

    def here(command: str) -> str:
        """With addresses and ports of this machine in place of the containers'."""
        command = (
            command.replace("head:", f"{HEAD_IP}:").replace("0.0.0.0", HEAD_IP).replace("127.0.0.1:", f"{HEAD_IP}:")
        )
        return command.replace("6379", str(port)).replace("8265", str(dashboard))

    environment = {**ray_environment(str(tmp_path)), **image["environment"]}
    del environment["PYTHONPATH"]
    head = RayHead(f"{HEAD_IP}:{port}", f"http://{HEAD_IP}:{dashboard}", environment)
    healthcheck = compose()["services"]["head"]["healthcheck"]["test"]
    own = f"--object-store-memory={80 << 20} --min-worker-port=0 --max-worker-port=0"
    with contextlib.ExitStack() as stack:
        folder, apart = stack.enter_context(short_folder()), stack.enter_context(short_folder())
        first = f"--node-ip-address={HEAD_IP} --temp-dir={folder} --dashboard-port={dashboard} {ports()}"
        stack.enter_context(started(f"{here(shell_command('head'))} {first} {own}", environment, folder))
        await_http(head, head.environment["RAY_AUTH_TOKEN"])
        # In one folder the nodes would unpack what travels over each other's.
        second = f"--node-ip-address={WORKER_IP} --temp-dir={apart} {ports(client=False)}"
        stack.enter_context(started(f"{here(shell_command('worker'))} {second} {own}", environment, apart))
        assert healthcheck[0] == "CMD-SHELL"
        await_text(2, "ALIVE", here(healthcheck[1]), environment, tmp_path)
        report = run(["bash", "-c", here(shell_command("submitter"))], environment, image["project"])
    options = re.findall(r"--option \S+", shell_command("submitter"))
    alone = ["sage-flow", "run", "jobs/flights.py", *(word for option in options for word in option.split())]
    expected = run(alone, environment, image["project"])
    assert len(expected.splitlines()) > 5
    assert of_driver(report).endswith(expected)


def started(command: str, environment: dict[str, str], folder: str) -> Any:
    return ended_with_block(["bash", "-c", command], environment, folder)


@contextlib.contextmanager
def short_folder() -> Any:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="sfd-", ignore_cleanup_errors=True) as folder:
        yield folder


def ports(*, client: bool = True) -> str:
    agent = f"--dashboard-agent-listen-port={free_port()}"
    return f"{agent} --ray-client-server-port={free_port()}" if client else agent


def run(command: list[str], environment: dict[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def await_text(count: int, text: str, command: str, environment: dict[str, str], folder: Path) -> None:
    """Run a command until it succeeds and prints the text so many times."""
    until = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(command, shell=True, env=environment, cwd=folder, capture_output=True, text=True)
        if done.returncode == 0 and done.stdout.count(text) >= count:
            return
        assert time.monotonic() < until, done.stdout + done.stderr
        time.sleep(1)
