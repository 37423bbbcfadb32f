"""A model and one file of it: what tells the files apart, for people and for records."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from kdeploy.store.artifact import Artifact

LONGEST_STEM = 100  # characters; file systems take 255 bytes
_NO_NAME = re.compile(r"[/\\\x00-\x1f\x7f]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model and one file of it."""

    model: Artifact
    file: Artifact
    variant: str = ""
    """What tells it from another file of its model that has the same target and encoding."""

    @property
    def profile(self) -> str:
        """Return what tells it from other files of its model: target, encoding and variant.

        Of an ONNX file the encoding stands alone; elsewhere `cpu` goes without saying.
        """
        return "-".join(filter(None, (self._target, self.variant)))

    @property
    def _target(self) -> str:
        encoding = str(self.file.manifest["parameters"].get("profile", ""))
        technique = str(self.file.manifest["technique"])
        if self.file.manifest["stage"] != "export" or technique == "onnx":
            return encoding
        unusual = "" if encoding == "cpu" else encoding
        return "-".join(dict.fromkeys(filter(None, (technique, unusual))))

    @property
    def file_name(self) -> str:
        """Return the name for people: the label, what is unusual about it, the suffix.

        The label may be that of somebody else's artefact: it stays the name of one file.
        """
        unusual = [self.profile] if self.profile not in ("", "cpu") else []
        stem = _NO_NAME.sub("-", ".".join([self.model.label, *unusual])).lstrip(".")
        suffix = self.file.file.suffix
        if suffix == f".{self.profile}":  # a target that is called like its suffix
            stem = stem.removesuffix(suffix)
        return (stem[:LONGEST_STEM] or "model") + suffix

    @property
    def name(self) -> str:
        """Return the file's name without its ending, for sentences."""
        return self.file_name.removesuffix(self.file.file.suffix)


def told_apart(files: Sequence[Exported]) -> list[Exported]:
    """Return the files with a variant where target and encoding are those of an earlier one."""
    found: list[Exported] = []
    for item in files:
        twins = [f for f in found if (f.model.id, f._target) == (item.model.id, item._target)]
        found.append(replace(item, variant=_difference(item, twins[0])) if twins else item)
    return found


def _difference(item: Exported, first: Exported) -> str:
    """Return the parameters in which a file differs from another, fit for a file's name."""
    own, others = (dict(x.file.manifest["parameters"]) for x in (item, first))
    changed = [f"{key} {own[key]}" for key in own if own[key] != others.get(key)]
    return "-".join(re.findall(r"[\w.]+", " ".join(changed)))
