"""A C compiler takes the emitted files, and the program holds the model byte for byte."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from kdeploy.errors import ModelError, RecipeError
from kdeploy.package.emission import Bundle
from kdeploy.package.emitters import c_header as module
from kdeploy.package.manifest import read_manifest

MAIN = """
#include "tiny.h"
#include <stdint.h>
#include <stdio.h>
int main(void) {
  if ((uintptr_t)tiny % 64 != 0 || tiny_size != sizeof tiny || tiny_size != TINY_SIZE) return 1;
  return fwrite(tiny, 1, tiny_size, stdout) == tiny_size ? 0 : 2;
}
"""


@pytest.mark.parametrize(
    ("compiler", "standard", "suffix"), [("cc", "c11", ".c"), ("c++", "c++11", ".cpp")]
)
def test_a_program_holds_the_model_byte_for_byte(
    emitted, tiny, tmp_path, compiler, standard, suffix
):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    folder = emitted("c_header", {"alignment": 64})
    source, main, program = (tmp_path / f"{n}{suffix}" for n in ("model", "main", "program"))
    shutil.copyfile(folder / "tiny.c", source)
    main.write_text(MAIN)
    strict = ["-Wall", "-Wextra", "-Wpedantic", "-Werror", f"-std={standard}"]
    command = [compiler, *strict, f"-I{folder}", source, main, "-o", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = subprocess.run([program], capture_output=True, check=False)
    assert ran.returncode == 0
    assert ran.stdout == tiny.path.read_bytes()


@pytest.mark.parametrize("name", ["3 Größen", "-*-", "A\nB"])
def test_any_name_becomes_an_identifier(emitted, name):
    folder = emitted("c_header", name=name)
    (header,) = folder.glob("*.h")
    assert header.stem.isidentifier()
    assert f"extern const unsigned char {header.stem}[" in header.read_text()


def test_an_alignment_is_a_power_of_two(emitted):
    with pytest.raises(RecipeError, match="24 bytes is no power of two") as caught:
        emitted("c_header", {"alignment": 24})
    assert "16" in caught.value.hint


def test_what_no_firmware_takes_is_refused(bundle, tmp_path, monkeypatch):
    held = Bundle(folder=bundle, manifest=read_manifest(bundle))
    with monkeypatch.context() as changed:
        changed.setattr(module, "MOST_BYTES", 100)
        with pytest.raises(ModelError, match="more than 100"):
            module.c_header(held, tmp_path)
    (bundle / "model.onnx.data").write_bytes(b"weights")
    with pytest.raises(ModelError, match=r"2 files: model\.onnx, model\.onnx\.data"):
        module.c_header(held, tmp_path)
