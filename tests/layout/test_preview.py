"""Names on previews, in a font that writes ASCII alone."""

from anyphoto_cli.layout.preview import _in_ascii


def test_names_are_written_as_far_as_the_font_can():
    assert [_in_ascii(name, 1) for name in ("Ana", "José", "Łukasz", "李雷", "??")] == [
        "Ana", "Jose", "Lukasz", "face 2", "face 2",
    ]  # fmt: skip
