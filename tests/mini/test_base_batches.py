"""What the small base looks at: clear pictures of all styles, at the times that a render passes."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch

from anyphoto_cli.mini.pen import Chance
from anyphoto_cli.mini.picture import draw_picture, heads_of, style_of
from anyphoto_cli.mini.pretrain import album, base
from anyphoto_cli.mini.pretrain.latents import CHUNK, size_of
from anyphoto_cli.mini.pretrain.refine import SIDE, face_window


@pytest.mark.parametrize("seed", range(0, 4000, 331))
def test_lots_are_those_of_the_picture(seed):
    drawn = draw_picture(seed, size=(160, 128))
    assert style_of(seed) == drawn.style and len(heads_of(seed, (160, 128))) == len(drawn.people)


def test_pictures_looked_at_are_clear_and_of_all_styles():
    chunk, styles, people = 3, Counter(), Counter()
    clear, looked = base._clear_rows(chunk), 2000
    for number in range(looked):
        picture = chunk * CHUNK + base._row(Chance("sample", number), clear)
        heads = sorted(heads_of(picture, size_of(chunk)), key=lambda head: head.x)
        hidden = any(abs(a.x - b.x) < 0.5 * (a.scale + b.scale) and abs(a.y - b.y) < 0.5 * (a.scale + b.scale)
                     for a, b in pairwise(heads))  # fmt: skip
        people[0 if hidden else len(heads)] += 1
        styles[style_of(picture)] += 1
    assert people[0] < 0.1 * looked
    for style, share in base.STYLED.items():
        assert styles[style] / looked == pytest.approx(base.CLEAR * share, abs=0.08), styles
    assert people[4] > people[1]


def test_guidance_is_distilled_at_the_times_of_a_render():
    """By samples of a uniform walk from 1 to 0 that is shifted towards noise; flow matching hardly sees the first."""
    latents = torch.zeros(4000, 1, 1)
    plain, render = (base.noise_and_time(latents, range(4000), times)[1] for times in (base.TIMES, base.DISTIL_TIMES))
    assert (plain > 0.9).float().mean() < 0.03 and 0.1 < (render > 0.9).float().mean() < 0.2
    assert render.min() >= 0 and render.max() <= 1 and (render < 0.3).float().mean() > 0.1


def test_guided_velocity_is_the_told_one_at_guidance_one_and_further_off_from_the_free_one_above():
    torch.manual_seed(0)
    noisy, told, free = torch.randn(3, 2, 64, 64)
    t = torch.tensor([0.9, 0.2])
    assert torch.allclose(base.guided_velocity(noisy, t, told, free, torch.ones(2)), told, atol=1e-5)
    more = [base.guided_velocity(noisy, t, told, free, torch.full((2,), g)) - told for g in (2.0, 3.5)]
    along = [((one * (told - free)).sum((1, 2)) / (told - free).square().sum((1, 2))) for one in more]
    assert (along[1] > along[0]).all() and (along[0] > 0).all()
    assert (along[1][0] > along[1][1]).all()  # most in noise


def test_half_of_what_is_distilled_is_the_usual_guidance():
    told = base.distil_guidances(range(4000))
    assert (told == base.USUAL).float().mean() == pytest.approx(base.USUALLY, abs=0.03)
    assert told.min() == 1 and 5.5 < told.max() <= 6 and (told == 1).float().mean() > 0.05
    assert torch.equal(told, base.distil_guidances(range(4000)))


def test_windows_of_a_style_show_the_face_in_that_style():
    for number in range(6):
        drawn, points = face_window(number, {"pencil": 1.0})
        plain, same = face_window(number)
        assert drawn.shape == plain.shape == (SIDE, SIDE, 3) and (points == same).all()
        assert points.min() > -0.5 * SIDE and points.max() < 1.5 * SIDE
        assert np.ptp(drawn, axis=-1).mean() < 20  # pencil on paper


def test_decoded_pictures_are_kept_until_the_codec_changes(tmp_path):
    """Else the probe would learn from a VAE that was trained on since."""
    drawn, asked = album.open_album(tmp_path, 6, tell=lambda line: None), []

    def codec(change):
        def told(picture):
            asked.append(picture.shape)
            return picture // 2 + change

        return told

    for change, calls in ((0, 3), (0, 1), (1, 4)):  # the first picture tells whether the others are still true
        asked.clear()
        decoded = album.through_codec(drawn, tmp_path, 3, codec(change))
        assert len(decoded) == 3 and len(asked) == calls
        for index in range(3):
            assert np.array_equal(decoded.picture(index), drawn.picture(index) // 2 + change)
