"""The paper's section 3 read literally, a branch a modality and no sharing: the reference for the fast model.

Every identity is a branch of its own with its own modulation vector and weights W + BA; attention is one softmax over
a dense mask. Written from the equations and FLUX's published block structure, with none of the package's functions.
"""

import torch
from peft.tuners.lora import LoraLayer
from torch.nn import functional as F


def weights(layer, adapted: bool) -> tuple[torch.Tensor, torch.Tensor]:
    if not isinstance(layer, LoraLayer):
        return layer.weight, layer.bias
    base = layer.base_layer
    if not adapted:
        return base.weight, base.bias
    a, b = layer.lora_A["anyphoto"].weight, layer.lora_B["anyphoto"].weight
    return base.weight + layer.scaling["anyphoto"] * (b @ a), base.bias


def linear(layer, x, adapted):
    return F.linear(x, *weights(layer, adapted))


def norm(x):
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def rms(x, layer):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * layer.weight


def rotate(x, cos, sin):
    """x: [S, heads, head_dim]; pairs (x0, x1) are turned by their angle, in float32 as diffusers does it."""
    x0, x1 = x.float()[..., 0::2], x.float()[..., 1::2]
    c, s = cos[:, None, 0::2], sin[:, None, 0::2]
    return torch.stack([x0 * c - x1 * s, x1 * c + x0 * s], -1).flatten(-2).to(x.dtype)


def attend(branches_q, branches_k, branches_v):
    """Branches [T, X, E_1 ..]; Eq. 19 as a softmax with -inf."""
    owner = [i for i, q in enumerate(branches_q) for _ in range(len(q))]
    allowed = torch.tensor([[a < 2 or b < 2 or a == b for b in owner] for a in owner])
    q, k, v = (torch.cat(b).transpose(0, 1) for b in (branches_q, branches_k, branches_v))
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(~allowed, float("-inf"))
    out = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
    return out.split([len(b) for b in branches_q])


def forward(model, hidden_states, encoder_hidden_states, pooled_projections, timestep, img_ids, txt_ids, guidance,
            faces, return_dict=False):  # fmt: skip
    """One sample. faces: the LocationTokens of this sample."""
    E = list(faces.tokens.split(faces.lengths))
    E_ids = list(faces.ids.split(faces.lengths))
    y = model.time_text_embed(timestep * 1000, guidance * 1000, pooled_projections)[0]
    projector = model.id_projector
    deltas = [projector.fc2(F.gelu(projector.fc1(e))) for e in faces.embeddings]
    own = model.method.identity_guidance
    told = guidance if own is None else guidance * 0 + own
    y_own = model.time_text_embed(timestep * 1000, told * 1000, pooled_projections)[0]
    Y = [y, y, *(y_own + d for d in deltas)]
    adapted = [False, False, *(True for _ in E)]

    rope = [model.pos_embed(ids) for ids in (txt_ids, img_ids, *E_ids)]
    h = [
        linear(model.context_embedder, encoder_hidden_states[0], False),
        linear(model.x_embedder, hidden_states[0], False),
    ]
    h += [linear(model.x_embedder, e, True) for e in E]
    dim = model.config.attention_head_dim

    def heads(x):
        return x.unflatten(-1, (-1, dim))

    for block in model.transformer_blocks:
        attn, q, k, v, mods = block.attn, [], [], [], []
        for i, x in enumerate(h):
            mod = block.norm1_context if i == 0 else block.norm1
            mods.append(linear(mod.linear, F.silu(Y[i]), adapted[i]).chunk(6))
            shift, scale = mods[i][:2]
            x = norm(x) * (1 + scale) + shift
            to = (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj) if i == 0 else (attn.to_q, attn.to_k, attn.to_v)
            nq, nk = (attn.norm_added_q, attn.norm_added_k) if i == 0 else (attn.norm_q, attn.norm_k)
            q.append(rotate(rms(heads(linear(to[0], x, adapted[i])), nq), *rope[i]))
            k.append(rotate(rms(heads(linear(to[1], x, adapted[i])), nk), *rope[i]))
            v.append(heads(linear(to[2], x, adapted[i])))
        for i, out in enumerate(attend(q, k, v)):
            _, _, gate, shift, scale, gate_mlp = mods[i]
            ff, last = (block.ff_context, attn.to_add_out) if i == 0 else (block.ff, attn.to_out[0])
            x = h[i] + gate * linear(last, out, adapted[i])
            inner = F.gelu(linear(ff.net[0].proj, norm(x) * (1 + scale) + shift, adapted[i]), approximate="tanh")
            h[i] = x + gate_mlp * linear(ff.net[2], inner, adapted[i])

    for block in model.single_transformer_blocks:
        attn, q, k, v, gates, mlps = block.attn, [], [], [], [], []
        for i, x in enumerate(h):
            shift, scale, gate = linear(block.norm.linear, F.silu(Y[i]), adapted[i]).chunk(3)
            x = norm(x) * (1 + scale) + shift
            q.append(rotate(rms(heads(linear(attn.to_q, x, adapted[i])), attn.norm_q), *rope[i]))
            k.append(rotate(rms(heads(linear(attn.to_k, x, adapted[i])), attn.norm_k), *rope[i]))
            v.append(heads(linear(attn.to_v, x, adapted[i])))
            gates.append(gate)
            mlps.append(F.gelu(linear(block.proj_mlp, x, adapted[i]), approximate="tanh"))
        for i, out in enumerate(attend(q, k, v)):
            h[i] = h[i] + gates[i] * linear(block.proj_out, torch.cat([out, mlps[i]], -1), adapted[i])

    return (model.proj_out(model.norm_out(h[1][None], y[None])),)
