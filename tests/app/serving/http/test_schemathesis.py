"""Requests that schemathesis makes from the OpenAPI document: answers are as it says.

All checks of schemathesis run, also those that follow an answer to further requests. The short form
is part of the suite. The long form, `make schemathesis`, makes 20,000 requests or more.
"""

import asyncio
import dataclasses
import os
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import uvicorn

from app.serving.http.app import build_api
from app.serving.http.auth import Authenticator
from app.serving.ingress.deployment import Service
from app.store.keys import new_secret
from app.store.store import Store

EXAMPLES = int(os.environ.get("SCHEMATHESIS_EXAMPLES", "3"))
LONGEST_S = 600 + 30 * EXAMPLES
"""Generous: the run takes a tenth of it on a machine that does nothing else."""
CONFIG = Path(__file__).with_name("schemathesis.toml")
HOOKS = Path(__file__).with_name("schemathesis_hooks.py")


@pytest.fixture
def key() -> str:
    """An admin key of the environment: no request can revoke it."""
    return new_secret()


@pytest.fixture
async def address(service: Service, store: Store, key: str) -> AsyncIterator[str]:
    """Address of the interface on a port of its own."""
    replica = dataclasses.replace(service, authenticator=Authenticator(store.find_key, key))
    config = uvicorn.Config(build_api(replica), port=0, lifespan="off", log_level="error")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def test_answers_are_as_the_document_says(address: str, key: str, tmp_path: Path):
    command = [
        *(Path(sys.executable).with_name("st"), "--config-file", CONFIG),
        *("run", f"{address}/openapi.json", "--url", address, "--checks", "all"),
        *("--max-examples", EXAMPLES, "--seed", 1, "--continue-on-failure", "--no-shrink"),
    ]
    environment = os.environ | {"SCHEMATHESIS_KEY": key, "SCHEMATHESIS_HOOKS": str(HOOKS)}
    running = await asyncio.create_subprocess_exec(
        *map(str, command),
        env=environment,
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(LONGEST_S):
            output = (await running.communicate())[0].decode().replace(key, "KEY")
    finally:
        if running.returncode is None:
            running.kill()
    print(output)
    assert running.returncode == 0, output
    (generated,) = re.findall(r"([\d,]+) generated", output)
    assert int(generated.replace(",", "")) >= 500 + 50 * EXAMPLES
