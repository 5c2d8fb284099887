"""What docker/ says, for tests that do it without containers: a Dockerfile read line by line, a compose file."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
COMPOSE = ROOT / "docker" / "compose.yaml"


@dataclass(frozen=True)
class Instruction:
    word: str
    rest: str


def instructions() -> list[Instruction]:
    """The Dockerfile's, without comments and flags such as --chown."""
    text = re.sub(r"\\\n", " ", DOCKERFILE.read_text())
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = [line.split(maxsplit=1) for line in lines]
    return [Instruction(word, re.sub(r"^(--[a-z]+=\S+ +)+", "", rest)) for word, rest in found]


def compose() -> dict[str, Any]:
    """The compose file, as YAML has it."""
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


def shell_command(service: str) -> str:
    """What the service's shell runs."""
    shell, flag, command = compose()["services"][service]["command"]
    assert (shell, flag) == ("bash", "-c")
    return str(command)


def default_command() -> list[str]:
    """The Dockerfile's CMD."""
    (command,) = [instruction.rest for instruction in instructions() if instruction.word == "CMD"]
    words: list[str] = json.loads(command)
    return words


@dataclass(frozen=True)
class Layer:
    """A RUN, and the folder in which it is to be run."""

    command: str
    folder: Path


def lay_out(root: Path) -> tuple[list[Layer], Path]:
    """Do every WORKDIR and COPY of the Dockerfile below `root`; return its RUNs, and its last WORKDIR."""
    folder, layers = root, []
    for instruction in instructions():
        if instruction.word == "WORKDIR":
            folder = root / instruction.rest.lstrip("/")
            folder.mkdir(parents=True, exist_ok=True)
        elif instruction.word == "COPY":
            *sources, target = shlex.split(instruction.rest)
            for source in sources:
                _copy(ROOT / source, folder / target)
        elif instruction.word == "RUN":
            layers.append(Layer(instruction.rest, folder))
        else:
            assert instruction.word in ("ARG", "FROM", "CMD"), instruction
    return layers, folder


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target / source.name if target.is_dir() else target)
