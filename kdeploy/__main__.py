"""Run the command line as `python -m kdeploy`."""

from __future__ import annotations

from kdeploy.cli import main

if __name__ == "__main__":
    main()
