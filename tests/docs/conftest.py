"""The maker of the pages, which is a script."""

import pytest
from pages import load_build


@pytest.fixture(scope="session")
def build():
    return load_build()
