"""From a name to a backend: one package, loaded alone, checked, and never another in its place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, PackageNotFoundError
from types import ModuleType

import pytest

from ojs_core import hookspecs, registry
from ojs_core.errors import BackendNotInstalledError, SettingsError
from ojs_core.memory import MemoryBackend
from ojs_core.registry import GROUP, backend_settings, installed_backends, load_backend
from ojs_core.variables import Setting


def install(monkeypatch: pytest.MonkeyPatch, **modules: str) -> None:
    """Let the installed entry points be `name=value` in the order given."""
    entries = [EntryPoint(name.partition("__")[0], value, GROUP) for name, value in modules.items()]

    def found(*, group: str) -> list[EntryPoint]:
        assert group == GROUP
        return entries

    monkeypatch.setattr(registry, "entry_points", found)


def module(monkeypatch: pytest.MonkeyPatch, name: str, **members: object) -> None:
    made = ModuleType(name)
    vars(made).update(members)
    monkeypatch.setitem(sys.modules, name, made)


def hook(make: Callable[..., object], name: str = "ojs_make_backend") -> object:
    make.__name__ = name
    return hookspecs.hookimpl(make)


def test_the_reference_backend_is_installed() -> None:
    assert "memory" in installed_backends()
    assert isinstance(load_backend("memory", {}), MemoryBackend)


def test_a_name_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, zebra="z", acme="a")
    with pytest.raises(BackendNotInstalledError) as caught:
        load_backend("nope", {})
    message = str(caught.value)
    assert "OJS_BACKEND=nope" in message
    assert message.endswith("Installed: acme, zebra.")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("redis", "pip install 'ojs-server[redis]', or ./packages/ojs-backend-redis in a clone."),
        ("rediss", "Did you mean redis?"),
        ("acmee", "Did you mean acme?"),
    ],
)
def test_what_to_do_about_a_name_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, name: str, advice: str) -> None:
    install(monkeypatch, acme="a")
    with pytest.raises(BackendNotInstalledError) as caught:
        load_backend(name, {})
    assert str(caught.value).endswith(advice)


def test_core_without_the_server_advises_nothing_it_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    install(monkeypatch, acme="a")
    monkeypatch.setattr(registry, "metadata", missing)
    with pytest.raises(BackendNotInstalledError, match=r"Installed: acme\.$"):
        load_backend("redis", {})


def test_only_the_chosen_module_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, memory="ojs_core.memory", broken="no_such_module_of_ours")
    assert isinstance(load_backend("memory", {}), MemoryBackend)


def test_two_packages_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, acme="one.module", acme__2="another.module")
    with pytest.raises(SettingsError, match=r"one\.module and another\.module"):
        installed_backends()


def test_one_package_listed_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # An editable install beside a wheel lists its entry points twice.
    install(monkeypatch, acme="one.module", acme__2="one.module")
    assert list(installed_backends()) == ["acme"]


def test_the_settings_are_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = MemoryBackend()
    seen: list[Mapping[str, str]] = []

    def make(environ: Mapping[str, str]) -> MemoryBackend:
        seen.append(environ)
        return backend

    module(monkeypatch, "acme_ojs", ojs_make_backend=hook(make))
    install(monkeypatch, acme="acme_ojs")
    environ = {"OJS_ACME_URL": "x"}
    assert load_backend("acme", environ) is backend
    assert seen == [environ]


def test_a_module_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, acme="no_such_module_of_ours")
    with pytest.raises(SettingsError, match="no_such_module_of_ours") as caught:
        load_backend("acme", {})
    assert isinstance(caught.value.__cause__, ImportError)


def test_an_attribute_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "acme_ojs")
    install(monkeypatch, acme="acme_ojs:plugin")
    with pytest.raises(SettingsError, match="acme_ojs:plugin"):
        load_backend("acme", {})


def test_a_package_without_the_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    module(monkeypatch, "acme_ojs")
    install(monkeypatch, acme="acme_ojs")
    with pytest.raises(SettingsError, match="has no hook ojs_make_backend"):
        load_backend("acme", {})


def test_a_hook_with_another_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(url: str) -> None:
        raise AssertionError(url)

    module(monkeypatch, "acme_ojs", ojs_make_backend=hook(make))
    install(monkeypatch, acme="acme_ojs")
    with pytest.raises(SettingsError, match="cannot be used"):
        load_backend("acme", {})


def test_a_hook_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(environ: Mapping[str, str]) -> MemoryBackend:  # noqa: ARG001
        raise AssertionError

    stray = hook(make)
    module(monkeypatch, "acme_ojs", ojs_make_backend=stray, ojs_mistyped=stray)
    install(monkeypatch, acme="acme_ojs")
    with pytest.raises(SettingsError, match="ojs_mistyped"):
        load_backend("acme", {})


def test_settings_that_make_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(environ: Mapping[str, str]) -> MemoryBackend:  # noqa: ARG001
        raise SettingsError("OJS_ACME_URL is missing")

    module(monkeypatch, "acme_ojs", ojs_make_backend=hook(make))
    install(monkeypatch, acme="acme_ojs")
    with pytest.raises(SettingsError, match="OJS_ACME_URL is missing"):
        load_backend("acme", {})


def test_a_package_may_list_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting("OJS_ACME_URL", "url", str, "Where the store is.")
    module(monkeypatch, "acme_ojs", ojs_backend_settings=hook(lambda: [setting], "ojs_backend_settings"))
    install(monkeypatch, acme="acme_ojs", memory="ojs_core.memory")
    assert list(backend_settings("acme")) == [setting]
    assert list(backend_settings("memory")) == []
