"""Signatures and help pages show defaults: none of them may hold what the environment holds, passwords included."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SECRET = "correct-horse-battery-staple"
# Every module of the package, and with it every public name: pydoc shows classes, functions and their defaults.
SHOW = """
import importlib, inspect, pkgutil, pydoc
import audiocatalog

def members(owner):
    for name, member in vars(owner).items():
        yield member
        if inspect.isclass(member) and member.__module__.startswith("audiocatalog"):
            yield from vars(member).values()

shown = 0
for found in [audiocatalog, *pkgutil.walk_packages(audiocatalog.__path__, "audiocatalog.")]:
    name = getattr(found, "name", "audiocatalog")
    if name.endswith("__main__"):
        continue
    module = importlib.import_module(name)
    print(pydoc.render_doc(module, renderer=pydoc.plaintext))
    for member in members(module):
        for function in (member, getattr(member, "__func__", None), getattr(member, "callback", None)):
            if callable(function):
                try:
                    print(inspect.signature(function))
                except (TypeError, ValueError):
                    continue  # Some of what is written in C tells nothing.
                shown += 1
for name in audiocatalog.__all__:
    print(pydoc.render_doc(f"audiocatalog.{name}", renderer=pydoc.plaintext))
print(pydoc.render_doc("audiocatalog.Catalog.from_env", renderer=pydoc.plaintext))
print("signatures:", shown)
"""


@pytest.mark.slow
def test_no_signature_and_no_help_shows_the_environment() -> None:
    environment = {
        **os.environ,
        "AUDIOCATALOG_DATABASE_URL": f"postgresql://u:{SECRET}@h/d",
        "DB_PASSWORD": SECRET,
        "PGPASSWORD": SECRET,
    }
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SHOW], check=False, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    count = int(run.stdout.rsplit("signatures:", 1)[1])
    assert count > 300
    assert "from_env(" in run.stdout
    assert SECRET not in run.stdout + run.stderr
