"""Content credentials: whole they verify, one changed bit breaks them, and references are hashes, never pictures."""

import json
import shutil
import struct
import zlib

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
    assert code == 0 and "no trust list was given" in said and "made from: ana" in said and "seed 0" in said
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

    from anyphoto_cli.errors import InputError
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials

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
    with pytest.raises(InputError, match="its record was edited since"):
        sign_pictures([tmp_path / "edited.png"], read_credentials())
    shutil.copyfile(tmp_path / "edited.png", plain.parent / "out" / "edited.png")  # where its references are
    told = "edited.png: its record was edited since"
    assert told in run("verify", plain.parent / "out" / "edited.png")[2]
    assert told not in run("verify", signed[0])[2]
    assert run("provenance", plain)[0] == 0


def saved(file, to, change=lambda image: image, forget=(), told=()):
    """As a program saves a picture that keeps its texts and knows nothing of credentials."""
    from PIL import Image, PngImagePlugin

    with Image.open(file) as image:
        record = {key: value for key, value in json.loads(image.info["anyphoto"]).items() if key not in forget}
        record.update(told)
        info = PngImagePlugin.PngInfo()
        info.add_itxt("anyphoto", json.dumps(record))
        change(image.convert("RGB")).save(to, pnginfo=info)
    return to


def painted(image):
    image.paste("red", (0, 0, image.width // 2, image.height))
    return image


def test_painted_pixels_are_seen_without_a_signature(run, signed, tmp_path):
    from anyphoto_cli.errors import InputError
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials

    _, plain = signed
    for name, change in (("red", painted), ("cut", lambda image: image.crop((0, 0, image.width, 16)))):
        file = saved(plain, tmp_path / f"{name}.png", change)
        code, said, _ = run("provenance", file)
        assert code == 3 and "agrees with its fingerprint" in said and "the pixels are NOT those of the record" in said
        assert json.loads(run("provenance", file, "--json")[1])["pixels"] == "other"
        with pytest.raises(InputError, match="its pixels are not those of its record"):
            sign_pictures([file], read_credentials())
    code, said, _ = run("provenance", saved(plain, tmp_path / "same.png"))
    assert code == 0 and "the pixels are those of the record" in said
    code, said, _ = run("provenance", saved(plain, tmp_path / "older.png", painted, forget=("pixels",)))
    assert code == 0 and "whether the pixels are those of the record is unknown" in said


def test_credentials_that_are_gone_are_missed(run, signed, tmp_path):
    code, said, _ = run("provenance", saved(signed[0], tmp_path / "saved.png"))
    assert code == 3 and "content credentials: GONE, it was signed" in said and "the pixels are those of" in said
    assert json.loads(run("provenance", tmp_path / "saved.png", "--json")[1])["credentials_gone"] is True
    assert "GONE" not in run("provenance", signed[0])[1] + run("provenance", signed[1])[1]


def test_what_is_rendered_again_has_pixels_of_its_own_and_no_signature(run, signed):
    file = signed[0]
    elsewhere = {"pixels": {"mode": "RGB", "width": 8, "height": 8, "sha256": "0" * 64}}  # another machine's pixels
    red = saved(file, file.with_name("red.png"), painted, told=elsewhere)
    for picture, told in ((file, "identical"), (red, "differs")):
        _, said, err = run("generate", "--from", picture)
        assert told in said and ("its pixels are not those of its record" in err) is (picture == red), err
        code, said, _ = run("provenance", picture.with_name(f"{picture.stem}_again.png"))
        assert code == 0 and "the pixels are those of the record" in said and "no content credentials" in said


def test_a_copy_that_was_drawn_on_says_of_what(run, signed, tmp_path):
    from PIL import Image

    from anyphoto_cli.files.images import read_picture
    from anyphoto_cli.generate.provenance import sign_pictures
    from anyphoto_cli.generate.signing import read_credentials
    from anyphoto_cli.generate.verifying import _copy

    file, plain = signed
    picture, copy = read_picture(file), tmp_path / "trip.verify.png"
    copy.write_bytes(_copy(file, picture, painted(Image.fromarray(picture))))
    assert b"trainedAlgorithmicMedia" in copy.read_bytes()
    code, said, _ = run("provenance", copy)
    assert code == 0 and f"a copy of {file.name}, drawn on" in said and "prompt: two friends" in said
    assert "the pixels are those of the record" in said and "no content credentials" in said
    code, _, err = run("generate", "--from", copy)
    assert code == 2 and "is a copy that was drawn on" in err
    assert (
        sign_pictures([copy], read_credentials()) == 1
    )  # where its references are not: the picture is what it is from
    found = read_provenance(copy)
    assert found.signature == "untrusted" and found.good and found.pixels == "same"
    assert found.ingredients == ((f"{file.name} (its pixels)", read_provenance(plain).record["pixels"]["sha256"]),)
    red = saved(file, tmp_path / "red.png", painted)
    copy.write_bytes(_copy(red, read_picture(red), Image.fromarray(picture)))
    assert read_provenance(copy).pixels == "other"  # what it was drawn on was not the picture any more
    Image.fromarray(picture).save(tmp_path / "photo.png")
    copy.write_bytes(_copy(tmp_path / "photo.png", picture, Image.fromarray(picture)))
    assert b"trainedAlgorithmicMedia" not in copy.read_bytes()  # nobody said that a machine made that one


def test_whom_a_trust_list_vouches_for_is_trusted(run, signed, tmp_path, monkeypatch):
    from anyphoto_cli.config.home import anyphoto_home

    own = anyphoto_home() / "c2pa" / "test-certificate.pem"
    other, note = tmp_path / "other.pem", tmp_path / "note.txt"
    other.write_text(make_test_certificate()[0])
    note.write_text("hello")
    code, said, _ = run("provenance", signed[0], "--trust-anchors", own)
    assert code == 0 and "content credentials: valid, signed by anyphoto test certificate" in said
    code, said, _ = run("provenance", signed[0], "--trust-anchors", other)
    assert code == 0 and "its certificate is not on the trust list" in said
    for file, told in ((note, "holds no PEM certificate"), (tmp_path / "no.pem", "cannot be read")):
        code, _, err = run("provenance", signed[0], "--trust-anchors", file)
        assert code == 2 and told in err and "--trust-anchors" in err
    monkeypatch.setenv("ANYPHOTO_PROVENANCE_TRUST_ANCHORS", str(own))
    assert json.loads(run("provenance", signed[0], "--json")[1])["signature"] == "valid"


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


def layout_of(file, **told):
    return {"layout": read_provenance(file).record["layout"] | told}


def test_a_record_without_what_is_told_of_it_is_damaged(run, signed, tmp_path):
    file = signed[1]
    edits = (
        {"layout": {}}, layout_of(file, seed="x"), layout_of(file, faces=["ana"]), {"adapter": "x"},
        {"loras": [{"name": "n", "sha256": "0", "scale": "much"}]}, {"loras": 3}, {"face_pack": {}},
    )  # fmt: skip
    for told in edits:
        edited = saved(file, tmp_path / "edited.png", told=told)
        code, said, err = run("provenance", edited)
        assert code == 3 and "an anyphoto record that is DAMAGED" in said, (told, said, err)
    code, _, err = run("verify", edited)
    assert code == 2 and "says nothing of a layout" in err


def test_a_picture_that_no_decoder_takes_is_told_in_a_line(run, signed, layout_file, tmp_path):
    """A header of 400 megapixels, and a colour profile that is none behind the pixels."""
    from PIL import Image

    whole = signed[1].read_bytes()
    end = whole.index(b"IEND") - 4
    huge, torn, photo = tmp_path / "huge.png", tmp_path / "torn.png", tmp_path / "photo.png"
    huge.write_bytes(enlarged(whole))
    torn.write_bytes(whole[:end] + chunk(b"iCCP", b"abc\0") + whole[end:])
    code, said, _ = run("provenance", huge)
    assert code == 3 and "an anyphoto record that is DAMAGED" in said
    code, said, _ = run("provenance", torn)
    assert code == 3 and "agrees with its fingerprint" in said and "the pixels are DAMAGED" in said
    for file, told in ((huge, "far more pixels"), (torn, "is a broken picture")):
        code, _, err = run("verify", file)
        assert code == 2 and "says nothing of a layout" in err, err
        code, _, err = run("verify", file, "--layout", layout_file, "--face-pack", "mini")
        assert code == 2 and told in err, err
    Image.new("L", (8, 8)).save(photo)  # nobody's record, nobody's damage
    photo.write_bytes(enlarged(photo.read_bytes()))
    code, said, _ = run("provenance", photo)
    assert code == 0 and "no anyphoto record" in said


def enlarged(png):
    """Its header says 20000 x 20000 px."""
    return png[:8] + chunk(b"IHDR", struct.pack(">II", 20000, 20000) + png[24:29]) + png[33:]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_a_record_is_read_also_where_the_pixels_are_damaged(run, signed, tmp_path):
    _, plain = signed
    whole = plain.read_bytes()
    at = whole.index(b"IDAT") + 40
    assert read_provenance(plain).pixels == "same"
    for name, data in (("cut.png", whole[:at]), ("torn.png", whole[:at] + bytes(200) + whole[at + 200 :])):
        (tmp_path / name).write_bytes(data)
        found = read_provenance(tmp_path / name)
        assert found.record is not None and found.intact and found.pixels == "damaged"
        code, said, _ = run("provenance", tmp_path / name)
        assert code == 3 and "seed 0" in said and "the pixels are DAMAGED" in said
        code, _, err = run("generate", "--from", tmp_path / name)
        assert code == 2 and "holds no anyphoto record" in err  # it is no picture to compare with


def test_with_a_certificate_of_ones_own(run, layout_file, tmp_path):
    certificate, key = make_test_certificate()
    (tmp_path / "cert.pem").write_text(certificate)
    (tmp_path / "key.pem").write_text(key)
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa", "--c2pa-cert", tmp_path / "cert.pem",
                       "--c2pa-key", tmp_path / "key.pem", "--annotate", "--face-pack", "mini")  # fmt: skip
    assert code == 3 and "test certificate made on this machine" not in err, err  # the toy draws nobody
    file, copy = sorted((tmp_path / "out").glob("*.png"))
    assert read_provenance(file).signature == read_provenance(copy).signature == "untrusted"
    data = file.read_bytes()
    code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--face-pack", "mini", "--c2pa", "-q")
    assert code == 0 and "Warning: signing with a test certificate" in err and "nobody trusts it" in err
    assert file.read_bytes() == data  # signed already: it stays as it is


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


def an_rsa_key():
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048)
    return key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()).decode()


def test_a_certificate_that_does_not_fit(run, layout_file, tmp_path):
    for name, text in zip(
        ("cert.pem", "key.pem"), (make_test_certificate()[0], make_test_certificate()[1]), strict=True
    ):
        (tmp_path / name).write_text(text)
    (tmp_path / "rsa.pem").write_text(an_rsa_key())
    for key in ("key.pem", "rsa.pem"):
        code, _, err = run("generate", layout_file, "-o", tmp_path / "out", "--c2pa", "--c2pa-cert",
                           tmp_path / "cert.pem", "--c2pa-key", tmp_path / key)  # fmt: skip
        assert code == 2 and "--c2pa-cert: cannot sign with this certificate" in err and "ES256" in err, err
        assert not (tmp_path / "out").exists()


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
