"""Every global name that code of the package reads exists.

The linter's own rule takes the dimensions in annotations of arrays for names, and is off.
"""

import builtins
import dis
import importlib
import pkgutil
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import latentslots

MODULES = [
    module.name
    for module in pkgutil.walk_packages(latentslots.__path__, "latentslots.")
    if not module.name.endswith("__main__")
]


def global_names(code: types.CodeType) -> Iterator[str]:
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_GLOBAL":
            yield instruction.argval
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from global_names(constant)


@pytest.mark.parametrize("name", MODULES)
def test_every_global_name_exists(name: str) -> None:
    module = importlib.import_module(name)
    # Compiled from its source: a loader that checks types would keep its code for ordinary imports.
    assert module.__file__ is not None
    code = compile(Path(module.__file__).read_text(encoding="utf-8"), module.__file__, "exec")
    known = {*vars(module), *vars(builtins)}
    assert {*global_names(code)} <= known
