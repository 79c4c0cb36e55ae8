"""A headless Chromium for the tests of this folder; they are skipped, with the reason, where there is none."""

import shutil

import pytest

from tests.browser.browser import Browser


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """One Chromium for all tests, driven by chromedriver."""
    pytest.importorskip("selenium", reason="selenium is not installed (requirements-dev.txt)")
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        pytest.skip("no chromium with chromedriver here: make install-chromium")
    opened = Browser(*programs, tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()
