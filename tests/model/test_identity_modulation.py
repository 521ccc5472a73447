"""The identity projector's start; what it does in the model is held against branches in test_transformer.py."""

import torch
from torch.nn import functional as F

from anyphoto_cli.model.identity_modulation import IdentityProjector


def test_the_projector_starts_at_nothing_and_tells_unit_vectors_apart():
    """Linear's own start would give values of .03 before GELU, where it is flat: identities would look alike."""
    torch.manual_seed(0)
    projector = IdentityProjector(512, 192, 64)
    embeddings = F.normalize(torch.randn(200, 512), dim=-1)
    assert not projector(embeddings).any()
    hidden = projector.fc1(embeddings)
    assert 0.8 < hidden.std(0).mean() < 1.2
    # One step of the last layer is enough for rows that differ as much as they have in common.
    wanted = torch.randn(200, 64)
    F.mse_loss(projector(embeddings), wanted).backward()
    assert not projector.fc1.weight.grad.any() and projector.fc2.weight.grad.abs().max() > 0
    with torch.no_grad():
        projector.fc2.weight -= 0.01 * projector.fc2.weight.grad.sign()
    delta = projector(embeddings)
    assert delta.std(0).mean() > 0.5 * delta.mean(0).abs().mean()
