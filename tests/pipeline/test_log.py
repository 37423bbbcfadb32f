from __future__ import annotations

import json
import logging

import pytest

from kdeploy.pipeline.log import Log, NullListener, noted

PROGRESS = logging.getLogger("kdeploy.progress")


class Listener(NullListener):
    def __init__(self):
        self.notes = []

    def status(self, text):
        self.notes.append(text)


def test_progress_of_the_layers_below_becomes_notes():
    listener = Listener()
    with noted(listener):
        PROGRESS.info("step %d of %d", 1, 2)
    PROGRESS.info("nobody listens any more")
    assert listener.notes == ["step 1 of 2"]


def test_who_listened_is_gone_after_an_error():
    before = list(PROGRESS.handlers)
    with pytest.raises(KeyboardInterrupt), noted(Listener()):
        raise KeyboardInterrupt
    assert PROGRESS.handlers == before


def test_a_warning_of_the_layers_below_stays_to_be_read(tmp_path):
    log = Log(tmp_path / "log.jsonl", NullListener())
    with noted(log):
        logging.getLogger("kdeploy.training.any").warning("layer `%s` is slow", "a")
    (event,) = map(json.loads, log.path.read_text().splitlines())
    assert (event["event"], event["text"]) == ("said", "layer `a` is slow")
