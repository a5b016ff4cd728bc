"""Who is told to ask for huge pages, and how."""

import pytest

from experiments.runs import huge_pages
from experiments.runs.huge_pages import VARIABLE, advice, asking

ON = {VARIABLE: "glibc.malloc.hugetlb=1"}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A CPU under Linux where huge pages are for those who ask, and nobody did."""
    monkeypatch.setattr(huge_pages, "SETTING", tmp_path / "enabled")
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: ("glibc", "2.35"))
    monkeypatch.delenv(VARIABLE, raising=False)
    huge_pages.SETTING.write_text("always [madvise] never\n")


def test_other_tunables_and_a_choice_made_before_stay():
    assert asking({}) == ON
    assert asking({VARIABLE: "", "HOME": "h"}) == ON | {"HOME": "h"}
    assert asking({VARIABLE: "glibc.cpu.x=1"}) == {VARIABLE: "glibc.cpu.x=1:glibc.malloc.hugetlb=1"}
    for given in ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=2:glibc.cpu.x=1"):
        assert asking({VARIABLE: given}) == {VARIABLE: given}


def test_the_advice_is_a_prefix_of_the_command(machine, monkeypatch):
    assert "note: GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before a command" in advice()
    monkeypatch.setenv(VARIABLE, "glibc.cpu.x=1")
    assert "note: GLIBC_TUNABLES=glibc.cpu.x=1:glibc.malloc.hugetlb=1 before a command" in advice()


def test_no_advice_to_who_asked(machine, monkeypatch):
    monkeypatch.setenv(VARIABLE, "glibc.malloc.hugetlb=0")
    assert advice() is None


@pytest.mark.parametrize("setting", ["[always] madvise never", "always madvise [never]", None])
def test_no_advice_where_asking_changes_nothing(machine, setting):
    huge_pages.SETTING.unlink() if setting is None else huge_pages.SETTING.write_text(setting)
    assert advice() is None


@pytest.mark.parametrize("library", [("glibc", "2.34"), ("musl", "1.2.5"), ("", "")])
def test_no_advice_where_the_c_library_has_no_such_tunable(machine, monkeypatch, library):
    monkeypatch.setattr(huge_pages.platform, "libc_ver", lambda: library)
    assert advice() is None


def test_no_advice_on_an_accelerator(machine, monkeypatch):
    monkeypatch.setattr(huge_pages.jax, "default_backend", lambda: "tpu")
    assert advice() is None
