"""Content credentials: whole they verify, one changed bit breaks them, and references are hashes, never pictures."""

import json
import shutil

import pytest

from anyphoto_cli.generate.provenance import read_provenance
from anyphoto_cli.generate.signing import make_test_certificate
from tests.conftest import small_layout


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A picture of the random toy, signed as the command does it."""
    from anyphoto_cli.config.generate import GenerateConfig
    from anyphoto_cli.generate import render
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials

    folder = tmp_path_factory.mktemp("signed")
    config = GenerateConfig(model="tiny-random")
    [picture] = render([small_layout(folder)], folder / "out", config).pictures
    plain = folder / "plain.png"
    shutil.copyfile(picture.path, plain)
    assert sign_pictures([picture.path], read_credentials()) == 1
    assert sign_pictures([picture.path], read_credentials()) == 0  # once is enough
    return picture.path, plain


def test_it_verifies_and_says_what_it_is(run, signed):
    file, plain = signed
    found = read_provenance(file)
    assert found.signature == "untrusted" and found.good and found.intact and found.problems == ()
    assert found.signed_by == "anyphoto test certificate, not trusted"
    hashes = found.record["references"]
    assert [title for title, _ in found.ingredients] == ["ana", "ben"]
    assert [sha256 for _, sha256 in found.ingredients] == [hashes["ana.png"], hashes["ben.png"]]
    assert b"trainedAlgorithmicMedia" in file.read_bytes()
    code, said, _ = run("provenance", file)
    assert code == 0 and "on no trust list" in said and "made from: ana" in said and "seed 0" in said
    from PIL import Image

    with Image.open(file) as one, Image.open(plain) as other:
        assert one.tobytes() == other.tobytes()
    assert file.stat().st_size - plain.stat().st_size < 12_000  # no reference, and no thumbnail of one, is inside


@pytest.mark.parametrize("spot", ["pixels", "record", "statement"])
def test_a_changed_bit_is_seen(run, signed, tmp_path, spot):
    file, _ = signed
    data = bytearray(file.read_bytes())
    at = {
        "pixels": data.index(b"IDAT") + 60,
        "record": data.index(b"two friends"),
        "statement": data.index(b"c2pa.created"),
    }
    data[at[spot]] ^= 1
    (tmp_path / "changed.png").write_bytes(bytes(data))
    found = read_provenance(tmp_path / "changed.png")
    assert found.signature == "broken" and not found.good and found.problems
    code, said, err = run("provenance", tmp_path / "changed.png")
    assert code == 3 and "BROKEN" in said and "Traceback" not in err
    code, said, _ = run("provenance", tmp_path / "changed.png", "--json")
    assert json.loads(said)["signature"] == "broken"


def test_an_edited_record_is_seen_without_a_signature(run, signed, tmp_path):
    from PIL import Image, PngImagePlugin

    _, plain = signed
    with Image.open(plain) as image:
        record = json.loads(image.info["anyphoto"])
        record["layout"]["seed"] = 99
        info = PngImagePlugin.PngInfo()
        info.add_itxt("anyphoto", json.dumps(record))
        image.save(tmp_path / "edited.png", pnginfo=info)
    found = read_provenance(tmp_path / "edited.png")
    assert found.signature == "none" and not found.intact and not found.good
    code, said, _ = run("provenance", tmp_path / "edited.png")
    assert code == 3 and "EDITED" in said
    shutil.copyfile(tmp_path / "edited.png", plain.parent / "out" / "edited.png")  # where its references are
    told = "edited.png: its record was edited since"
    assert told in run("verify", plain.parent / "out" / "edited.png")[2]
    assert told not in run("verify", signed[0])[2]
    assert run("provenance", plain)[0] == 0


def test_pictures_of_others(run, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "plain.jpg")
    code, said, _ = run("provenance", tmp_path / "plain.jpg")
    assert code == 0 and said.splitlines() == ["no anyphoto record", "no content credentials"]
    for name in ("plain.bmp", "plain.ppm", "plain.webp", "plain.tiff"):  # not all of them can carry credentials
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        code, said, _ = run("provenance", tmp_path / name)
        assert code == 0 and said.splitlines() == ["no anyphoto record", "no content credentials"], (name, said)
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "layout.json").write_text("{}")
    for name, told in (
        ("nothing.png", "No such file"), ("empty.jpg", "is empty"), ("layout.json", "is not a picture"),
        ("", "is not a regular file"),
    ):  # fmt: skip
        code, _, err = run("provenance", tmp_path / name)
        assert code == 2 and told in err, err


def test_a_record_that_cannot_be_read_is_damaged(run, signed, tmp_path):
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_itxt("anyphoto", '{"format": 1, "layout": 7')
    with Image.open(signed[1]) as image:
        image.save(tmp_path / "half.png", pnginfo=info)
    code, said, _ = run("provenance", tmp_path / "half.png")
    assert code == 3 and "an anyphoto record that is DAMAGED" in said
    code, _, err = run("generate", "--from", tmp_path / "half.png")
    assert code == 2 and "record: is damaged or was edited" in err


def test_a_record_is_read_also_where_the_pixels_are_damaged(run, signed, tmp_path):
    _, plain = signed
    whole = plain.read_bytes()
    at = whole.index(b"IDAT") + 40
    for name, data in (("cut.png", whole[:at]), ("torn.png", whole[:at] + bytes(200) + whole[at + 200 :])):
        (tmp_path / name).write_bytes(data)
        found = read_provenance(tmp_path / name)
        assert found.record is not None and found.intact
        assert "seed 0" in run("provenance", tmp_path / name)[1]
        code, _, err = run("generate", "--from", tmp_path / name)
        assert code == 2 and "holds no anyphoto record" in err  # it is no picture to compare with


def test_with_a_certificate_of_ones_own(run, layout_file, tmp_path):
    certificate, key = make_test_certificate()
    (tmp_path / "cert.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa", "--c2pa-cert", tmp_path / "cert.pem",
                       "--c2pa-key", tmp_path / "key.pem")  # fmt: skip
    assert code == 0 and "test certificate made on this machine" not in err, err
    [file] = (tmp_path / "out").glob("*.png")
    assert read_provenance(file).signature == "untrusted"
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa")  # signed already: it stays as it is
    assert code == 0 and "Finished before" in err and "nobody trusts it" in err


@pytest.mark.parametrize(("options", "told"), [
    (["--c2pa", "--c2pa-cert", "cert.pem"], "--c2pa-key: is missing beside the other"),
    (["--c2pa", "--c2pa-cert", "no.pem", "--c2pa-key", "no.pem"], "cannot be read"),
    (["--c2pa", "--c2pa-cert", "note.txt", "--c2pa-key", "note.txt"], "holds no PEM certificate"),
    (["--c2pa-key", "key.pem"], "--c2pa-key: belongs to --c2pa"),
])  # fmt: skip
def test_refused_before_anything_is_rendered(run, layout_file, tmp_path, monkeypatch, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("hello")
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", *options)
    assert code == 2 and told in err and "Traceback" not in err and not (tmp_path / "out").exists()


def test_a_certificate_that_does_not_fit(run, layout_file, tmp_path):
    for name, text in zip(
        ("cert.pem", "key.pem"), (make_test_certificate()[0], make_test_certificate()[1]), strict=True
    ):
        (tmp_path / name).write_text(text)
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa", "--c2pa-cert", tmp_path / "cert.pem",
                       "--c2pa-key", tmp_path / "key.pem")  # fmt: skip
    [file] = (tmp_path / "out").glob("*.png")
    if code == 0:  # the library signs with any key: what it wrote must then be told as broken
        assert read_provenance(file).signature == "broken"
    else:
        assert code == 2 and "cannot sign with this certificate" in err and read_provenance(file).signature == "none"


def test_a_reference_that_changed_is_not_signed_for(run, layout_file, tmp_path):
    assert run("generate", layout_file, "-o", tmp_path / "out")[0] == 0
    (tmp_path / "ana.png").write_bytes((tmp_path / "ben.png").read_bytes())
    from anyphoto_cli.errors import InputError
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials

    [file] = (tmp_path / "out").glob("*.png")
    with pytest.raises(InputError, match=r"'ana\.png' has changed since"):
        sign_pictures([file], read_credentials())
    assert read_provenance(file).signature == "none"


def test_without_the_library_nothing_is_rendered(run, layout_file, tmp_path, monkeypatch):
    import sys

    certificate, key = make_test_certificate()
    (tmp_path / "cert.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    monkeypatch.setitem(sys.modules, "c2pa", None)
    for own in ([], ["--c2pa-cert", tmp_path / "cert.pem", "--c2pa-key", tmp_path / "key.pem"]):
        code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa", *own)
        assert code == 1 and "anyphoto[c2pa]" in err and not (tmp_path / "out").exists()


def a_camera(picture):
    """JPEG bytes as a camera writes them that signs: with credentials, a thumbnail and who was where."""
    import io

    from anyphoto_cli.generate.signing import open_c2pa

    c2pa, (certificate, key) = open_c2pa(), make_test_certificate()
    taken = {"action": "c2pa.created",
             "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}  # fmt: skip
    exif = {"@context": {"exif": "http://ns.adobe.com/exif/1.0/"}, "exif:GPSLatitude": "48,51.5N"}
    told = {"claim_generator_info": [{"name": "camera", "version": "1"}], "format": "image/jpeg", "assertions": [
        {"label": "c2pa.actions.v2", "data": {"actions": [taken]}},
        {"label": "stds.exif", "data": exif, "kind": "Json"},
    ]}  # fmt: skip
    plain, signed = io.BytesIO(), io.BytesIO()
    picture.save(plain, "JPEG")
    builder = c2pa.Builder(told, c2pa.Context.from_dict({"builder": {"thumbnail": {"enabled": True}}}))
    info = c2pa.C2paSignerInfo("es256", certificate.encode(), key.encode(), None)
    builder.sign(c2pa.Signer.from_info(info), "image/jpeg", plain, signed)
    return signed.getvalue()


def test_nothing_of_a_reference_goes_in_whatever_it_is(run, tmp_path):
    from PIL import Image

    layout = small_layout(tmp_path)
    with Image.open(tmp_path / "ana.png") as ana, Image.open(tmp_path / "ben.png") as ben:
        photo = a_camera(ana)
        ben.save(tmp_path / "ben.jpg", "WEBP")  # as browsers save them
    assert b"48,51.5N" in photo and b"c2pa.thumbnail" in photo
    (tmp_path / "ana.jpg").write_bytes(photo)
    layout.write_text(layout.read_text().replace(".png", ".jpg"))
    code, _, err = run("generate", layout, "-o", tmp_path / "out", "--c2pa")
    assert code == 0 and "Traceback" not in err, err
    [file] = (tmp_path / "out").glob("*.png")
    data, found = file.read_bytes(), read_provenance(file)
    assert not any(part in data for part in (b"48,51.5N", b"c2pa.thumbnail", b"digitalCapture"))
    assert found.signature == "untrusted" and found.ingredients == (
        ("ana", found.record["references"]["ana.jpg"]), ("ben", found.record["references"]["ben.jpg"]),
    )  # fmt: skip


def test_a_picture_rendered_again_takes_no_signature(run, signed):
    code, _, err = run("generate", "--from", signed[0], "--c2pa")
    assert code == 2 and "takes no --c2pa beside it" in err
