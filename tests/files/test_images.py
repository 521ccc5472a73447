"""The only decoder: its mode table, rotation, colour, and everything it must not swallow."""

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from anyphoto_cli.errors import EnvironmentFault, InputError
from anyphoto_cli.files import images
from anyphoto_cli.files.images import decode, read_bytes, read_picture

RED = (200, 40, 30)


# 64x48, left half red, right half blue; drawn and encoded for this test.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAa1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAA"
    "AA5waXRtAAAAAAACAAAAEGlkYXQAAAAAAEAAMAAAADhpbG9jAQAAAERAAAIAAQAAAAAAAAHRAAEAAAAAAAAAJAACAAEAAAAAAAAA"
    "AQAAAAAAAAAIAAAAOGlpbmYAAAAAAAIAAAAVaW5mZQIAAAEAAQAAaHZjMQAAAAAVaW5mZQIAAAAAAgAAZ3JpZAAAAADYaXBycAAA"
    "ALZpcGNvAAAAdmh2Y0MBA3AAAAAAAAAAAAAe8AD8/fj4AAAPAyAAAQAYQAEMAf//A3AAAAMAkAAAAwAAAwAeugJAIQABACpCAQED"
    "cAAAAwCQAAADAAADAB6gIIEFlurkprm4EBAwIAAAAwAgAAADACEiAAEABkQBwXPAiQAAABRpc3BlAAAAAAAAAEAAAABAAAAAFGlz"
    "cGUAAAAAAAAAQAAAADAAAAAQcGl4aQAAAAADCAgIAAAAGmlwbWEAAAAAAAAAAgABAoECAAICA4QAAAAaaXJlZgAAAAAAAAAOZGlt"
    "ZwACAAEAAQAAACxtZGF0AAAAICgBrxmA70mlv//cz5/3JS/4bshf/5UOd88yn/DUQ21v"
)


def saved(tmp_path, image, name="x.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def gradient():
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    return Image.fromarray(np.stack([np.tile(ramp, (48, 1))] * 3, -1))


@pytest.mark.parametrize(
    "mode, name, expected",
    [
        ("RGB", "x.png", RED),
        ("RGB", "x.webp", RED),
        ("RGB", "x.avif", RED),
        ("RGB", "x.bmp", RED),
        ("RGB", "x.tif", RED),
        ("RGB", "x.jpg", RED),
        ("L", "x.png", (87, 87, 87)),
        ("1", "x.png", (0, 0, 0)),
        ("P", "x.gif", RED),
        ("CMYK", "x.jpg", RED),
        ("YCbCr", "x.jpg", RED),
        ("RGBA", "x.png", RED),
        ("LA", "x.png", (87, 87, 87)),
    ],
)
def test_mode_table(tmp_path, mode, name, expected):
    picture = read_picture(
        saved(
            tmp_path,
            Image.new("RGB", (32, 24), RED).convert(mode, dither=Image.Dither.NONE, palette=Image.Palette.ADAPTIVE),
            name,
        )
    )
    assert picture.shape == (24, 32, 3) and picture.dtype == np.uint8
    assert np.abs(picture.astype(int) - expected).max() <= 6


def test_transparent_parts_become_white(tmp_path):
    image = Image.new("RGBA", (8, 8), (*RED, 0))
    assert (read_picture(saved(tmp_path, image)) == 255).all()
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([*RED] + [0] * 765)
    assert (read_picture(saved(tmp_path, palette, "p.png", transparency=0)) == 255).all()


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    levels = np.array([[0, 256, 65535], [32768, 255, 40000]], np.uint16)
    picture = read_picture(saved(tmp_path, Image.fromarray(levels)))
    assert np.array_equal(picture[..., 0], levels >> 8)


def test_sixteen_bits_are_read_in_little_more_than_the_picture_takes(tmp_path):
    """Of the levels, 2 MB and 5, no copy is made: two of 10 MB each were."""
    import tracemalloc

    levels = np.random.default_rng(0).integers(0, 65536, (1203, 1000), np.uint16)
    for name, image in {"l.png": Image.fromarray(levels), "i.tif": Image.fromarray(levels.astype(np.int32))}.items():
        data = saved(tmp_path, image, name).read_bytes()
        tracemalloc.start()
        picture = np.asarray(decode(data, tmp_path / name))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert np.array_equal(picture[..., 1], levels >> 8) and peak < 2.6 * picture.nbytes, (peak, picture.nbytes)
    with pytest.raises(InputError, match="32-bit grey levels"):
        read_picture(saved(tmp_path, Image.fromarray(levels.astype(np.int32) + 1), "j.tif"))


def test_what_is_no_fault_of_the_file_is_not_called_so(tmp_path, monkeypatch):
    file = saved(tmp_path, Image.new("RGB", (8, 8)))
    for raised, told in (
        (MemoryError, MemoryError),
        (KeyboardInterrupt, KeyboardInterrupt),
        (RuntimeError, InputError),
    ):
        with pytest.raises(told), monkeypatch.context() as patch:
            patch.setattr("PIL.ImageOps.exif_transpose", lambda *_, raised=raised, **__: (_ for _ in ()).throw(raised))
            read_picture(file)


def test_exif_rotation_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    file = saved(tmp_path, gradient(), "x.jpg", exif=exif, quality=95)
    picture = read_picture(file)
    assert picture.shape == (64, 48, 3)
    assert picture[0].mean() < 10 and picture[-1].mean() > 245


def test_colour_profiles_become_srgb(tmp_path):
    """A profile that exchanges nothing leaves the picture; a linear one makes mid-grey lighter."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = Image.new("RGB", (8, 8), (128, 128, 128))
    same = read_picture(saved(tmp_path, plain, "s.png", icc_profile=srgb))
    assert np.abs(same.astype(int) - 128).max() <= 1
    broken = read_picture(saved(tmp_path, plain, "b.png", icc_profile=b"not a profile"))
    assert (broken == 128).all()


def test_heic_opens_with_its_extra_and_says_so_without(tmp_path, monkeypatch):
    file = tmp_path / "x.heic"
    file.write_bytes(HEIC)
    picture = read_picture(file)
    assert picture.shape == (48, 64, 3)
    assert np.abs(picture[10, 10].astype(int) - RED).max() < 6 and picture[10, 50, 2] > 180
    file.write_bytes(HEIC[:300])
    with pytest.raises(InputError, match="broken picture|not a picture"):
        read_picture(file)
    file.write_bytes(HEIC)
    monkeypatch.setitem(__import__("sys").modules, "pi_heif", None)  # as if it were not installed
    with pytest.raises(EnvironmentFault, match=r"anyphoto\[heif\]"):
        read_picture(file)


def test_every_truncation_is_refused(tmp_path):
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(buffer, "JPEG")
    data = buffer.getvalue()
    for cut in np.linspace(0, len(data) - 3, 40).astype(int):
        (tmp_path / "cut.jpg").write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_picture(tmp_path / "cut.jpg")


def png_of(width, height):
    """A PNG that claims a size without the pixels for it."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side, words", [(9000, "9000x9000 pixels"), (60000, "far more pixels")])
def test_bombs_are_refused_before_they_unfold(tmp_path, side, words):
    (tmp_path / "bomb.png").write_bytes(png_of(side, side))
    with pytest.raises(InputError, match=words):
        read_picture(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "name, data",
    [
        ("text.jpg", b"hello"),
        ("empty.png", b""),
        ("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n"),
        ("vector.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
    ],
)
def test_what_is_no_photo_is_refused(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=name):
        read_picture(tmp_path / name)


def test_missing_and_odd_paths_are_refused(tmp_path):
    for path in (tmp_path / "gone.png", tmp_path, tmp_path / "nul\0.png"):
        with pytest.raises(InputError):
            read_picture(path)


def test_a_folder_is_told_as_on_linux_where_the_system_opens_none(tmp_path, monkeypatch):
    def refuses(path, flags):  # Windows
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(images.os, "open", refuses)
    with pytest.raises(InputError, match="is not a regular file"):
        read_bytes(tmp_path)
    with pytest.raises(InputError, match=r"cannot be opened \(Permission denied\)"):
        read_bytes(tmp_path / "x.png")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="a regular file that cannot be read is one of Linux")
def test_a_file_that_opens_and_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "x.jpg").symlink_to("/proc/self/mem")
    with pytest.raises(InputError, match=r"x\.jpg: cannot be read \(Input/output error\)"):
        read_picture(tmp_path / "x.jpg")


def test_mpo_is_a_jpeg_and_what_is_no_picture_is_called_so(tmp_path):
    first, second = Image.new("RGB", (32, 24), RED), Image.new("RGB", (32, 24), "blue")
    first.save(tmp_path / "x.mpo", save_all=True, append_images=[second], quality=98, subsampling=0)
    assert np.abs(read_picture(tmp_path / "x.mpo")[0, 0].astype(int) - RED).max() < 4
    (tmp_path / "text.jpg").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"text.jpg: is not a picture anyphoto can read. Known formats: JPEG"):
        read_picture(tmp_path / "text.jpg")
    (tmp_path / "none.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"none.jpg: is empty"):
        read_picture(tmp_path / "none.jpg")
