"""FaceNet (InceptionResnetV1, VGGFace2) as the WithAnyone evaluator feeds it: BGR, 0 to 1, 112 px, not whitened.

The library's own convention is RGB, 160 px, standardised; published numbers were made this way. Its weights are
downloaded once, or taken from the file that ANYPHOTO_FACENET names: 20180402-114759-vggface2.pt.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from anyphoto_cli.errors import EnvironmentFault
from anyphoto_cli.faces.ffhq_faces import FFHQFaces, open_retinaface
from anyphoto_cli.files.commit import sha256_of_state
from anyphoto_cli.types import Picture

FILE = "ANYPHOTO_FACENET"


def open_facenet(device: str = "cpu") -> FFHQFaces:
    """Raises EnvironmentFault where facenet-pytorch, its weights, or facexlib are missing."""
    import torch

    try:
        from facenet_pytorch import InceptionResnetV1
    except Exception as error:  # it imports torchvision
        raise EnvironmentFault(
            f"facenet-pytorch cannot be imported ({type(error).__name__}: {str(error)[:80]})",
            remedy="Run: pip install --no-deps facenet-pytorch (it pins an old torch, and does not need it)",
        ) from error
    detector = open_retinaface(device)
    named = os.environ.get(FILE)
    try:
        network = InceptionResnetV1(pretrained=None if named else "vggface2")
        if named:
            state = torch.load(named, map_location="cpu", weights_only=True)
            network.load_state_dict({name: value for name, value in state.items() if not name.startswith("logits.")})
    except Exception as error:  # urllib and torch raise their own
        what = f"FaceNet's weights cannot be had ({type(error).__name__})"
        remedy = f"facenet-pytorch downloads them from GitHub; {FILE} names a copy"
        raise EnvironmentFault(what, file=named, remedy=remedy) from error
    network = network.eval().to(device)

    def run(crops: Picture) -> Any:
        with torch.inference_mode():
            return network(facenet_input(crops).to(device)).float().cpu().numpy()

    return FFHQFaces("facenet", sha256_of_state(network), run, detector)


def facenet_input(crops: Picture) -> Any:
    """[n, 112, 112, 3] RGB -> [n, 3, 112, 112] BGR, 0 to 1."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(crops[..., ::-1])).permute(0, 3, 1, 2).float() / 255
