"""What C writes to stderr is kept, and goes where it went before afterwards."""

from __future__ import annotations

import os

from kdeploy.system.native_output import native_errors


def test_keeps_what_goes_past_python(capfd):
    with native_errors() as said:
        os.write(2, b"from C\n")
        assert said() == "from C\n"
        os.write(2, b"more\n")
        assert said() == "from C\nmore\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_gives_the_stream_back_after_an_error(capfd):
    try:
        with native_errors():
            raise ValueError
    except ValueError:
        os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
