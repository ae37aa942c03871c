"""The command that writes the tables of plugins' pages."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from cli.main import app
from cli.plugin_pages import BEGIN, END


def test_one_command_brings_pages_up_to_date(plugins: None, tmp_path: Path) -> None:
    page = tmp_path / "randomness.md"
    page.write_text(f"# Ours\n\n{BEGIN}\nold\n{END}\nTail\n")
    first, second = (_plugin_pages(tmp_path) for _ in range(2))
    assert (first.exit_code, "written anew" in first.stdout) == (0, True), first.output
    assert "up to date" in second.stdout
    text = page.read_text()
    assert text.startswith("# Ours\n")
    assert text.endswith(f"{END}\nTail\n")
    assert "`randomness.random-int`" in text
    page.rename(tmp_path / "unknown.md")
    third = _plugin_pages(tmp_path)
    assert third.exit_code == 2
    # In a box, and wrapped where the path of the folder has it.
    words = " ".join(third.stderr.replace("│", " ").split())
    assert "named as no plugin" in words


def _plugin_pages(folder: Path) -> Result:
    return CliRunner().invoke(app, ["plugin-pages", str(folder)])
