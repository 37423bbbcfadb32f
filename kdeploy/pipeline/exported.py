"""A model and one file of it: what tells the files apart, for people and for records."""

from __future__ import annotations

from dataclasses import dataclass

from kdeploy.artifact import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A model and one file of it."""

    model: Artifact
    file: Artifact

    @property
    def profile(self) -> str:
        """Return what tells it from other files of its model: its target and its encoding.

        Of an ONNX file that is the encoding alone; elsewhere `cpu` goes without saying.
        """
        encoding = str(self.file.manifest["parameters"].get("profile", ""))
        technique = str(self.file.manifest["technique"])
        if self.file.manifest["stage"] != "export" or technique == "onnx":
            return encoding
        unusual = "" if encoding == "cpu" else encoding
        return "-".join(dict.fromkeys(filter(None, (technique, unusual))))

    @property
    def file_name(self) -> str:
        """Return the name for people: the label, what is unusual about it, the suffix."""
        unusual = [self.profile] if self.profile not in ("", "cpu") else []
        return ".".join([self.model.label, *unusual]) + self.file.file.suffix
