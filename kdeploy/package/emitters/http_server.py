"""A small HTTP server of the bundle's model: Python's standard library and the bundle's own runner.

`python deploy/http_server/serve.py`, then `curl --data-binary @item.npy localhost:8080/predict`.
"""

from __future__ import annotations

from pathlib import Path

from kdeploy.errors import ModelError
from kdeploy.package.emission import Bundle, emitter
from kdeploy.package.kinds import RUNNERS, technique_of


@emitter()
def http_server(bundle: Bundle, folder: Path) -> None:
    """Write the server, the same for all bundles: it reads the manifest."""
    form = bundle.manifest.model.format
    if technique_of(form).facts.get("prompt_tokens"):
        raise ModelError(
            f"http_server: a model of format `{form}` answers prompts, and the server takes items",
            hint="leave it out; `runner/python/run.py --prompt` answers one",
        )
    (folder / "serve.py").write_bytes((RUNNERS / "http" / "serve.py").read_bytes())
