"""Settings: one frozen Struct per section, filled from flags, environment and a TOML file, checked once.

A section of settings is a config Struct with a name: `[scorer]` in the file, `SOLLOL_SCORER_*` in the environment,
one flag a field. A flag wins over the environment, the environment over the file, the file over the default. There
is no second place where a setting is declared: flags, help, environment names, ranges and the documents' tables
are all read off the Struct.
"""

from __future__ import annotations

import functools
import logging
import os
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec
import msgspec.inspect as mi

from sollol_agents.cli.settings.annotations import Shape, allowed_by, as_text, bare, description_of, shape_of
from sollol_bus.errors import ConfigError
from sollol_schemas.plain_words import in_plain_words

log = logging.getLogger(__name__)

T = TypeVar("T", bound=msgspec.Struct)

_ENV_PREFIX = "SOLLOL_"
_SECRETS = ("password", "secret", "token", "api_key", "api_keys")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """One setting, with all its names."""

    path: tuple[str, ...]
    """Names of the fields that lead to it, outermost first; one unless Structs are nested."""
    flag: str
    env: str
    also_env: str
    """Another name in the environment, which programs of former days have set; empty for none."""
    shape: Shape
    annotation: Any
    description: str
    allowed: str
    """The allowed values in words."""
    default: Any
    may_be_empty: bool
    """Whether an empty text is a value: not where the default of the Struct is another text."""

    @property
    def key(self) -> str:
        """The setting's name inside its section, as in the file."""
        return ".".join(self.path)

    @property
    def is_secret(self) -> bool:
        """Whether its value must never be shown."""
        return self.path[-1].endswith(_SECRETS)

    @property
    def default_text(self) -> str:
        """The default as one would write it; empty for none."""
        return as_text(self.default)


class Section(Generic[T]):
    """A named group of settings that fills one config Struct.

    Args:
        name: The table of the TOML file and the middle of the environment names.
        kind: The config Struct.
        flags: Flags that differ from the field's own name, by field.
        envs: Environment names that differ, by field.
        also: Further environment names, by field: they count where the first is not set.
        hidden: Fields that the program sets itself.
        flag_prefix: Put before every flag, where several sections share one command.
        defaults: Defaults that differ from the Struct's own, by field.
        words: Words that stand for values, by field: `high` for 8.
        is_flagged: Whether a command that takes this section has flags for it.
        elsewhere: Environment names that begin as this section's do, and are others' settings.
        is_kept: Whether environment and file have them too; False: they are options of one command.
    """

    def __init__(
        self,
        name: str,
        kind: type[T],
        *,
        flags: Mapping[str, str] | None = None,
        envs: Mapping[str, str] | None = None,
        also: Mapping[str, str] | None = None,
        hidden: tuple[str, ...] = (),
        flag_prefix: str = "",
        defaults: Mapping[str, object] | None = None,
        words: Mapping[str, Mapping[str, object]] | None = None,
        is_flagged: bool = True,
        elsewhere: Collection[str] = (),
        is_kept: bool = True,
    ) -> None:
        self.name = name
        self.kind = kind
        self.is_flagged = is_flagged
        self._is_kept = is_kept
        self._elsewhere = frozenset(elsewhere)
        self._defaults = dict(defaults or {})
        self._words = words or {}
        self._flags = flags or {}
        self._envs = envs or {}
        self._also = also or {}
        self._hidden = hidden
        self._flag_prefix = flag_prefix

    @functools.cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every setting; described when somebody asks, since most commands ask for few of the sections there are."""
        return tuple(self._describe(self.kind, ()))

    def load(
        self,
        flags: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        file: ConfigFile | None = None,
        *,
        displaced: Collection[str] = (),
        **fixed: object,
    ) -> T:
        """The checked Struct.

        Args:
            flags: Values given on the command line by setting key; None stands for not given.
            environ: The process's environment.
            file: The settings file.
            displaced: Settings that a flag of another section takes the place of: their default holds.
            fixed: Fields that the program sets itself.

        Raises:
            ConfigError: A value is unusable; the text names source, setting, value and allowed range.
        """
        if not self._is_kept:
            environ = file = None
        table = file.table(self.name) if file else {}
        _refuse_unknown(self, table, file)
        self._warn_unknown(environ or {})
        sources = _Sources(
            section=self.name,
            flags=flags or {},
            environ=environ or {},
            table=table,
            path=str(file.path) if file else "",
        )
        values: dict[str, Any] = {**self._defaults, **fixed}
        for setting in self.settings:
            if setting.key not in displaced and (found := sources.find(setting)) is not None:
                value, source = found
                value = self._words.get(setting.key, {}).get(str(value).lower(), value)
                _put(values, setting.path, _checked(setting, value, source))
        try:
            return msgspec.convert(values, self.kind, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[{self.name}]: {in_plain_words(str(error))}") from error

    def environ_of(self, value: T) -> dict[str, str]:
        """The environment from which another process loads the same Struct; settings without a value are left out."""
        texts = {s.env: as_text(functools.reduce(getattr, s.path, value)) for s in self.settings}
        return {name: text for name, text in texts.items() if text}

    def _warn_unknown(self, environ: Mapping[str, str]) -> None:
        # A warning only: container platforms inject variables named after services, SOLLOL_NODE_PORT among them.
        prefix = f"{_ENV_PREFIX}{self.name.upper()}_"
        known = {s.env for s in self.settings}
        for name in sorted(environ):
            if name.startswith(prefix) and name not in known and name not in self._elsewhere:
                log.warning("%s is not a setting and is ignored", name, extra={"action": "unknown_setting"})

    def _describe(self, kind: type[msgspec.Struct], outer: tuple[str, ...]) -> Iterator[Setting]:
        hints = typing.get_type_hints(kind, include_extras=True)
        for field in mi.type_info(kind).fields:  # type: ignore[attr-defined]  # a Struct has fields
            path = (*outer, field.name)
            if ".".join(path) in self._hidden:
                continue
            annotation = hints[field.name]
            inner = bare(annotation)
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                yield from self._describe(inner, path)
                continue
            yield self._setting(path, annotation, field)

    def _setting(self, path: tuple[str, ...], annotation: Any, field: mi.Field) -> Setting:  # noqa: ANN401 a type form
        key = ".".join(path)
        words = "_".join(path)
        default = self._defaults.get(key, field.default)
        if default is msgspec.NODEFAULT:
            default = None if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        allowed = ", ".join((allowed_by(field.type), *self._words.get(key, ())))
        return Setting(
            path=path,
            flag=self._flags.get(key, f"--{self._flag_prefix}{words.replace('_', '-')}"),
            env=self._envs.get(key, f"{_ENV_PREFIX}{self.name.upper()}_{words.upper()}") if self._is_kept else "",
            also_env=self._also.get(key, "") if self._is_kept else "",
            shape=shape_of(annotation),
            annotation=annotation,
            description=description_of(field.type),
            allowed=allowed,
            default=default,
            may_be_empty=not (isinstance(field.default, str) and field.default),
        )


def config_home() -> Path:
    """The per-user directory of settings."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "sollol"


class ConfigFile:
    """The settings file: TOML, one table a section.

    Raises:
        ConfigError: The file cannot be read or is not TOML.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        import tomllib  # noqa: PLC0415 most machines have no such file

        try:
            self._tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"--config {path}: {error.strerror or error}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {path} is not TOML: {error}") from error

    @classmethod
    def of_this_machine(cls) -> ConfigFile | None:
        """What `sollol fleet init` or `sollol join` wrote here, if it is there."""
        path = config_home() / "sollol.toml"
        return cls(path) if path.exists() else None

    def table(self, name: str) -> dict[str, Any]:
        """The table of one section; empty when the file has none."""
        table = self._tables.get(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{self.path}: [{name}] must be a table, not {table!r}")
        return table

    def refuse_unknown_sections(self, known: tuple[str, ...]) -> None:
        """Raises ConfigError when a table is no section, so that a typo is not silently ignored."""
        for name in self._tables:
            if name not in known:
                raise ConfigError(f"{self.path}: [{name}] is not a section; there are: {', '.join(known)}")


def _refuse_unknown(section: Section[Any], table: Mapping[str, Any], file: ConfigFile | None) -> None:
    known = {s.key for s in section.settings}
    for key in _leaves(table, known):
        if key not in known:
            names = ", ".join(sorted(known))
            raise ConfigError(f"{file.path if file else ''}: [{section.name}] has no setting {key!r}; it has: {names}")


def _leaves(table: Mapping[str, Any], known: set[str], outer: str = "") -> Iterator[str]:
    for name, value in table.items():
        key = f"{outer}{name}"
        if isinstance(value, dict) and key not in known:
            yield from _leaves(value, known, f"{key}.")
        else:
            yield key


class _Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where the values of one section may come from."""

    section: str
    flags: Mapping[str, object]
    environ: Mapping[str, str]
    table: Mapping[str, Any]
    path: str

    def find(self, setting: Setting) -> tuple[object, str] | None:
        """The value that wins and where it came from; None when the default holds."""
        value = self.flags.get(setting.key)
        if value is not None and value != []:
            return value, setting.flag
        for env in (setting.env, setting.also_env):
            if env in self.environ:
                return self.environ[env], env
        found: Any = self.table
        for name in setting.path:
            if not isinstance(found, dict) or name not in found:
                return None
            found = found[name]
        return found, f"[{self.section}] {setting.key} in {self.path}"


def _checked(setting: Setting, value: object, source: str) -> object:
    if value == "" and not setting.may_be_empty:
        raise ConfigError(f"{source} is empty: leave it out, or give it a value ({setting.allowed})")
    try:
        return msgspec.convert(_parsed(setting, value), setting.annotation, strict=False)
    except (msgspec.ValidationError, msgspec.DecodeError, ValueError) as error:
        shown = "(hidden)" if setting.is_secret else repr(value)
        raise ConfigError(f"{source}: {shown} cannot be used as {setting.key}; allowed: {setting.allowed}") from error


def _parsed(setting: Setting, value: object) -> object:
    """The value with its texts taken apart."""
    if setting.shape is Shape.MAP and not isinstance(value, dict):
        return dict(_pair(text) for text in _texts(value))
    if setting.shape is Shape.LIST:
        texts = _texts(value, is_json=isinstance(value, str) and value.lstrip().startswith("["))
        # a flag may repeat with one object each, or hold all of them
        many = [t.lstrip().startswith("[{") if isinstance(t, str) else False for t in texts]
        texts = [
            one for t, is_list in zip(texts, many, strict=True) for one in (_texts(t, is_json=True) if is_list else [t])
        ]
        return [msgspec.json.decode(t) if isinstance(t, str) and t.startswith("{") else t for t in texts]
    return value


def _texts(value: object, *, is_json: bool = False) -> list[Any]:
    if is_json and isinstance(value, str):
        return list(msgspec.json.decode(value, type=list[Any]))
    if isinstance(value, str):
        return [text.strip() for text in value.split(",") if text.strip()]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _pair(text: object) -> tuple[str, str]:
    name, equals, value = str(text).partition("=")
    if not equals or not name:
        raise ValueError("not KEY=VALUE")
    return name.strip(), value.strip()


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    for name in path[:-1]:
        values = values.setdefault(name, {})
    values[path[-1]] = value
