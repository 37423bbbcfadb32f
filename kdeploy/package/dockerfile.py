"""Dockerfiles of a bundle: a pinned base, pinned wheels, a user without rights, a health check."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kdeploy.errors import RecipeError
from kdeploy.package.emission import Bundle
from kdeploy.package.manifest import StoredPreprocessing

IMAGE = r"[a-z0-9][a-z0-9._/-]*(:[0-9]+/[a-z0-9._/-]+)?(:[\w][\w.-]*|@sha256:[0-9a-f]{64})"
"""An image with a tag or a digest: what has neither is another one tomorrow."""
PILLOW = "12.0.0"  # reads image files; has wheels for Python 3.10 to 3.14 and both processors
USER = 10001  # above what distributions give to users of their own

_TEXT = """\
# docker build -f deploy/{place}/Dockerfile -t {slug} .
# docker run --rm -p {port}:{port} --read-only --tmpfs /tmp --cap-drop ALL {slug}
# docker run --rm {slug} {python} /bundle/runner/python/run.py --self-test
FROM {base}
{before}RUN {python} -m pip install --no-cache-dir --only-binary=:all: \\
    {wheels}
COPY . /bundle
USER {user}:{user}
EXPOSE {port}
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \\
    CMD ["{python}", "-I", "-B", "{server}", "--is-healthy", "--port", "{port}"]
CMD ["{python}", "-I", "-B", "{server}", "--host", "0.0.0.0", "--port", "{port}"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an image is made of."""

    base: str
    python: str
    """The program's name in the base."""
    versions: Mapping[str, str]
    """Of each library, as package indexes name it."""
    before: str = ""
    """Lines before the libraries are installed."""


def dockerfile(bundle: Bundle, image: Image, *, place: str, port: int) -> str:
    """Return the text of the Dockerfile in `deploy/PLACE`.

    Raises:
        RecipeError: the base is not pinned.
    """
    if re.fullmatch(IMAGE, image.base) is None or image.base.endswith(":latest"):
        raise RecipeError(
            f"{place}: `{image.base[:200]}` does not say which image it is tomorrow",
            hint=f"`{place}: {{base: NAME:TAG}}`, or better NAME@sha256:DIGEST",
        )
    has_images = _takes_images(bundle.manifest.preprocessing)
    versions = {**image.versions, **({"pillow": PILLOW} if has_images else {})}
    return _TEXT.format(
        place=place,
        slug=bundle.slug,
        base=image.base,
        before=image.before,
        python=image.python,
        server="/bundle/deploy/http_server/serve.py",
        port=port,
        user=USER,
        wheels=" \\\n    ".join(f"{name}=={version}" for name, version in versions.items()),
    )


def _takes_images(form: StoredPreprocessing | None) -> bool:
    """Return whether the runner reads image files for it, also where the graph takes pixels."""
    return form is not None and form.layout in ("NCHW", "NHWC") and form.shape[0] in (1, 3)
