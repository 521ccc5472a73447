"""Small FLUX transformers and location tokens in float64, for tests of exactness."""

import torch

from anyphoto_cli.config.method import MethodConfig
from anyphoto_cli.model.location_lora import lora_parameters
from anyphoto_cli.model.token_pruning import LocationTokens, grid_ids
from anyphoto_cli.model.transformer import AnyPhotoTransformer

ROWS, COLUMNS, TEXT = 4, 5, 7
CONFIG = dict(
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=24,
    pooled_projection_dim=12,
    guidance_embeds=True,
    axes_dims_rope=(4, 6, 6),
)
METHOD = MethodConfig(lora_rank=3, lora_alpha=6, lora_feed_forward_in=True)


def transformer(trained: bool = True, method: MethodConfig = METHOD, seed: int = 0, **config) -> AnyPhotoTransformer:
    """trained: with an adapter of random numbers, none of them zero."""
    torch.manual_seed(seed)
    model = AnyPhotoTransformer(**CONFIG | config).double().eval()
    for parameter in model.parameters():  # biases too: FLUX's are not zero
        parameter.data = torch.randn_like(parameter) * 0.15
    model.requires_grad_(False)
    if trained:
        model.add_anyphoto(method)
        adapter = [*lora_parameters(model).values(), *model.id_projector.parameters()]
        for parameter in adapter:
            parameter.data = torch.randn_like(parameter).double() * 0.2
            parameter.requires_grad_(True)
    return model


def inputs(batch: int = 1, seed: int = 1) -> dict:
    g = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    return dict(
        hidden_states=randn(batch, ROWS * COLUMNS, 64),
        encoder_hidden_states=randn(batch, TEXT, CONFIG["joint_attention_dim"]),
        pooled_projections=randn(batch, CONFIG["pooled_projection_dim"]),
        timestep=torch.rand(batch, generator=g, dtype=torch.float64),
        guidance=torch.full((batch,), 3.5, dtype=torch.float64),
        img_ids=grid_ids(ROWS, COLUMNS),
        txt_ids=torch.zeros(TEXT, 3),
        return_dict=False,
    )


def located(*lengths: int, seed: int = 2) -> LocationTokens:
    g = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    places = torch.cat([torch.randperm(ROWS * COLUMNS, generator=g)[:n] for n in lengths])
    return LocationTokens(
        tokens=torch.randn(total, 64, generator=g, dtype=torch.float64),
        ids=grid_ids(ROWS, COLUMNS, 1)[places],
        lengths=tuple(lengths),
        embeddings=torch.nn.functional.normalize(torch.randn(len(lengths), 512, generator=g, dtype=torch.float64)),
    )
