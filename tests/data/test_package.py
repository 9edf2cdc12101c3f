import subprocess
import sys

import pytest

from latentslots import data


def test_every_name_exists_and_they_are_sorted() -> None:
    assert data.__all__ == sorted(data.__all__)
    for name in data.__all__:
        assert getattr(data, name).__name__ == name
    name = "nothing"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(data, name)


def test_importing_it_imports_no_heavy_package() -> None:
    heavy = "{'torch', 'datasets', 'numpy'}"
    code = f"import sys, latentslots.data; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
