"""The generated model: always the same bytes, written once and whole, agreeing with the emulator's text."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from sollol_agents.lab.emulator import text
from sollol_agents.lab.engine import SIZES, EngineConfig, EngineUnavailableError, ensure_model, run_engine, write_model
from sollol_agents.lab.engine.__main__ import parse_config
from sollol_agents.lab.engine.vocabulary import TokenKind, build_vocabulary, successors

TINY = SIZES["tiny"]


def test_the_emulator_follows_every_token_as_the_model_does() -> None:
    vocabulary = build_vocabulary(TINY.top_number)
    following = successors(vocabulary)
    for token, said, kind in zip(vocabulary.texts, following, vocabulary.kinds, strict=True):
        if kind is not TokenKind.BYTE:
            assert text.following(token) == vocabulary.texts[said], token


def test_the_emulator_cuts_every_word_of_the_model_as_one_token() -> None:
    vocabulary = build_vocabulary(TINY.top_number)
    whole = [
        token
        for token, kind in zip(vocabulary.texts, vocabulary.kinds, strict=True)
        if kind in {TokenKind.USER_DEFINED, TokenKind.CONTROL}
    ]
    assert all(text.tokenize(token) == ["<s>", token] for token in whole)


def test_a_model_is_written_once_and_always_alike(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    path = ensure_model(TINY, tmp_path / "first")
    written_at = path.stat().st_mtime_ns
    assert ensure_model(TINY, tmp_path / "first") == path
    assert path.stat().st_mtime_ns == written_at
    assert [entry.name for entry in path.parent.iterdir()] == [TINY.file_name]
    assert ensure_model(TINY, tmp_path / "second").read_bytes() == path.read_bytes()


def test_another_size_has_another_file() -> None:
    names = {size.file_name for size in SIZES.values()}
    names.add(msgspec.structs.replace(TINY, seed=2).file_name)
    assert len(names) == len(SIZES) + 1


def test_a_model_too_narrow_to_count_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ValueError, match="hidden=16 is too narrow"):
        write_model(msgspec.structs.replace(TINY, hidden=16), tmp_path / "narrow.gguf")


def test_a_model_cannot_be_written_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'sollol-bus\[engine\]'"):
        write_model(TINY, tmp_path / "model.gguf")


def test_the_engine_does_not_start_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'sollol-bus\[engine\]'"):
        run_engine(EngineConfig(cache_dir=str(tmp_path)))


def test_every_setting_of_the_engine_is_a_flag() -> None:
    config = parse_config(["--slots", "2", "--preset", "small", "--cache-dir", "x"])
    assert config == EngineConfig(slots=2, preset="small", cache_dir="x")
    with pytest.raises(msgspec.ValidationError, match="slots"):
        parse_config(["--slots", "0"])
