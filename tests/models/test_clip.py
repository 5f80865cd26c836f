"""Our text encoder against transformers' own, on the same files."""

from __future__ import annotations

import pytest
import torch

from cdtool.models import clip


def _reference(folder, *, projected, end, layers=3):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=9, hidden_act="gelu" if projected else "quick_gelu", projection_dim=12,
        bos_token_id=48, eos_token_id=end, pad_token_id=49,
    )  # fmt: skip
    torch.manual_seed(3)
    model = (CLIPTextModelWithProjection if projected else CLIPTextModel)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # as they begin, attention would see nothing but noise of 1e-3
            parameter.normal_(std=0.5)
    model.save_pretrained(folder)
    return model


IDS = torch.tensor([[48, 3, 4, 5, 49, 49, 49, 49, 49], [48, 7, 49, 49, 49, 49, 49, 49, 49]])


@pytest.mark.parametrize(("projected", "end"), [(False, 49), (True, 49), (True, 2)])
def test_it_is_transformers_encoder(tmp_path, projected, end):
    model = _reference(tmp_path, projected=projected, end=end)
    ours = clip.load(tmp_path)
    with torch.no_grad():
        theirs = model(IDS, output_hidden_states=True)
        last, penultimate = ours(IDS), ours(IDS, penultimate=True)
    assert torch.allclose(last.last_hidden_state, theirs.last_hidden_state, atol=1e-5)
    assert torch.allclose(penultimate.penultimate, theirs.hidden_states[-2], atol=1e-5)
    assert not torch.allclose(theirs.hidden_states[-2], theirs.hidden_states[-1], atol=1e-2)
    if projected:
        assert torch.allclose(last.text_embeds, theirs.text_embeds, atol=1e-5)
        assert torch.equal(penultimate.text_embeds, last.text_embeds)
    else:
        assert last.text_embeds is None
        assert penultimate.last_hidden_state is None  # the last layer was not run for nothing


def test_shorter_prompts_are_read_and_longer_ones_refused(tmp_path):
    model = _reference(tmp_path, projected=False, end=49)
    ours = clip.load(tmp_path)
    with torch.no_grad():
        assert torch.allclose(ours(IDS[:, :4]).last_hidden_state, model(IDS[:, :4]).last_hidden_state, atol=1e-5)
    with pytest.raises(ValueError, match="10 tokens"):
        ours(torch.zeros(1, 10, dtype=torch.long))


def test_half_precision_files_and_missing_weights(tmp_path):
    from safetensors.torch import load_file, save_file

    _reference(tmp_path, projected=False, end=49)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    save_file({name: value.half() for name, value in whole.items()}, tmp_path / "model.fp16.safetensors")
    path.unlink()
    assert {value.dtype for value in clip.load(tmp_path).state_dict().values()} == {torch.float32}
    save_file({name: value for name, value in whole.items() if "fc2" not in name}, path)
    with pytest.raises(RuntimeError, match="fc2"):
        clip.load(tmp_path)
    path.unlink()
    (tmp_path / "model.fp16.safetensors").unlink()
    with pytest.raises(OSError, match="no safetensors"):
        clip.load(tmp_path)
