"""The model as bytes of a C program, for firmware that has no files.

`NAME.h` declares an array and its length, `NAME.c` holds the bytes: const, so that a linker leaves
them in flash, and aligned as interpreters ask (16 in LiteRT for Microcontrollers). C11 or C++11.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from kdeploy.errors import ModelError, RecipeError
from kdeploy.package.emission import Bundle, emitter

MOST_BYTES = 16 * 2**20  # of which a compiler makes an object file in seconds
BYTES_A_LINE = 16

_HEADER = """\
/* {name}: a model of format {format}, {size} bytes, SHA-256
   {sha256}. */
#ifndef {guard}
#define {guard}

#include <stddef.h>

#ifdef __cplusplus
extern "C" {{
#endif

#define {guard}_SIZE {size}u

extern const unsigned char {symbol}[{guard}_SIZE];
extern const size_t {symbol}_size;

#ifdef __cplusplus
}}
#endif

#endif
"""

_SOURCE = """\
#include "{symbol}.h"

#ifdef __cplusplus
#define {guard}_ALIGNED alignas({alignment})
#else
#define {guard}_ALIGNED _Alignas({alignment})
#endif

const size_t {symbol}_size = {guard}_SIZE;

{guard}_ALIGNED const unsigned char {symbol}[{guard}_SIZE] = {{
"""


@emitter()
def c_header(
    bundle: Bundle, folder: Path, *, alignment: Annotated[int, Field(ge=1, le=4096)] = 16
) -> None:
    """Write the header and the source.

    Args:
        alignment: Of the first byte, in bytes; a power of two.
    """
    if alignment & (alignment - 1):
        raise RecipeError(
            f"c_header: an alignment of {alignment} bytes is no power of two",
            hint="`c_header: {alignment: 16}` suits most interpreters",
        )
    _check(bundle)
    model = bundle.manifest.model
    symbol = re.sub(r"\W", "_", bundle.slug)
    words = {
        "name": bundle.slug,
        "symbol": symbol,
        "guard": symbol.upper(),
        "alignment": alignment,
        "size": model.size,
        "format": model.format,
        "sha256": model.sha256,
    }
    (folder / f"{symbol}.h").write_text(_HEADER.format(**words))
    with (folder / f"{symbol}.c").open("w") as source:
        source.write(_SOURCE.format(**words))
        source.writelines(_rows(bundle.model.read_bytes()))
        source.write("};\n")


def _check(bundle: Bundle) -> None:
    parts = sorted(path.name for path in bundle.folder.glob("model.*"))
    if len(parts) > 1:
        raise ModelError(
            f"c_header: the model is {len(parts)} files: {', '.join(parts)}",
            hint="a firmware takes one; leave `c_header` out",
        )
    if bundle.manifest.model.size > MOST_BYTES:
        raise ModelError(
            f"c_header: the model has {bundle.manifest.model.size} bytes, more than {MOST_BYTES}",
            hint="compress it further, or link the file itself: `ld -r -b binary model.*`",
        )


def _rows(content: bytes) -> Iterator[str]:
    for start in range(0, len(content), BYTES_A_LINE):
        yield f"{','.join(map(str, content[start : start + BYTES_A_LINE]))},\n"
