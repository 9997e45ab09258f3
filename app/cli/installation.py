"""Checks of `hydraulic doctor` that need this machine alone: software, settings, files, GPU."""

import ctypes
import difflib
import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from importlib import metadata, util
from pathlib import Path
from typing import NamedTuple

from dotenv import dotenv_values
from packaging.requirements import Requirement

from app.checkpoint.manifest import read_manifest
from app.checkpoint.node_cache import REGISTERED, local_directory
from app.core.errors import CheckpointError
from app.core.settings import PROJECT_DIR, Settings
from app.release.config.schema import ServeConfig
from app.release.target import open_config

PYTHON = (3, 11)
LEAST_GB, LOW_GB = 1.0, 5.0
LIMIT_S = 2.0
"""How long what holds a RayService may take to answer."""
PREFIX = "HYDRAULIC_"
OTHER_VARIABLES = ("HYDRAULIC_GIT_REVISION",)
"""Variables that are no settings: the revision of jobs that train on a cluster."""


class Level(StrEnum):
    """How bad a finding is; `broken` keeps the service from running."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


class Finding(NamedTuple):
    """What a check found, and what to do."""

    check: str
    level: Level
    message: str


def check_python() -> Iterator[Finding]:
    """Check the version of Python."""
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        least = ".".join(map(str, PYTHON))
        yield Finding(
            "python",
            Level.BROKEN,
            f"expected Python {least} or newer, found {version}: make a new environment",
        )
    else:
        yield Finding("python", Level.OK, version)


def check_packages() -> Iterator[Finding]:
    """Check the versions of the packages that the project requires, Ray among them."""
    wrong = []
    for text in metadata.requires("hydraulic-diagnostics") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = "none"
        if version == "none" or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} (found {version})")
    if wrong:
        yield Finding(
            "packages",
            Level.BROKEN,
            f"expected {', '.join(wrong)}: run `pip install --constraint constraints.txt "
            "--editable .`",
        )
    else:
        ray, own = metadata.version("ray"), metadata.version("hydraulic-diagnostics")
        yield Finding("packages", Level.OK, f"hydraulic-diagnostics {own}, ray {ray}")


def check_names() -> Iterator[Finding]:
    """Find variables of the environment and of `.env` that look like settings and are none."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {*OTHER_VARIABLES}
    file = PROJECT_DIR / ".env"
    places = (("the environment", os.environ), (".env", dotenv_values(file)))
    for place, names in places:
        for name in sorted(names):
            if name.upper().startswith(PREFIX) and name.upper() not in known:
                near = difflib.get_close_matches(name.upper(), sorted(known), 1)
                advice = f"did you mean {near[0]}?" if near else "remove it"
                yield Finding(
                    "settings",
                    Level.WARNING,
                    f"expected settings of this project in {place}, found {name}, which has no "
                    f"effect: {advice}",
                )


def check_config(settings: Settings) -> Iterator[Finding]:
    """Check the Serve configuration, the checkpoints of its releases, and the GPU it needs."""
    store = open_config(settings, retry_s=LIMIT_S)
    config = store.read().config
    releases = config.traffic.releases
    shown = ", ".join(f"version {each.version}: {each.weight:g} %" for each in releases)
    yield Finding("config", Level.OK, f"{store.name}, {shown}")
    for release in releases:
        checkpoint = config.model_args(release.application).checkpoint
        directory = local_directory(checkpoint, settings.var_dir)
        if checkpoint.startswith(REGISTERED) and not directory.exists():
            message = f"version {release.version} is fetched from the registry when it starts"
            yield Finding("weights", Level.OK, message)
            continue
        try:
            read_manifest(directory)
        except CheckpointError as error:
            message = f"version {release.version}: {error.message}"
            yield Finding("weights", Level.BROKEN, message)
        else:
            message = f"version {release.version}: the files match their manifest"
            yield Finding("weights", Level.OK, message)
    yield from _gpu(config)


def _gpu(config: ServeConfig) -> Iterator[Finding]:
    users = [
        application.name
        for application in config.applications
        if str(application.args.get("device", "")).startswith("cuda")
        or any(
            each.ray_actor_options is not None and each.ray_actor_options.num_gpus
            for each in application.deployments
        )
    ]
    if not users:
        return
    names, fault = ", ".join(users), cuda_fault()
    if fault is not None:
        yield Finding(
            "gpu",
            Level.BROKEN,
            f"expected a GPU with its driver for {names}, found {fault}: install NVIDIA's driver "
            "(`nvidia-smi` shows it), start on a node with a GPU, or set num_gpus: 0 and "
            "device: auto",
        )
    elif util.find_spec("torch") is None:
        yield Finding(
            "gpu",
            Level.BROKEN,
            f"expected torch for {names} on the GPU, found none: run `pip install --constraint "
            "constraints.txt --editable '.[gpu]'`",
        )
    else:
        yield Finding("gpu", Level.OK, f"a GPU with its driver for {names}")


def cuda_fault() -> str | None:
    """Return why CUDA finds no GPU here, None if it finds one; torch need not be installed."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no driver (libcuda.so.1)"
    count = ctypes.c_int()
    status = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    if status:
        return f"a driver that does not start (CUDA error {status})"
    return None if count.value else "no GPU"


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Check that the data directory can be written, and the space that is left."""
    place = settings.var_dir
    while not place.exists():
        place = place.parent
    fault = write_fault(place)
    free_gb = shutil.disk_usage(place).free / 1e9
    if fault is not None:
        yield Finding("disk", Level.BROKEN, f"expected to be able to write in '{place}', {fault}")
    elif free_gb < LEAST_GB:
        yield Finding(
            "disk",
            Level.BROKEN,
            f"expected at least {LEAST_GB:g} GB free for '{settings.var_dir}', found "
            f"{free_gb:.1f}: make room, or set HYDRAULIC_VAR_DIR",
        )
    else:
        is_low = free_gb < LOW_GB
        low = ": make room before long" if is_low else ""
        yield Finding(
            "disk",
            Level.WARNING if is_low else Level.OK,
            f"{free_gb:.1f} GB free for '{settings.var_dir}'{low}",
        )


def write_fault(place: Path) -> str | None:
    """Return why a directory can't be written and what to do, None if it can.

    A file without a name is made and is gone at once: rights alone say nothing to root.
    """
    try:
        with tempfile.TemporaryFile(dir=place):
            return None
    except OSError as error:
        if error.errno == errno.EROFS:
            return (
                "found a file system that is mounted read-only: mount it for writing (`mount -o "
                "remount,rw`), or set HYDRAULIC_VAR_DIR"
            )
        return f"found: {error.strerror}: change its owner, or set HYDRAULIC_VAR_DIR"
