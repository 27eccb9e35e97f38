"""Secrets in files: they are taken as if they had been set, and whatever is wrong with a file is said by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.settings import Settings, SettingsError, load

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def _no_settings_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv("BASHD_" + name.upper(), raising=False)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_is_what_its_file_holds_without_the_newline(tmp_path: Path, end: str) -> None:
    """What an editor adds at the end is no part of token or URL."""
    (tmp_path / "token").write_text(TOKEN + end, newline="")
    (tmp_path / "url").write_text("postgresql://somebody@somewhere/x" + end, newline="")

    settings = load({"token_file": str(tmp_path / "token"), "database_url_file": str(tmp_path / "url")})

    assert settings.token is not None
    assert settings.token.get_secret_value() == TOKEN
    assert settings.database_url is not None
    assert settings.database_url.get_secret_value() == "postgresql://somebody@somewhere/x"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "token_file: .*No such file"),
        (b"\xff" * 20, "token_file: .*holds no text"),
        (b"x" * 70_000, "token_file: .*longer than any secret"),
        (b"short\n", "token: must have at least 16"),
    ],
)
def test_a_file_that_holds_no_secret_is_refused(tmp_path: Path, content: bytes | None, said: str) -> None:
    """Nothing is started with another secret than the one that was meant, nor with none."""
    if content is not None:
        (tmp_path / "token").write_bytes(content)

    with pytest.raises(SettingsError, match=said):
        load({"token_file": str(tmp_path / "token")})


def test_a_secret_and_its_file_together_are_refused(tmp_path: Path) -> None:
    """One of the two would be ignored, and nobody could tell which."""
    (tmp_path / "token").write_text(TOKEN)

    with pytest.raises(SettingsError, match="token_file: token is set as well"):
        load({"token_file": str(tmp_path / "token"), "token": "another-token-of-ours"})
