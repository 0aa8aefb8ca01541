"""Folders that are whole or absent."""

import pytest

from tunesmith import manifest


def write(folder, **files):
    with manifest.writing(folder) as aside:
        for name, text in files.items():
            (aside / name).write_text(text)


def test_a_written_folder_verifies_and_replaces_the_old_one(tmp_path):
    write(tmp_path / "x", a="1", b="2")
    write(tmp_path / "x", a="3")
    assert set(manifest.verify(tmp_path / "x")) == {"a"}
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_nothing_appears_when_writing_fails(tmp_path):
    write(tmp_path / "x", a="old")

    def fail():
        with manifest.writing(tmp_path / "x") as aside:
            (aside / "a").write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "x" / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "a").write_text("9"), "a: was changed"),
        (lambda folder: (folder / "a").unlink(), "a: is missing"),
        (lambda folder: (folder / "c").write_text(""), "c: was not listed"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json: missing or broken"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write(tmp_path / "x", a="1", b="2")
    damage(tmp_path / "x")
    with pytest.raises(manifest.ManifestError, match=message):
        manifest.verify(tmp_path / "x")
