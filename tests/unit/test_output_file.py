"""What is written: never over an input, through links and not in their place, and never in a folder of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge_mtp.cli import main
from edge_mtp.errors import EdgeMtpError
from edge_mtp.json_file import read_json, write_json, write_text
from edge_mtp.output_file import refuse_inputs


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("mine")
    return folder


@pytest.mark.parametrize("name", ["itself", "another way", "a link", "a hard link", "a file in a folder"])
def test_an_output_that_is_an_input_is_refused(name: str, source: Path, tmp_path: Path) -> None:
    path = source / "config.json"
    given: Path = path
    if name == "another way":
        given = source / ".." / "checkpoint" / "config.json"
    elif name in ("a link", "a hard link"):
        given = tmp_path / "alias"
        given.symlink_to(path) if name == "a link" else os.link(path, given)
    with pytest.raises(EdgeMtpError, match=r"is an input .* and would be overwritten; name another output"):
        refuse_inputs([None, tmp_path / "new", given], [None, "", source if "folder" in name else path])


def test_other_outputs_are_not(source: Path, tmp_path: Path) -> None:
    """An output that is allowed raises nothing, and asking makes and changes no file."""
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    allowed = [source / "new", tmp_path / "x", Path("/dev/null"), None]
    refuse_inputs(allowed, [source, tmp_path / "absent", None])
    refuse_inputs([source], [source / "config.json"])
    assert {path: path.stat() for path in tmp_path.rglob("*")} == before
    with pytest.raises(EdgeMtpError, match="is an input"):  # one among them is enough
        refuse_inputs([*allowed, source / "config.json"], [source])


def test_a_link_stays_and_what_it_points_to_is_written(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    for target in (tmp_path / "far" / "there", tmp_path / "far" / "not yet"):
        link = tmp_path / f"to {target.name}"
        link.symlink_to(target)
    (tmp_path / "far" / "there").write_text("old")
    for name in ("there", "not yet"):
        write_text(tmp_path / f"to {name}", "new")
        assert (tmp_path / f"to {name}").is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["not yet", "there"]


def test_a_link_where_the_unfinished_file_goes_is_not_followed(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("theirs")
    (tmp_path / f".mine.{os.getpid()}.part").symlink_to(theirs)
    write_text(tmp_path / "mine", "mine")
    assert (theirs.read_text(), (tmp_path / "mine").read_text()) == ("theirs", "mine")


def test_a_full_device_is_one_line() -> None:
    with pytest.raises(EdgeMtpError, match=r"cannot write '/dev/full': No space left on device"):
        write_text("/dev/full", "x")


def test_half_a_surrogate_pair_survives_in_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": "\udcff", "b": "é"})
    assert read_json(tmp_path / "x.json", "file") == {"a": "\udcff", "b": "é"}


def test_a_byte_order_mark_is_none_of_the_contents(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([1]).encode())
    assert read_json(tmp_path / "x.json", "file") == [1]


# -- verbs ----------------------------------------------------------------------------------------------------------


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 1, result.output
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_plot_over_a_bundle(synthetic_bundle: Path, tmp_path: Path) -> None:
    before = synthetic_bundle.read_bytes()
    alias = tmp_path / "plot.svg"
    alias.symlink_to(synthetic_bundle)
    assert "would be overwritten" in refused("quality", synthetic_bundle, tmp_path / "other.litertlm", "--plot", alias)
    assert synthetic_bundle.read_bytes() == before


def test_a_report_over_its_results(tmp_path: Path) -> None:
    results = tmp_path / "same.json"
    results.write_text("{}")
    assert "would be overwritten" in refused("report", results, "-o", tmp_path / "same.html")
    assert results.read_text() == "{}"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "generation_config.json"])
def test_an_export_over_its_checkpoint(name: str, tmp_path: Path) -> None:
    tiny_checkpoints = pytest.importorskip("tiny_checkpoints")
    import shutil

    target, drafter = tiny_checkpoints.random_pair()
    shutil.copytree(target, tmp_path / "target")
    path = tmp_path / "target" / name
    before = path.read_bytes()
    said = refused("export", "--model", tmp_path / "target", "--drafter", drafter, "-o", path, "--recipe", "int8")
    assert "would be overwritten" in said
    assert path.read_bytes() == before


class TestParts:
    @pytest.fixture
    def theirs(self, tmp_path: Path) -> Path:
        folder = tmp_path / "theirs"
        folder.mkdir()
        (folder / "precious").write_text("precious")
        return folder

    def test_a_link_in_the_place_of_the_folder(self, theirs: Path, tmp_path: Path) -> None:
        from edge_mtp.export.unfinished import Parts

        for target in (theirs, tmp_path / "nowhere", theirs / "precious"):
            link = tmp_path / ".x.litertlm.parts"
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            with (
                pytest.raises(EdgeMtpError, match=r"\.parts is no folder of yours"),
                Parts(tmp_path / "x.litertlm", "a", 0),
            ):
                pass
        assert (theirs / "precious").read_text() == "precious"
        assert not (tmp_path / "nowhere").exists()

    def test_links_inside_are_removed_and_not_followed(self, theirs: Path, tmp_path: Path) -> None:
        from edge_mtp.export.unfinished import Parts

        folder = tmp_path / ".x.litertlm.parts"
        folder.mkdir()
        (folder / "section").symlink_to(theirs)
        (folder / "identity").symlink_to(theirs / "precious")
        (folder / "scratch").symlink_to(theirs)
        with Parts(tmp_path / "x.litertlm", "a", 0) as parts:
            (parts.scratch / "bundle").write_text("new")
            parts.publish(parts.scratch / "bundle")
        assert (theirs / "precious").read_text() == "precious"
        assert sorted(path.name for path in theirs.iterdir()) == ["precious"]
        assert not folder.exists()

    def test_an_output_that_is_a_link(self, tmp_path: Path) -> None:
        from edge_mtp.export.unfinished import Parts

        (tmp_path / "far").mkdir()
        (tmp_path / "x.litertlm").symlink_to(tmp_path / "far" / "y.litertlm")
        with Parts(tmp_path / "x.litertlm", "a", 0) as parts:
            (parts.scratch / "bundle").write_text("new")
            parts.publish(parts.scratch / "bundle")
        assert (tmp_path / "x.litertlm").is_symlink()
        assert (tmp_path / "far" / "y.litertlm").read_text() == "new"
