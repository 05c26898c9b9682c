"""Sixty architectures, tiny: functions that build a model with random weights, and an example to trace it on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

VOCAB, WIDTH, LAYERS = 61, 32, 2
SEED = 0
Example = dict[str, Any]
Make = Callable[[str], tuple[nn.Module, Example]]  # of the attention implementation

TEXT = {
    "vocab_size": VOCAB, "hidden_size": WIDTH, "intermediate_size": 48, "num_hidden_layers": LAYERS, "num_attention_heads": 4,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GROUPED = {**TEXT, "num_key_value_heads": 2}
ROUTED = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}


def ids(batch: int = 2, length: int = 7, seed: int = 1) -> Tensor:
    """Random token ids, none of them special. Shapes: [batch, length]."""
    return torch.randint(3, VOCAB, (batch, length), generator=torch.Generator().manual_seed(seed))


def picture(*shape: int) -> Tensor:
    """Random normal numbers. Shapes: `shape`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def language_model(kind: str, **settings: Any) -> Make:
    """A causal language model of transformers by its model type."""

    def make(attention: str) -> tuple[nn.Module, Example]:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(kind, **{"use_cache": False, **settings})
        return AutoModelForCausalLM.from_config(config, attn_implementation=attention), {"input_ids": ids()}

    return make


def encoder(kind: str, example: Callable[[], Example] | None = None, **settings: Any) -> Make:
    """The bare model of a model type of transformers."""

    def make(attention: str) -> tuple[nn.Module, Example]:
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.for_model(kind, **settings)
        padded = {"input_ids": ids(), "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}
        return AutoModel.from_config(config, attn_implementation=attention), padded if example is None else example()

    return make


def plain(make: Callable[[], nn.Module], *shape: int) -> Make:
    """A plain module of one float input called `input`."""
    return lambda _: (make(), {"input": picture(*shape)})


def convolutional() -> nn.Module:
    """A small convolutional network."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.GELU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def prepared(make: Make, attention: str) -> tuple[nn.Module, Example]:
    """A model in eval mode whose parameters are all moved a little, so that no bias is zero, and its example."""
    torch.manual_seed(SEED)
    try:
        model, example = make(attention)
    except ValueError as error:
        if attention != "sdpa" or "attention implementation" not in str(error):
            raise
        model, example = make("eager")  # it has no other
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter), alpha=0.05)
    return model.eval(), example


GPT = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 4, "n_positions": 64, "vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
SEQ2SEQ = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
           "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0,
           "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "use_cache": False}  # fmt: skip
PATCHES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 4,
}
PICTURE: Callable[[], Example] = lambda: {"pixel_values": picture(2, 3, 16, 16)}  # noqa: E731
BOTH: Callable[[], Example] = lambda: {"input_ids": ids(), "decoder_input_ids": ids(seed=2)}  # noqa: E731

ZOO: dict[str, Make] = {
    "gpt2": language_model("gpt2", **GPT),
    "gpt_neo": language_model(
        "gpt_neo", hidden_size=WIDTH, num_layers=LAYERS, num_heads=4, attention_types=[[["global", "local"], 1]], vocab_size=VOCAB,
        max_position_embeddings=64, window_size=4,
    ),
    "gptj": language_model("gptj", **GPT, rotary_dim=4),
    "gpt_neox": language_model("gpt_neox", **TEXT),
    "gpt_bigcode": language_model("gpt_bigcode", **GPT),
    "codegen": language_model("codegen", **GPT, rotary_dim=4),
    "llama": language_model("llama", **GROUPED),
    "mistral": language_model("mistral", **GROUPED, sliding_window=4),
    "mixtral": language_model("mixtral", **GROUPED, **ROUTED),
    "qwen2": language_model("qwen2", **GROUPED),
    "qwen3": language_model("qwen3", **GROUPED, head_dim=8),
    "qwen2_moe": language_model("qwen2_moe", **GROUPED, **ROUTED, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    "qwen3_moe": language_model("qwen3_moe", **GROUPED, **ROUTED, head_dim=8, moe_intermediate_size=16),
    "gemma": language_model("gemma", **GROUPED, head_dim=8),
    "gemma2": language_model("gemma2", **GROUPED, head_dim=8, sliding_window=4),
    "gemma3_text": language_model("gemma3_text", **GROUPED, head_dim=8, sliding_window=4),
    "phi": language_model("phi", **TEXT),
    "phi3": language_model("phi3", **GROUPED),
    "olmo": language_model("olmo", **GROUPED),
    "olmo2": language_model("olmo2", **GROUPED),
    "opt": language_model("opt", **TEXT, ffn_dim=48, word_embed_proj_dim=WIDTH),
    "bloom": language_model("bloom", vocab_size=VOCAB, hidden_size=WIDTH, n_layer=LAYERS, n_head=4),
    "falcon": language_model("falcon", **TEXT),
    "falcon_alibi": language_model("falcon", **TEXT, alibi=True),
    "mpt": language_model("mpt", d_model=WIDTH, n_heads=4, n_layers=LAYERS, vocab_size=VOCAB, max_seq_len=64),
    "stablelm": language_model("stablelm", **GROUPED),
    "starcoder2": language_model("starcoder2", **GROUPED),
    "cohere": language_model("cohere", **GROUPED),
    "granite": language_model("granite", **GROUPED),
    "glm": language_model("glm", **GROUPED, head_dim=8),
    "nemotron": language_model("nemotron", **GROUPED),
    "persimmon": language_model("persimmon", **TEXT),
    "gpt_oss": language_model("gpt_oss", **GROUPED, **ROUTED, head_dim=8, sliding_window=4),
    "deepseek_v3": language_model(
        "deepseek_v3", **TEXT, num_key_value_heads=4, n_routed_experts=4, num_experts_per_tok=2, n_group=2, topk_group=1, q_lora_rank=16,
        kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, moe_intermediate_size=16, first_k_dense_replace=1,
    ),
    "mamba": language_model("mamba", vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=4),
    "rwkv": language_model("rwkv", vocab_size=VOCAB, hidden_size=WIDTH, attention_hidden_size=WIDTH, num_hidden_layers=LAYERS),
    "recurrent_gemma": language_model("recurrent_gemma", **GROUPED, lru_width=WIDTH, attention_window_size=4, head_dim=8),
    "bert": encoder("bert", **TEXT),
    "roberta": encoder("roberta", **TEXT),
    "distilbert": encoder("distilbert", vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=4, hidden_dim=48, max_position_embeddings=64),
    "electra": encoder("electra", **TEXT, embedding_size=WIDTH),
    "deberta_v2": encoder("deberta-v2", **TEXT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=8),
    "albert": encoder("albert", **TEXT, embedding_size=16),
    "modernbert": encoder("modernbert", **TEXT, local_attention=4),
    "mpnet": encoder("mpnet", **TEXT),
    "xlm": encoder("xlm", vocab_size=VOCAB, emb_dim=WIDTH, n_layers=LAYERS, n_heads=4, max_position_embeddings=64),
    "xlnet": encoder("xlnet", vocab_size=VOCAB, d_model=WIDTH, n_layer=LAYERS, n_head=4, d_inner=48),
    "t5": encoder("t5", BOTH, vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=1, num_heads=4, use_cache=False),
    "bart": encoder("bart", BOTH, **SEQ2SEQ),
    "whisper": encoder(
        "whisper", lambda: {"input_features": picture(1, 8, 16), "decoder_input_ids": ids(1)}, **(SEQ2SEQ | {"num_mel_bins": 8}),
        max_source_positions=8, max_target_positions=16,
    ),
    "vit": encoder("vit", PICTURE, **PATCHES),
    "deit": encoder("deit", PICTURE, **PATCHES),
    "dinov2": encoder("dinov2", PICTURE, **PATCHES),
    "clip": encoder("clip_vision_model", PICTURE, **PATCHES),
    "siglip": encoder("siglip_vision_model", PICTURE, **PATCHES),
    "swin": encoder("swin", PICTURE, image_size=16, patch_size=2, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4),
    "convnext": encoder("convnext", PICTURE, hidden_sizes=[8, 16], depths=[1, 1], num_stages=2),
    "wav2vec2": encoder(
        "wav2vec2", lambda: {"input_values": picture(2, 200)}, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=48, conv_dim=[16, 16], conv_kernel=[8, 4], conv_stride=[4, 2], num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=4,
    ),
    "mlp": plain(lambda: nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)), 4, 6),
    "cnn": plain(convolutional, 2, 3, 8, 8),
    "lstm": plain(lambda: nn.LSTM(6, 8, batch_first=True), 2, 5, 6),
    "transformer_encoder": lambda _: (nn.TransformerEncoderLayer(WIDTH, 4, 48, batch_first=True), {"src": picture(2, 7, WIDTH)}),
}  # fmt: skip
