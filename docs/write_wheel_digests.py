"""Write kdeploy/package/wheel_digests.json anew, of the versions that are installed here.

python docs/write_wheel_digests.py
"""

from __future__ import annotations

import json

from kdeploy import registry
from kdeploy.package.package_index import digests_of
from kdeploy.package.requirements import TABLE, pins_of

TOO_MUCH = {"torch"}
"""What a device that runs such a bundle has already: gigabytes, from an index of its own."""


def main() -> None:
    """Ask the index for what the runners of all kinds of bundles import."""
    kinds = [set(t.facts["libraries"]) for t in registry.techniques("bundle").values()]
    wanted = set[str]().union(*(kind for kind in kinds if not kind & TOO_MUCH))
    pins = pins_of(["numpy", *sorted(wanted)])
    TABLE.write_text(json.dumps(dict(sorted(digests_of(pins).items())), indent=1) + "\n")


if __name__ == "__main__":
    main()
