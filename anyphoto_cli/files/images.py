"""The only decoder. What it accepts and how each mode becomes RGB:

| in the file | becomes |
|---|---|
| RGB | as it is |
| L, 1, P, YCbCr, CMYK, HSV | converted to RGB |
| LA, PA, RGBA, RGBa, P or RGB or L with a transparent colour | laid on white |
| I;16, I;16B, I (16-bit grey) | the upper 8 bits |
| LAB, F, anything else | refused |

EXIF rotation is applied once; an embedded colour profile is converted to sRGB; nothing else of the metadata is read.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyphoto_cli.errors import AnyPhotoError, EnvironmentFault, InputError
from anyphoto_cli.files.quiet import unheard

if TYPE_CHECKING:
    from PIL import Image

    from anyphoto_cli.types import Picture

MAX_BYTES = 128 * 2**20
MAX_PIXELS = 64_000_000
# No EPS, PDF or PS: those run an interpreter.
# JPEG opens MPO, too; named by itself, MPO raises a KeyError for whatever is no picture.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF", "PPM", "TGA", "JPEG2000", "ICO", "DIB")
_HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


def refuse_no_png(out: Path) -> None:
    """For what is written as PNG: raises InputError for a file of another ending, which nothing would open. A pipe has
    none.
    """
    if out.suffix.lower() != ".png" and (out.is_file() or not out.exists()):
        raise InputError("does not end in .png", file=out, field="--out")


def read_picture(path: Path) -> Picture:
    """[H, W, 3] RGB, 0-255, upright.

    Raises InputError when the file is missing, no regular file, larger than 128 MiB or 64 megapixels, broken, or of
    a kind the table above refuses; EnvironmentFault when a HEIC needs the `heif` extra.
    """
    import numpy as np

    return np.asarray(decode(read_bytes(path), path))


def decode(data: bytes, path: Path) -> Image.Image:
    """A PIL picture in RGB from a file's bytes; `path` is for the messages. Raises as `read_picture` does."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if not data:
        raise InputError("is empty", file=path)
    formats = _formats(data, path)
    unheard(module=r"PIL\.")  # of odd metadata, mostly
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
        if image.width * image.height > MAX_PIXELS:
            raise _too_many_pixels(path, image.width, image.height)
        image.load()
        profile = image.info.get("icc_profile")
        ImageOps.exif_transpose(image, in_place=True)
        return _to_srgb(_to_rgb(image, path), profile)
    except Image.DecompressionBombError as error:
        raise InputError("has far more pixels than a photo", file=path, remedy="Limit: 64 megapixels") from error
    except UnidentifiedImageError as error:
        remedy = f"Known formats: {', '.join(FORMATS[:7])}"
        raise InputError("is not a picture anyphoto can read", file=path, remedy=remedy) from error
    except (AnyPhotoError, MemoryError):
        raise
    except Exception as error:  # what decoders raise for bytes they do not understand is theirs to choose
        raise InputError(f"is a broken picture ({error})", file=path, remedy="Save it again and retry") from error


def read_bytes(path: Path) -> bytes:
    """The bytes of a regular file; a FIFO or device is refused before anything blocks on it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:
        if isinstance(error, PermissionError) and path.is_dir():  # Windows opens no folder at all
            raise InputError("is not a regular file", file=path) from error
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be opened ({reason})", file=path) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError("is not a regular file", file=path)
        if status.st_size > MAX_BYTES:
            raise InputError(f"has {status.st_size / 2**20:.0f} MiB", file=path, remedy="Limit: 128 MiB")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=path) from error
    finally:
        os.close(descriptor)


def _formats(data: bytes, path: Path) -> tuple[str, ...]:
    """The formats to try; HEIC joins only where its decoder is installed."""
    if data[4:8] != b"ftyp" or data[8:12] not in _HEIF:
        return FORMATS
    try:
        import pi_heif
    except ImportError as error:
        raise EnvironmentFault(
            "is a HEIC picture, and its decoder is not installed",
            file=path,
            remedy='Run: pip install "anyphoto[heif]", or save the picture as JPEG',
        ) from error
    pi_heif.register_heif_opener()
    return ("HEIF",)


def _too_many_pixels(path: Path, width: int, height: int) -> InputError:
    return InputError(f"has {width}x{height} pixels", file=path, remedy="Limit: 64 megapixels; make it smaller")


def _to_rgb(image: Image.Image, path: Path) -> Image.Image:
    from PIL import Image

    if image.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode.startswith("I"):
        return _upper_bits(image, path).convert("RGB")
    if image.mode in ("F", "LAB"):
        raise InputError(f"has the colour mode {image.mode}", file=path, remedy="Save it as RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


_ROWS = 256
"""Of a picture at a time."""


def _upper_bits(image: Image.Image, path: Path) -> Image.Image:
    """16-bit grey to 8 bits, some rows at a time: of a large picture no second copy of the levels is made."""
    import numpy as np
    from PIL import Image

    upper = np.empty((image.height, image.width), np.uint8)
    for top in range(0, image.height, _ROWS):
        levels = np.asarray(image.crop((0, top, image.width, min(top + _ROWS, image.height))))
        if levels.min() < 0 or levels.max() > 65535:
            raise InputError("has 32-bit grey levels", file=path, remedy="Save it with 8 or 16 bits")
        upper[top : top + _ROWS] = levels >> 8
    return Image.fromarray(upper)


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A wrong or odd colour profile never costs a picture: it is ignored then. CMYK profiles do not fit RGB."""
    if not profile:
        return image
    from PIL import ImageCms

    with suppress(ImageCms.PyCMSError, OSError):
        transform = _transform(profile)
        return image if transform is None else ImageCms.applyTransform(image, transform) or image
    return image


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> Any:
    """From a profile to sRGB; None where it is sRGB already, as most are. Raises as ImageCms does."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    if ImageCms.getProfileDescription(source).strip().lower().startswith("srgb"):
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), "RGB", "RGB")
