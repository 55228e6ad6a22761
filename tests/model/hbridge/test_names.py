from model.hbridge.names import HBRIDGE


def test_each_expert_has_its_published_names_under_its_word() -> None:
    assert HBRIDGE.ours("und.model.visual.merger.ln_q.weight") == "und.visual.merger.ln_q.weight"
    assert HBRIDGE.ours("vae.encoder.mid.attn_1.q.weight") == "vae.encoder.mid_block.attentions.0.to_q.weight"
    for own in ("bridge.6.q_linear.weight", "srt_tokens", "gen.x_embedder.bias"):
        assert HBRIDGE.ours(own) == own


def test_what_training_alone_needs_and_the_autoencoder_may_be_absent() -> None:
    assert set(HBRIDGE.optional) == {"srt_proj", "vae"}
