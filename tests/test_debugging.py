"""`AUDIOCATALOG_DEBUG`: off, nothing that is printed holds data; on, a developer sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

# What a program prints of one of each, and of an error with its cause; it ends with what its log was told.
PROGRAM = """
import json, logging, sys, traceback
from datetime import UTC, datetime
from audiocatalog.operations.activity import WorkerLoad
from audiocatalog import Catalog, SearchFilters, TrackMetadata, TrackRecord, errors

told = []
class Handler(logging.Handler):
    def emit(self, record):
        told.append(record.getMessage())
logging.getLogger("audiocatalog").addHandler(Handler())

metadata = TrackMetadata(title="Planted", artist="Planted")
printed = {"TrackMetadata": metadata, "SearchFilters": SearchFilters(artist="Planted")}
printed["TrackRecord"] = TrackRecord(metadata, "Planted.mp3", status="PENDING")
with Catalog(sys.argv[1], actor="Planted"), Catalog(sys.argv[1], actor="Planted") as catalog:
    with catalog.unit_of_work() as work:
        printed["Track"] = work.save_record(printed["TrackRecord"])
        page = work.search("planted", facets=["artist"])
        printed |= {"SearchPage": page, "Hit": page.hits[0]}
        printed |= {"Facet": page.facets["artist"], "FacetValue": page.facets["artist"].values[0]}
        printed["Claim"] = work.claim(1)[0]
        printed["StatusChange"] = work.fail(printed["Claim"], "Planted")
        printed["ChangePage"] = work.changes()
        printed["WorkerLoad"] = WorkerLoad("Planted", 1, datetime.now(UTC))
        printed["Refusal"] = work.bulk_save([{"title": "x", "audio_path": "x", "status": "Planted"}]).refusals[0]
        work.session.rollback()
    try:
        # Past every check of this side, so that the server refuses it and says of what.
        object.__setattr__(metadata, "format", "Planted" * 50)
        with catalog.unit_of_work() as work:
            work.save(metadata, audio_path="a")
    except errors.CatalogError as error:
        failure = "".join(traceback.format_exception(error))
    # And a URL, whose password is nobody's to see.
    secret = repr(Catalog("postgresql://u:hidden@localhost/x"))
json.dump({"printed": {name: repr(one) for name, one in printed.items()}, "failure": failure, "told": told,
           "secret": secret}, sys.stdout)
"""


def run(url: str, debug: str | None) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != "AUDIOCATALOG_DEBUG"}
    if debug is not None:
        environment["AUDIOCATALOG_DEBUG"] = debug
    command = [sys.executable, "-c", PROGRAM, url]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("debug", [None, "", "0", "false", "maybe"])
def test_without_it_nothing_that_is_printed_holds_data(database_url: str, debug: str | None) -> None:
    found = run(database_url, debug)
    assert {name: text for name, text in found["printed"].items() if "lanted" in text} == {}
    assert "lanted" not in found["failure"]
    assert "StringDataRightTruncation" in found["failure"]
    assert [line for line in found["told"] if "AUDIOCATALOG_DEBUG" in line or "lanted" in line] == []


@pytest.mark.parametrize("debug", ["1", "true", "YES"])
def test_with_it_reprs_show_values_and_causes_the_servers_words(database_url: str, debug: str) -> None:
    found = run(database_url, debug)
    assert {name: text for name, text in found["printed"].items() if "lanted" not in text} == {}
    assert "value too long" in found["failure"]
    assert [line for line in found["told"] if "AUDIOCATALOG_DEBUG" in line] == [
        "AUDIOCATALOG_DEBUG is set, so reprs and errors show data; unset it outside development"
    ]
    assert "hidden" not in json.dumps(found)
