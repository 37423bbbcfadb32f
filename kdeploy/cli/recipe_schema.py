"""`kdeploy recipe-schema`: the JSON Schema of recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdeploy.cli.options import Debug, Json
from kdeploy.cli.result import Result

if TYPE_CHECKING:
    pass


def recipe_schema(json: Json = False, debug: Debug = False) -> Result:
    """Print the JSON Schema of recipes, for editors."""
    import json as text

    from kdeploy.recipe.schema import json_schema

    schema = json_schema()
    if not json:
        from kdeploy.progress.screen import write

        write(text.dumps(schema, indent=2, default=str))
    return Result(schema)
