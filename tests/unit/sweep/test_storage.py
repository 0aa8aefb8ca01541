"""The studies' store: what cannot be used is one line, what is another program's stays as it is."""

import os
import sqlite3

import pytest
from tests.studies import make
from tests.sweeps import runs_of

from tunesmith.audit.checks import require_clean
from tunesmith.errors import StudyError
from tunesmith.sweep import study as studies
from tunesmith.sweep.opening import Resume, open_sweep


@pytest.fixture
def name(tmp_path, monkeypatch):
    """Name a store, with FOLDER for the test's own folder."""

    def set_url(url):
        monkeypatch.setenv("TUNESMITH_STUDY_STORAGE", url.replace("FOLDER", str(tmp_path)))
        return url.replace("FOLDER", str(tmp_path)).replace("secret", "***")

    return set_url


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite:///FOLDER/junk", "cannot be used (file is not a database); mend it, or name another database"),
        ("sqlite:///FOLDER/none/a.db", "none does not exist; create it, or name another one"),
        ("sqlite:///FOLDER", "cannot be used (unable to open database file)"),
        ("sqlite://", "would be forgotten when this process ends; name a file"),
        ("optuna.db", "is no database URL; write it as sqlite:///FILE or "),
        ("postgresql:/me:secret@host/name", ": is no database URL; write it as sqlite:///FILE or "),
        ("postgresql://me:secret@host:port/name", ": is no database URL; write it as sqlite:///FILE or "),
        ("nosql://me:secret@host/name", "cannot be used (Can't load plugin"),
        ("oracle://me:secret@127.0.0.1:9/name", "its driver is missing (No module named "),
    ],
)
def test_a_store_that_cannot_be_used_is_one_line(experiment, space, tmp_path, name, url, message):
    (tmp_path / "junk").write_text("no database " * 100)
    before = sorted(tmp_path.iterdir())
    shown = name(url)
    for use in (studies.summaries, lambda: make(experiment, space)):
        with pytest.raises(StudyError) as caught:
            use()
        line = str(caught.value)
        assert line.startswith("TUNESMITH_STUDY_STORAGE ")
        assert message in line
        assert shown in line or "is no database URL" in line
        assert "\n" not in line
        assert "secret" not in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_sweep_that_cannot_be_kept_is_refused_before_a_run_is_begun(experiment, space, tmp_path, store, name):
    (tmp_path / "junk").write_text("no database " * 100)
    name("sqlite:///FOLDER/junk")
    with pytest.raises(StudyError, match="file is not a database"):
        open_sweep(experiment, space, require_clean(experiment), resume=Resume.NO)
    assert runs_of(store, "sweep") == []


def test_another_programs_database_is_refused_and_stays_as_it_is(experiment, space, tmp_path, name):
    with sqlite3.connect(tmp_path / "foreign.db") as database:
        database.execute("CREATE TABLE customers (name TEXT)")
    database.close()
    before = (tmp_path / "foreign.db").read_bytes()
    name("sqlite:///FOLDER/foreign.db")
    for use in (studies.summaries, lambda: make(experiment, space)):
        with pytest.raises(StudyError, match=r"foreign\.db: holds another program's tables; name "):
            use()
    assert os.listdir(tmp_path) == ["foreign.db"]
    assert (tmp_path / "foreign.db").read_bytes() == before


def test_a_database_of_another_optuna_is_refused(experiment, space, tmp_path):
    make(experiment, space)
    with sqlite3.connect(tmp_path / "study.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'v9.9.9'")
    database.close()
    with pytest.raises(StudyError, match=r"study\.db: The runtime optuna version .* is no longer compatible"):
        studies.summaries()


def test_a_path_with_braces_is_taken_as_it_is(experiment, space, tmp_path, name):
    name("sqlite:///FOLDER/{braces}.db")
    make(experiment, space)
    assert [summary.study_name for summary in studies.summaries()] == ["one"]
    assert (tmp_path / "{braces}.db").exists()


def test_who_only_reads_creates_nothing(tmp_path):
    assert studies.summaries() == []
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "study.db").touch()
    assert studies.summaries() == []
    assert (tmp_path / "study.db").read_bytes() == b""


def test_commands_that_look_at_sweeps_create_no_store(invoke, project, monkeypatch):
    monkeypatch.delenv("TUNESMITH_STUDY_STORAGE")
    for command in ("status", "stop", "pause", "resume", "add-trial"):
        done = invoke("study", command, "--experiment", "experiments/smoke.yaml")
        assert done.exit_code == 2
        assert done.stderr.startswith("error: no sweep of smoke is recorded in sqlite:///")
    assert invoke("study", "gc").exit_code == 0
    assert not (project / "optuna.db").exists()
