from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from structxlip.architecture import build_model
from structxlip.text_tower import TextTower
from structxlip.tokenizer import TextTokenizer
from tests.support.tiny_open_clip import tiny_architecture
from training.used_tokens import UsedTokens, learn_used_tokens

TEXTS = ["a house by a tree", "two trees"]


def model_and_tokens() -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    model: Any = build_model(tiny_architecture())
    tokenizer = TextTokenizer(tiny_architecture())
    return model, tokenizer.pad([tokenizer.encode(text).ids for text in TEXTS])


def trained(model: Any, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    table = [p for n, p in model.named_parameters() if "token_embedding" in n and p.requires_grad]
    optimiser = torch.optim.AdamW(table, lr=0.1, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        F.normalize(TextTower(model).embed(tokens), dim=-1)[:, 0].sum().backward()
        torch.nn.utils.clip_grad_norm_(table, 0.01)
        optimiser.step()
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_learning_the_used_rows_is_learning_the_table() -> None:
    whole, tokens = model_and_tokens()
    compact, _ = model_and_tokens()
    before = compact.token_embedding.weight.detach().clone()
    assert learn_used_tokens(compact, tokens.tolist())
    assert compact.token_embedding.learned.shape[0] == len(set(tokens.flatten().tolist()))
    expected, found = trained(whole, tokens), trained(compact, tokens)
    assert expected.keys() == found.keys()
    torch.testing.assert_close(found["token_embedding.weight"], expected["token_embedding.weight"])
    assert not torch.equal(found["token_embedding.weight"], before)


def test_the_state_is_that_of_the_whole_table_and_can_be_taken_up() -> None:
    model, tokens = model_and_tokens()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learn_used_tokens(model, tokens.tolist())
    state["token_embedding.weight"] = state["token_embedding.weight"] + 1
    model.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(model.token_embedding(tokens), state["token_embedding.weight"][tokens])
    torch.testing.assert_close(model.token_embedding(tokens), state["token_embedding.weight"][tokens])
    with pytest.raises(RuntimeError, match="token_embedding"):
        model.load_state_dict({name: t for name, t in state.items() if name != "token_embedding.weight"})
    with pytest.raises(RuntimeError, match="shape"):
        model.load_state_dict(state | {"token_embedding.weight": torch.zeros(3, 64)})


def test_tokens_that_are_not_in_use_have_their_first_vectors_in_evaluation_and_in_training() -> None:
    model, tokens = model_and_tokens()
    table = model.token_embedding.weight.detach().clone()
    learn_used_tokens(model, tokens[:1].tolist())
    with torch.no_grad():
        torch.testing.assert_close(model.token_embedding(tokens), table[tokens])
    found = model.token_embedding(tokens)
    torch.testing.assert_close(found, table[tokens])
    found[1].sum().backward()
    gradient = model.token_embedding.learned.grad
    assert model.token_embedding.weight.grad is None
    torch.testing.assert_close(gradient.sum() / gradient.shape[1], torch.isin(tokens[1], tokens[0]).float().sum())


def test_a_frozen_table_stays_what_it_is() -> None:
    model, tokens = model_and_tokens()
    model.token_embedding.weight.requires_grad_(False)
    assert not learn_used_tokens(model, tokens.tolist())
    assert not isinstance(model.token_embedding, UsedTokens)
