"""A systemd unit that serves the bundle's model over HTTP, with as few rights as it needs.

`systemd.exec(5)`, `systemd.resource-control(5)`. It runs as a user that exists only meanwhile, sees
no home folders, writes nowhere, and is stopped beyond the memory that the bundle's budgets allow.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdeploy.package.emission import Bundle, emitter
from kdeploy.package.runner.python.rules import allowances

THREADS = 16
"""Each of which may take memory: few small devices have more cores."""

_UNIT = """\
# sudo cp {folder}/deploy/systemd/{slug}.service /etc/systemd/system/
# sudo systemctl enable --now {slug}
[Unit]
Description={slug}: a model over HTTP on port {port}
After=network.target

[Service]
Type=exec
ExecStart={python} -I -B {folder}/deploy/http_server/serve.py --host {host} --port {port}
Restart=on-failure
RestartSec=2
MemoryMax={megabytes}M
TasksMax=128
DynamicUser=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectSystem=strict
ProtectHome=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_INET AF_INET6
RestrictNamespaces=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
UMask=0077

[Install]
WantedBy=multi-user.target
"""


@emitter(needs={"http_server"})
def systemd(
    bundle: Bundle,
    folder: Path,
    *,
    install_folder: Annotated[str, Field(pattern=r"^(/[\w.+@-]+)*$")] = "",
    python: Annotated[str, Field(pattern=r"^(/[\w.+@-]+)+$")] = "/usr/bin/python3",
    host: Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+$")] = "127.0.0.1",
    port: Annotated[int, Field(ge=1, le=65535)] = 8080,
) -> None:
    """Write the unit.

    Args:
        install_folder: Where the bundle lies on the device; left out, `/opt/NAME`.
        python: The program that runs it there, with numpy and the runner's library.
        host: The address that it listens on; 0.0.0.0 is all of them.
        port: Of TCP.
    """
    text = _UNIT.format(
        slug=bundle.slug,
        folder=install_folder or f"/opt/{bundle.slug}",
        python=python,
        host=host,
        port=port,
        megabytes=allowances(asdict(bundle.manifest), THREADS)[0],
    )
    (folder / f"{bundle.slug}.service").write_text(text)
