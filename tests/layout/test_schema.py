"""The layout file: accepted forms, each refusal's line, the published schema."""

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from anyphoto_cli.errors import InputError
from anyphoto_cli.layout.check import check_layout
from anyphoto_cli.layout.read import parse_json
from anyphoto_cli.layout.schema import Layout, layout_json_schema, load_layout, parse_layout

POINTS = [[100, 100], [140, 100], [120, 125], [104, 145], [136, 145]]
ELSEWHERE = [[x + 120, y] for x, y in POINTS]


def layout(**changes) -> dict:
    face = {"name": "Ana", "reference": "ana.png", "landmarks": POINTS, "reference_landmarks": POINTS}
    return {"version": 1, "prompt": "a woman on a beach", "width": 384, "height": 256, "faces": [face]} | changes


def face(**changes) -> dict:
    """The layout with its one face changed; a key set to None is left out."""
    changed = layout()["faces"][0] | changes
    return layout(faces=[{k: v for k, v in changed.items() if v is not None}])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("ana.png", "ben.png"):
        Image.new("RGB", (256, 256), "gray").save(tmp_path / name)
    return tmp_path


def read(folder: Path, value) -> Layout:
    (folder / "trip.json").write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    loaded = load_layout(folder / "trip.json")
    check_layout(loaded)
    return loaded


ACCEPTED = {
    "plain": layout(),
    "bom": b"\xef\xbb\xbf" + json.dumps(layout()).encode(),
    "crlf": json.dumps(layout(), indent=1).replace("\n", "\r\n").encode(),
    "unicode": layout(prompt="två vänner på 海辺 🏖", faces=[layout()["faces"][0] | {"name": "Zoë 李"}]),
    "bbox": face(landmarks=None, bbox=[80, 80, 200, 220]),
    "everything": layout(seed=2**62, negative_prompt="", steps=4, guidance_scale=3, true_cfg_scale=2.5, num_images=3),
    "partly outside": face(landmarks=[[x - 110, y] for x, y in POINTS]),
    "upside down": face(landmarks=[[240 - x, 240 - y] for x, y in POINTS]),
    "same person twice": layout(faces=[layout()["faces"][0], layout()["faces"][0] | {"landmarks": ELSEWHERE}]),
    "no faces": layout(faces=[]),
    "subfolder": face(reference="./sub/../ana.png"),
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(folder, value):
    assert isinstance(read(folder, value), Layout)


ANA = layout()["faces"][0]
REFUSED = {
    "no object": ([1], "trip.json: is not a JSON object"),
    "malformed": (b'{"version": 1,', "trip.json: is not valid JSON at line 1, column 15"),
    "empty": (b"", "trip.json: is not valid JSON at line 1, column 1"),
    "latin-1": ('{"prompt": "é"}'.encode("latin-1"), "trip.json: is not UTF-8 text"),
    "duplicate key": (b'{"version": 1, "version": 1}', "trip.json: version: this key stands twice"),
    "duplicate key of a face": (
        b'{"version": 1, "faces": [{"name": "a"}, {"name": "b", "name": "c"}]}',
        "trip.json: faces[1].name: this key stands twice. Keep one of them",
    ),
    "nul in a face": (b'{"faces": [{"name": "a\\u0000b"}]}', "trip.json: faces[0].name: has characters that cannot"),
    "nan": (b'{"width": NaN}', "trip.json: NaN is not a number"),
    "infinity": (b'{"width": -Infinity}', "trip.json: -Infinity is not a number"),
    "overflow": (json.dumps(layout()).replace("3.5", "").encode().replace(b"384", b"1e999"), "trip.json: width: "),
    "digits": (b'{"width": ' + b"9" * 5000 + b"}", "trip.json: holds a number with too many digits"),
    "deep": (b"[" * 100_000, "trip.json: is nested too deep"),
    "surrogate": (b'{"prompt": "\\ud800"}', "trip.json: prompt: has characters that cannot be stored"),
    "nul": (b'{"prompt": "a\\u0000b"}', "trip.json: prompt: has characters that cannot be stored"),
    "version": (layout(version=2), "trip.json: version: must be at most 1"),
    "missing": ({k: v for k, v in layout().items() if k != "prompt"}, "trip.json: prompt: is missing"),
    "unknown key": (layout(colour=1), "trip.json: colour: is not a known key"),
    "misspelt key": (layout(promt="x"), "trip.json: promt: is not a known key. Did you mean prompt?"),
    "misspelt face key": (
        face(refrence="x"),
        "trip.json: faces[0].refrence: is not a known key. Did you mean reference?",
    ),
    "bool for int": (layout(width=True), "trip.json: width: must be a whole number"),
    "float for int": (layout(width=384.5), "trip.json: width: must be a whole number"),
    "text for int": (layout(width="384"), "trip.json: width: must be a whole number"),
    "number for text": (layout(prompt=7), "trip.json: prompt: must be text"),
    "negative strength": (face(strength=-0.5), "trip.json: faces[0].strength: must be at least 0"),
    "huge strength": (face(strength=5), "trip.json: faces[0].strength: must be at most 4"),
    "text for strength": (face(strength="much"), "trip.json: faces[0].strength: must be a number"),
    "no prompt": (layout(prompt=""), "trip.json: prompt: must not be empty"),
    "odd size": (layout(width=385), "trip.json: width: must be a multiple of 16"),
    "zero size": (layout(height=0), "trip.json: height: must be at least 64"),
    "huge side": (layout(width=8192), "trip.json: width: must be at most 4096"),
    "huge canvas": (layout(width=4096, height=4096), "trip.json: width: the canvas has 4096x4096 pixels"),
    "negative seed": (layout(seed=-1), "trip.json: seed: must be at least 0"),
    "seed": (layout(seed=2**63), "trip.json: seed: "),
    "seed overflows": (layout(seed=2**63 - 1, num_images=2), "trip.json: seed: "),
    "faces": (layout(faces={}), "trip.json: faces: must be a list"),
    "face": (layout(faces=[7]), "trip.json: faces[0]: must be an object"),
    "four points": (
        face(landmarks=POINTS[:4]),
        "trip.json: faces[0].landmarks: needs 5 points, got 4. Order: left eye, right eye, nose",
    ),
    "six points": (face(landmarks=[*POINTS, [1, 2]]), "trip.json: faces[0].landmarks: needs 5 points, got 6"),
    "three coordinates": (
        face(landmarks=[[1, 2, 3], *POINTS[1:]]),
        "trip.json: faces[0].landmarks: each point needs 2",
    ),
    "flat": (face(landmarks=[1, 2, 3, 4, 5]), "trip.json: faces[0].landmarks: each point needs 2 numbers"),
    "text point": (face(landmarks=[["1", 2], *POINTS[1:]]), "trip.json: faces[0].landmarks[0][0]: must be a number"),
    "bool point": (face(landmarks=[[True, 2], *POINTS[1:]]), "trip.json: faces[0].landmarks[0][0]: must be a number"),
    "three-number box": (face(landmarks=None, bbox=[1, 2, 3]), "trip.json: faces[0].bbox: needs 4 numbers"),
    "both places": (face(bbox=[1, 2, 90, 90]), "trip.json: faces[0]: give either landmarks or bbox, and not both"),
    "no place": (face(landmarks=None), "trip.json: faces[0]: give either landmarks or bbox, and not both"),
    "empty box": (face(landmarks=None, bbox=[90, 10, 90, 200]), "trip.json: faces[0].bbox: the box is empty"),
    "one spot": (face(landmarks=[[50, 50]] * 5), "trip.json: faces[0].landmarks: the points lie on one spot or line"),
    "one line": (
        face(landmarks=[[i * 9, 50] for i in range(5)]),
        "trip.json: faces[0].landmarks: the points lie on one",
    ),
    "mirrored": (
        face(landmarks=[POINTS[i] for i in (1, 0, 2, 4, 3)]),
        "trip.json: faces[0].landmarks: left and right are exchanged. Order:",
    ),
    "sub-token": (
        face(landmarks=[[100 + x / 12, 100 + y / 12] for x, y in POINTS]),
        "trip.json: faces[0].landmarks: the face is ",
    ),
    "outside": (
        face(landmarks=[[x + 900, y] for x, y in POINTS]),
        "trip.json: faces[0].landmarks: the face lies wholly",
    ),
    "far outside": (
        face(landmarks=[[x + 9e9, y] for x, y in POINTS]),
        "trip.json: faces[0].landmarks: lies more than 4",
    ),
    "too wide": (
        face(landmarks=None, bbox=[-1e308, -1e308, 1e308, 1e308]),
        "trip.json: faces[0].bbox: lies more than 4",
    ),
    "two references": (
        layout(faces=[ANA, ANA | {"reference": "ben.png", "landmarks": ELSEWHERE}]),
        "trip.json: faces[1].name: 'Ana' already has the reference 'ana.png'",
    ),
    "no reference": (face(reference="nobody.png"), "trip.json: faces[0].reference: nobody.png: cannot be opened"),
    "url": (
        face(reference="https://x.org/a.png"),
        "trip.json: faces[0].reference: 'https://x.org/a.png' is not a plain",
    ),
    "home": (face(reference="~/a.png"), "trip.json: faces[0].reference: '~/a.png' is not a plain path"),
    "upwards": (face(reference="../a.png"), "trip.json: faces[0].reference: '../a.png' lies outside"),
    "absolute": (face(reference="/etc/passwd"), "trip.json: faces[0].reference: '/etc/passwd' lies outside"),
    "device": (face(reference="/dev/zero"), "trip.json: faces[0].reference: '/dev/zero' lies outside"),
    "folder": (face(reference="."), "trip.json: faces[0].reference: .: is not a regular file"),
    "point outside reference": (
        face(reference_landmarks=[[x + 200, y] for x, y in POINTS]),
        "trip.json: faces[0].reference_landmarks: a point lies outside the reference, which is 256x256",
    ),
    "mirrored reference": (
        face(reference_landmarks=[POINTS[i] for i in (1, 0, 2, 4, 3)]),
        "trip.json: faces[0].reference_landmarks: left and right are exchanged",
    ),
}


@pytest.mark.parametrize("value, line", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line(folder, value, line):
    with pytest.raises(InputError) as refusal:
        read(folder, value)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_a_link_out_of_the_folder_is_refused_and_refs_root_allows_it(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    Image.new("RGB", (256, 256)).save(outside / "ana.png")
    (folder / "link.png").symlink_to(outside / "ana.png")
    with pytest.raises(InputError, match="lies outside"):
        read(folder, face(reference="link.png"))
    (folder / "trip.json").write_text(json.dumps(layout()))
    check_layout(load_layout(folder / "trip.json", refs_root=outside))
    with pytest.raises(InputError, match="--refs-root: no such folder"):
        load_layout(folder / "trip.json", refs_root=outside / "nowhere")


def test_a_pipe_for_a_reference_does_not_hang(folder):
    import os

    os.mkfifo(folder / "pipe.png")
    with pytest.raises(InputError, match="is not a regular file"):
        read(folder, face(reference="pipe.png"))


def test_json_schema_agrees_with_the_reader():
    schema = layout_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for name, value in ACCEPTED.items():
        if isinstance(value, dict):
            assert validator.is_valid(value), name
    by_schema = ["version", "missing", "unknown key", "bool for int", "text for int", "odd size", "huge side", "face",
                 "four points", "six points", "three coordinates", "three-number box", "both places", "no place"]  # fmt: skip
    for name in by_schema:
        assert not validator.is_valid(REFUSED[name][0]), name


def test_round_trip(folder):
    for name, value in ACCEPTED.items():
        loaded = read(folder, value)
        again = parse_layout(json.loads(loaded.model_dump_json(exclude_none=True)), folder / "trip.json")
        assert again == loaded, name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=6), children, max_size=4),
    max_leaves=8,
)
paths = st.sampled_from(
    ["version", "prompt", "width", "height", "seed", "faces", "steps", "guidance_scale", "num_images"]
)
face_paths = st.sampled_from(["name", "reference", "landmarks", "bbox", "reference_landmarks"])


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(paths | face_paths, json_values)
def test_fuzzed_layouts_are_accepted_or_refused_never_broken(folder, key, value):
    changed = face(**{key: value}) if key in ANA or key == "bbox" else layout(**{key: value})
    try:
        parsed = parse_layout(parse_json(json.dumps(changed), "trip.json"), folder / "trip.json")
        check_layout(parsed)
    except InputError as refusal:
        assert str(refusal).startswith("trip.json: ") and "\n" not in str(refusal)


@settings(max_examples=300)
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "bytes.json"
    file.write_bytes(data)
    with pytest.raises(InputError):
        load_layout(file)


def test_bbox_stands_for_an_upright_template():
    parsed = parse_layout(face(landmarks=None, bbox=[100, 50, 212, 162]), Path("trip.json"))
    np.testing.assert_allclose(parsed.faces[0].place[0], [138.2946, 101.6963])
