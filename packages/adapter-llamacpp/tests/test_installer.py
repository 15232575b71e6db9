"""Which installer is asked, and what it is asked for."""

from pathlib import Path

import pytest
from llama_orch_adapter_llamacpp._installer import _bytes_under, _size, counted, installer_command

INTO = Path("wheel")
UV = ["/opt/uv"]


def test_pip_comes_first() -> None:
    """Where there is pip, it downloads the wheel alone."""
    command = installer_command("/bin/python", "x==1", INTO, pip=True, uv=UV) or []

    assert command[:5] == ["/bin/python", "-P", "-m", "pip", "download"]
    assert command[-5:] == ["--no-deps", "--only-binary=:all:", "x==1", "-d", "wheel"]


def test_uv_where_there_is_no_pip() -> None:
    """Without pip, uv unpacks the wheel alone into the folder, for the Python that runs."""
    command = installer_command("/bin/python", "x==1", INTO, pip=False, uv=UV) or []

    assert command[:3] == ["/opt/uv", "pip", "install"]
    assert command[command.index("--python") + 1] == "/bin/python"
    assert command[-5:] == ["--no-deps", "--only-binary=:all:", "x==1", "--target", "wheel"]


def test_no_installer_no_command() -> None:
    """With neither there is no command."""
    assert installer_command("/bin/python", "x==1", INTO, pip=False, uv=None) is None


def test_what_came_is_counted_while_it_moves(tmp_path: Path) -> None:
    """All bytes under the folder are counted; a file that an installer moved away meanwhile counts nothing."""
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "part").write_bytes(bytes(100))
    (tmp_path / "whole").write_bytes(bytes(11))

    assert _bytes_under(tmp_path) == 111
    assert _size(tmp_path / "moved") == 0


@pytest.mark.parametrize(("here", "said"), [(60, 60), (40, 50), (0, 50), (100, 100), (200, 100)])
def test_what_has_come_never_shrinks_nor_passes_the_whole(here: int, said: int) -> None:
    """After 50 of 100 bytes, less is said as 50 and more than the whole as 100."""
    assert counted(50, here, 100) == said
