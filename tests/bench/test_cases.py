"""Four forms, one kind of case; what cannot be used is counted with its reason."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from anyphoto_cli.bench.cases import only_subsets, read_cases
from anyphoto_cli.bench.sources import FileSource, picture_of
from anyphoto_cli.errors import InputError


def jpeg(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((16, 16, 3), colour, np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def hub_rows():
    """As the hub's dataset has them."""
    return [
        {
            "ID": f"id{n}", "GT": {"bytes": jpeg(n), "path": None}, "prompt": f"prompt {n}", "task_type": "multi",
            "input_images": [{"bytes": jpeg(100 + n + k), "path": None} for k in range(people)],
            "bboxes": json.dumps([[0, 1, 8, 12]] * people), "subset": f"p{min(people, 3)}", "num_persons": asked,
        }
        for n, (people, asked) in enumerate([(1, 1), (2, 2), (3, 3), (4, 4), (1, 2)])
    ]  # fmt: skip


@pytest.fixture
def files(tmp_path):
    """refs/0.png ... and gt.png in a folder."""
    (tmp_path / "refs").mkdir()
    for k in range(4):
        (tmp_path / "refs" / f"{k}.png").write_bytes(jpeg(50 + k))
    (tmp_path / "gt.png").write_bytes(jpeg(9))
    return tmp_path


@pytest.mark.parametrize("kind", ["parquet", "parquet, many groups", "arrow stream", "folder"])
def test_the_hub_s_rows_are_read_where_they_lie(tmp_path, kind):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(hub_rows())
    if kind.startswith("parquet"):
        path = tmp_path / "train-00000-of-00001.parquet"
        parquet.write_table(table, path, row_group_size=2 if "many" in kind else 1000)
    elif kind == "arrow stream":
        path = tmp_path / "data-00000-of-00001.arrow"
        with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table)
    else:
        path = tmp_path
        (path / "data").mkdir()
        parquet.write_table(table, path / "data" / "train-00000-of-00001.parquet")
    cases = read_cases(path)
    assert cases.form == "rows" and [case.id for case in cases.cases] == ["id0", "id1", "id2", "id3"]
    assert [case.subset for case in cases.cases] == ["p1", "p2", "p3", "p3"] and cases.count == 5
    [bad] = cases.broken
    assert (bad.id, bad.reason) == ("id4", "has 1 references for 2 people")
    case = cases.cases[1]
    assert picture_of(case.gt)[0, 0, 0] == 1 and [picture_of(ref)[0, 0, 0] for ref in case.references] == [101, 102]
    assert case.prompt == "prompt 1" and case.boxes[1].y1 == 12 and case.result is None


def test_the_hub_s_folder_holds_the_rows_twice(tmp_path):
    """As parquet below data/ and as save_to_disk writes them: one benchmark."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.Table.from_pylist(hub_rows())
    with pa.OSFile(str(tmp_path / "data-00000-of-00001.arrow"), "wb") as out, pa.ipc.new_stream(out, table.schema) as w:
        w.write_table(table)
    assert read_cases(tmp_path).count == 5
    (tmp_path / "data").mkdir()
    parquet.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    cases = read_cases(tmp_path)
    assert (len(cases.cases), len(cases.broken)) == (4, 1) and "data" in cases.cases[0].gt.file.parts


def test_the_tree_of_hf2bench(testdata):
    cases = read_cases(testdata / "formats" / "multiid_bench_hf2bench")
    assert cases.form == "tree" and not cases.broken
    assert [(case.id, case.subset, case.people) for case in cases.cases] == [
        ("0001", "p1", 1), ("0002", "p2", 2), ("0005", "p2", 2), ("num_3_0003", "p3", 3), ("num_4_0004", "p3", 4),
    ]  # fmt: skip
    two = cases.cases[1]
    assert two.prompt == "prompt 2" and len(two.boxes) == 2 and two.boxes[0].y1 == 20
    assert all(source.file.is_file() for case in cases.cases for source in (*case.references, case.gt))
    assert [case.id for case in only_subsets(cases, ("p3",)).cases] == ["num_3_0003", "num_4_0004"]
    with pytest.raises(InputError, match="--subset: 'p4' is no subset. Known: p1, p2, p3"):
        only_subsets(cases, ("p4",))
    ones = only_subsets(cases, ("p1",))
    assert ones.order == cases.ids
    with pytest.raises(InputError, match="--subset: the benchmark holds no case of p3. There are p1$"):
        only_subsets(ones, ("p1", "p3"))


def test_the_evaluators_tree_in_both_numberings_and_its_trap(testdata, tmp_path):
    source = testdata / "formats" / "multiid_bench_eval"
    cases = read_cases(source)
    [case] = cases.cases
    assert (cases.form, case.subset, case.people) == ("results", "p2", 2) and case.result.file.name == "out.jpg"
    shutil.copytree(source, tmp_path / "zero")
    home = tmp_path / "zero" / "p2" / "0002"
    (home / "ref_1.jpg").rename(home / "ref_0.jpg")
    (home / "ref_2.jpg").rename(home / "ref_1.jpg")
    assert [ref.file.name for ref in read_cases(tmp_path / "zero").cases[0].references] == ["ref_0.jpg", "ref_1.jpg"]
    (home / "ref_0.jpg").unlink()  # what the evaluator would silently take for one person
    for named in (tmp_path / "zero", tmp_path / "zero" / "p2"):
        [broken] = read_cases(named).broken
        assert (broken.id, broken.reason, broken.people) == ("0002", "has 1 references for 2 people", 2)
    (home / "ref_1.jpg").rename(home / "ref_3.jpg")
    assert read_cases(tmp_path / "zero").broken[0].reason == "its references are numbered 3: one is missing"
    (home / "ref_3.jpg").unlink()
    (home / "ori.jpg").unlink()
    assert read_cases(tmp_path / "zero").broken[0].reason == "has no ref_*.jpg"


@pytest.mark.parametrize(("told", "people"), [
    ({"bboxes": [[0, 0, 4, 4]] * 2}, 2), ({"name": ["ana", "ben", "eva"]}, 3), ({"name": "0002"}, 0), ({}, 0),
    ({"bboxes": [[0, 0, 4, 4]] * 2, "name": ["ana"]}, 2), ({"num_persons": 1, "name": ["ana", "ben"]}, 1),
])  # fmt: skip
def test_a_missing_reference_is_never_one_person_less(testdata, tmp_path, told, people):
    """Where no folder says how many are asked for, the boxes or the names do; nothing: the references are all."""
    home = shutil.copytree(testdata / "formats" / "multiid_bench_eval" / "p2" / "0002", tmp_path / "all" / "0002")
    (home / "ref_2.jpg").unlink()
    (home / "meta.json").write_text(json.dumps({"prompt": "two"} | told))
    cases = read_cases(tmp_path)
    broken = [(one.reason, one.people) for one in cases.broken]
    assert broken == ([(f"has 1 references for {people} people", people)] if people > 1 else [])
    assert [case.people for case in cases.cases] == ([] if broken else [1])
    (home / "ref_1.jpg").unlink()
    [bad] = read_cases(tmp_path).broken
    assert (bad.reason, bad.people) == ("has no ref_*.jpg", people)


def test_lines_and_what_is_wrong_with_them(files):
    good = {"id": "a", "prompt": "two", "references": ["refs/0.png", "refs/1.png"], "gt": "gt.png"}
    lines = [
        good, good | {"id": "a"}, good | {"id": "b", "references": []}, {"id": "c", "prompt": "x"}, "nonsense",
        good | {"id": "d", "references": [f"refs/{k}.png" for k in range(4)] + ["refs/0.png"]},
        good | {"id": "e", "gt": None, "boxes": [[0, 0, 4, 5], [5, 0, 9, 5]], "width": 9, "height": 9},
    ]  # fmt: skip
    file = files / "cases.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n\n")
    cases = read_cases(file)
    assert [case.id for case in cases.cases] == ["a", "e"] and cases.count == 7
    assert [one.reason for one in cases.broken] == [
        "another case has the same id", "asks for 0 people; the benchmark has 1 to 4",
        "line 4 of cases.jsonl is no case (KeyError: 'references')",
        "line 5 of cases.jsonl is no case (JSONDecodeError: Expecting value: line 1 column 1 (char 0))",
        "asks for 5 people; the benchmark has 1 to 4",
    ]  # fmt: skip
    assert [one.people for one in cases.broken] == [2, 0, 0, 0, 5]
    assert cases.cases[1].gt is None and cases.cases[1].boxes[1].x1 == 9


@pytest.mark.parametrize(
    ("told", "why"),
    [
        ({"landmarks": [[[float("nan"), 1]] * 5] * 2}, "nan is no place"),
        ({"landmarks": [[[float("inf"), 1]] * 5] * 2}, "inf is no place"),
        ({"boxes": [[0, 0, float("nan"), 5]]}, "nan is no place"),
        ({"boxes": [[0, 0, 4, 5]] * 2}, "boxes and landmarks without gt need width and height"),
        ({"landmarks": [[[1, 1]] * 5] * 2}, "boxes and landmarks without gt need width and height"),
        ({"references": "refs/0.png"}, "references is a list, not 'refs/0.png'"),
        ({"width": 128, "height": 0}, "a picture of 128 x 0 px is none"),
        ({"width": -128, "height": 128}, "a picture of -128 x 128 px is none"),
        ({"boxes": [[0, 0, 1e308, 5]]}, "1e+308 is no place"), ({"landmarks": [[[10**400, 1]] * 5] * 2}, "inf is no place"),
        ({"width": 1e-320, "height": 128}, "a picture of 9.99989e-321 x 128 px is none"),
        ({"num_persons": 10**400}, "num_persons is no number of people"),
        ({"num_persons": float("inf")}, "num_persons is no number of people"),
        ({"prompt": None}, "None is no text"), ({"num_persons": 3}, "has 2 references for 3 people"), ({"id": None}, "None is no text"), ({"id": True}, "True is no text"),
        ({"id": ".."}, "its id '..' is no name for a file"), ({"id": ""}, "its id '' is no name"),
        ({"id": "x" * 300}, "is no name for a file"), ({"id": "a\ud800"}, r"its id 'a\\ud800' is no name for a file"),
        ({"prompt": "a\ud800"}, "its prompt has characters that cannot be stored"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_broken_and_stops_nobody(files, told, why):
    good = {"id": "a", "prompt": "two", "references": ["refs/0.png", "refs/1.png"]}
    file = files / "cases.jsonl"
    file.write_text("\n".join(map(json.dumps, [good, good | {"id": "b"} | told])))
    cases = read_cases(file)
    assert [case.id for case in cases.cases] == ["a"] and why in cases.broken[0].reason
    cases.broken[0].id.encode()  # whatever it was, reports can hold it
    asked = told.get("num_persons", 0 if "references" in told else 2)
    assert cases.broken[0].people == (asked if asked < 5 else 2)


def test_lines_are_utf_8_with_or_without_a_mark_and_end_at_newlines_alone(files):
    good = {"id": 7, "prompt": "é", "references": ["refs/0.png"]}
    texts = [json.dumps(good | {"id": k, "prompt": f"a\u2028b\x85{k}"}, ensure_ascii=False) for k in range(3)]
    file = files / "cases.jsonl"
    file.write_bytes("\r\n".join(texts).encode("utf-8-sig"))
    cases = read_cases(file)
    assert [case.id for case in cases.cases] == ["0", "1", "2"] and not cases.broken
    for encoding in ("latin-1", "utf-16"):
        file.write_bytes(json.dumps(good, ensure_ascii=False).encode(encoding))
        with pytest.raises(InputError, match=r"cases.jsonl: is not UTF-8 text \(byte \d+\). Save it as UTF-8"):
            read_cases(file)


def test_boxes_of_another_form_cost_one_case_of_a_tree(files):
    (files / "p1" / "untar").mkdir(parents=True)
    for k in range(2):
        shutil.copy(files / "gt.png", files / "p1" / "untar" / f"{k}.png")
        shutil.copy(files / "refs" / "0.png", files / "p1" / "untar" / f"r{k}.png")
    entries = [{"ori_img_path": f"{k}.png", "image_paths": [f"r{k}.png"], "prompt": "x"} for k in range(2)]
    (files / "p1.json").write_text(json.dumps(entries))
    (files / "p1" / "untar" / "0.json").write_text("[1, 2]")
    cases = read_cases(files)
    assert [case.id for case in cases.cases] == ["1"] and "is damaged" in cases.broken[0].reason


def test_damaged_pages_of_a_parquet_file_are_told_with_the_file(tmp_path):
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "rows.parquet"
    parquet.write_table(pa.Table.from_pylist(hub_rows() * 20), file, compression="none")
    data = bytearray(file.read_bytes())
    data[8:40] = bytes(32)  # the first page's head; the file's own, at its end, is whole
    file.write_bytes(data)
    with pytest.raises(InputError, match="rows.parquet: cannot be read: its data are damaged"):
        read_cases(file)


def test_a_core_install_says_what_parquet_needs(run, tmp_path, monkeypatch):
    import sys

    from anyphoto_cli.bench.sources import open_rows

    open_rows.cache_clear()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    code, _, err = run("bench", "score", tmp_path / "rows.parquet", "-o", tmp_path / "s", "--face-pack", "mini")
    assert code == 1 and "pyarrow is not installed" in err and 'pip install "anyphoto[bench]"' in err


def test_what_is_no_benchmark(files, tmp_path):
    for path, line in (
        (tmp_path / "gone", "no such file or folder. Give parquet or arrow files"),
        (files / "gt.png", "is no benchmark. Give parquet"),
        (files, "is no benchmark"),
    ):
        with pytest.raises(InputError, match=line):
            read_cases(path)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(InputError, match="holds no case"):
        read_cases(tmp_path / "empty.jsonl")
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 not")
    with pytest.raises(InputError, match="x.parquet: cannot be read"):
        read_cases(tmp_path / "x.parquet")
    (tmp_path / "p2.json").write_text('[{"prompt": "x", "image_paths": ["../../etc/passwd"], "ori_img_path": "a.jpg"}]')
    [broken] = read_cases(tmp_path).broken if not (tmp_path / "x.parquet").unlink() else ()
    assert "leads out of the benchmark" in broken.reason
    with pytest.raises(InputError, match="broken|cannot|is not a picture|is empty|no such"):
        picture_of(FileSource(tmp_path / "p2.json"))
