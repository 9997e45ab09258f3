"""Makes model servers of chosen versions misbehave, for `tests.bench.releases`.

That section puts this directory on the path of its replicas; Python imports a module of this name
at start. `MISBEHAVING` in the environment names versions as JSON:
`{"6": "raises", "9": "errs", "10": "sleeps"}`. Nothing else of the application is changed.
"""

import asyncio
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULE = "app.serving.model_server.deployment"
SLEEP_S = 0.15
CALLS_OF_AN_ERROR = 100


class _Finder:
    """Finds the module of the model server as Python does, and patches it after its import."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != MODULE:
            return None
        sys.meta_path.remove(self)  # type: ignore[arg-type]
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        run = spec.loader.exec_module

        def run_and_patch(module: ModuleType) -> None:
            run(module)
            misbehave(module.ModelServer, json.loads(os.environ["MISBEHAVING"]))

        spec.loader.exec_module = run_and_patch  # type: ignore[method-assign]
        return spec


def misbehave(server: Any, kinds: dict[str, str]) -> None:
    """Patch the model server class.

    Args:
        server: the class.
        kinds: by version: `raises` in the constructor, `errs` in one of 100 calls, `sleeps` in
            each call.
    """
    make, score = server.__init__, server.score

    def made(self: Any, *arguments: Any, **named: Any) -> None:
        make(self, *arguments, **named)
        self.kind, self.calls = kinds.get(self._checkpoint.manifest.version), 0
        if self.kind == "raises":
            raise RuntimeError("this version's constructor raises")

    async def scored(self: Any, call: Any) -> Any:
        self.calls += 1
        if self.kind == "sleeps":
            await asyncio.sleep(SLEEP_S)
        if self.kind == "errs" and self.calls % CALLS_OF_AN_ERROR == CALLS_OF_AN_ERROR // 2:
            raise RuntimeError("this version errs in one of 100 calls")
        return await score(self, call)

    server.__init__, server.score = made, scored


if "MISBEHAVING" in os.environ:
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
