"""Where a setting comes from, which source is the stronger, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.settings import SettingsError, load


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory without any settings, and an environment without them."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_strongest_source_wins(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags before BASHD_*, these before .env, that before bashd.toml, and all before the default."""
    (empty / "bashd.toml").write_text('host = "127.0.0.5"\nport = 1\nmax_running = 11\nlog = "json"\n')
    (empty / ".env").write_text("BASHD_HOST=127.0.0.4\nBASHD_PORT=2\nBASHD_MAX_RUNNING=12\n")
    monkeypatch.setenv("BASHD_HOST", "127.0.0.3")
    monkeypatch.setenv("BASHD_PORT", "3")

    settings = load({"host": "127.0.0.2"})

    assert (settings.host, settings.port, settings.max_running, settings.log) == ("127.0.0.2", 3, 12, "json")
    assert settings.max_queued == 100_000


def test_lists_and_none_are_written_as_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commas part the members of a list; ``none`` is no limit."""
    monkeypatch.setenv("BASHD_ALLOWED_HOSTS", "a.example, b.example")
    monkeypatch.setenv("BASHD_DEFAULT_TIMEOUT_S", "none")

    settings = load({})

    assert settings.allowed_hosts == ["a.example", "b.example"]
    assert settings.default_timeout_s is None


def test_limits_are_words_or_a_table(empty: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``name=number`` with commas between, and a table in bashd.toml; no default may be above its maximum."""
    monkeypatch.setenv("BASHD_DEFAULT_LIMITS", "cpu_s=60, open_files=100")
    (empty / "bashd.toml").write_text("[max_limits]\ncpu_s = 3600\n")

    settings = load({})

    assert settings.default_limits == {"cpu_s": 60, "open_files": 100}
    assert settings.max_limits == {"cpu_s": 3600}
    with pytest.raises(SettingsError, match="default_limits: cpu_s is above"):
        load({"default_limits": "cpu_s=3601"})


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the token nor the database's address can be printed by accident."""
    monkeypatch.setenv("BASHD_TOKEN", "a-token-of-some-length")
    monkeypatch.setenv("BASHD_DATABASE_URL", "postgresql://u:a-password@h/d")

    shown = repr(load({}))

    assert "a-token-of-some-length" not in shown
    assert "a-password" not in shown


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BASHD_PORT", "80800", "port"),
        ("BASHD_PORT", "x", "port"),
        ("BASHD_MAX_LIMITS", "memory_bytes=1", "memory_bytes must be from"),
        ("BASHD_MAX_LIMITS", "memory=100", "there is no limit 'memory'"),
        ("BASHD_MAX_LIMITS", "cpu_s", "max_limits"),
        ("BASHD_MAX_LIMITS", "cpu_s=1,cpu_s=2", "names the same one twice"),
        ("BASHD_DEFAULT_LIMITS", "cpu_s=many", "default_limits"),
        ("BASHD_MAX_RUNNING", "0", "max_running"),
        ("BASHD_ON_SHUTDOWN", "wait", "on_shutdown"),
        ("BASHD_TOKEN", "short", "token"),
        ("BASHD_AUTH", "password", "auth"),
        ("BASHD_STATE_DIR", "", "state_dir"),
        ("BASHD_HOST", "", "host"),
        ("BASHD_DATABASE_URL", " ", "database_url"),
        ("BASHD_BASH", "/no/such/bash", "bash"),
        ("BASHD_MAX_RUNING", "5", "did you mean BASHD_MAX_RUNNING?"),
        ("BASHD_DEFAULT_TIMEOUT_S", "-1", "default_timeout_s"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, which names the setting."""
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as caught:
        load({})

    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_word_in_the_file_is_named(empty: Path) -> None:
    """A line of bashd.toml that means nothing is not passed over."""
    (empty / "bashd.toml").write_text("prot = 8080\n")

    with pytest.raises(SettingsError, match=r"bashd\.toml: prot: no such setting; did you mean port\?"):
        load({})


def test_no_authentication_is_for_loopback_alone() -> None:
    """Elsewhere it would let anybody run anything."""
    assert load({"auth": "none"}).auth == "none"
    with pytest.raises(SettingsError, match="loopback"):
        load({"auth": "none", "host": "0.0.0.0"})


def test_an_unknown_variable_in_the_env_file_is_named(empty: Path) -> None:
    """Those of other programs may stand there too."""
    (empty / ".env").write_text("DATABASE=other\nBASHD_MAX_RUNNING=3\n")
    assert load({}).max_running == 3

    (empty / ".env").write_text("BASHD_MAX_RUNING=3\n")
    with pytest.raises(SettingsError, match=r"\.env: BASHD_MAX_RUNING: .*did you mean BASHD_MAX_RUNNING\?"):
        load({})


@pytest.mark.parametrize("name", [".env", "bashd.toml"])
def test_a_file_that_is_not_text_is_named(name: str, empty: Path) -> None:
    """No traceback for an unreadable one."""
    (empty / name).write_bytes(b'\xff = "\xfe"\n')

    with pytest.raises(SettingsError, match=name):
        load({})


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2\n", "[port]\nx = 1\n", 'state_dir = "/a\\u0000b"\n'])
def test_a_wrong_file_is_one_line(text: str, empty: Path) -> None:
    """TOML that is none, and values that cannot be."""
    (empty / "bashd.toml").write_text(text)

    with pytest.raises(SettingsError, match=r"^[^\n]+$"):
        load({})


def test_without_a_home_the_state_directory_has_to_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user without a name has none; a relative path would be another one at each start."""
    monkeypatch.setattr("os.getuid", lambda: 54321)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    with pytest.raises(SettingsError, match="state_dir"):
        load({})

    assert load({"state_dir": "here"}).state_dir.is_absolute()
    monkeypatch.setenv("XDG_STATE_HOME", "/of/mine")
    assert load({}).state_dir == Path("/of/mine/bashd")
