from __future__ import annotations

import pytest

from kdeploy.bench.ssh.hosts import Host, parse_host
from kdeploy.errors import InputError, UnknownName


def test_a_name_is_what_ssh_understands():
    assert parse_host("pi@10.0.0.7") == Host(name="pi@10.0.0.7")
    assert parse_host("pi@fe80::1") == Host(name="pi@fe80::1")
    assert parse_host("pi@10.0.0.7").slug == "pi@10.0.0.7"
    assert parse_host("ssh://pi@x:22").slug == "ssh-pi@x-22"
    assert parse_host("..").slug == "host"
    assert parse_host("../../a").slug == "-..-a"


def test_options_name_the_python_and_the_folder():
    host = parse_host("pi:python=~/venv/bin/python,folder=/mnt/ssd")
    assert host == Host(name="pi", python="venv/bin/python", folder="/mnt/ssd")


def test_what_ssh_would_take_for_an_option_is_no_name():
    for text in ("", "-oProxyCommand=x", "two words", ":python=x"):
        with pytest.raises(InputError, match="names no machine"):
            parse_host(text)


def test_an_option_that_does_not_exist_names_the_nearest():
    with pytest.raises(UnknownName, match="did you mean `python`"):
        parse_host("pi:pyton=x")
    with pytest.raises(InputError, match="has no value"):
        parse_host("pi:python=x,folder=")
