from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from structxlip.edge_branch import EdgeBranchConfig
from tests.training.test_frozen import mobilenet_encoder
from training.convolutions import Depthwise, FoldedNorm, Pointwise, _activated, suit_cpu


def towers() -> tuple[Any, Any]:
    """Return a tower with statistics that are not trivial, as it is and suited to the CPU."""
    plain: Any = mobilenet_encoder(EdgeBranchConfig()).model
    torch.manual_seed(1)
    for module in plain.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    suited = copy.deepcopy(plain)
    suit_cpu(suited)
    return plain, suited


def value_and_gradients(model: Any, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    embedding = model.encode_image(images)
    (embedding * torch.linspace(-1, 1, embedding.shape[1])).sum().backward()
    return embedding.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def test_the_tower_computes_the_same_with_the_same_gradients() -> None:
    plain, suited = towers()
    kinds = {type(module) for module in suited.modules()}
    assert {Depthwise, Pointwise, FoldedNorm} <= kinds
    images = torch.randn(2, 3, 64, 64)
    (expected, known), (found, gradients) = (value_and_gradients(m.eval(), images) for m in (plain, suited))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert gradients.keys() == known.keys()
    for name, gradient in known.items():
        scale = float(gradient.abs().max()) + 1e-6
        torch.testing.assert_close(gradients[name] / scale, gradient / scale, atol=2e-3, rtol=1e-2, msg=name)


def test_normalisations_that_learn_their_statistics_still_do() -> None:
    plain, suited = towers()
    images = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            suited.train().encode_image(images), plain.train().encode_image(images), atol=1e-3, rtol=1e-3
        )
    for (name, expected), found in zip(plain.named_buffers(), suited.buffers(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3, msg=name)


def test_weights_keep_their_names_and_a_copy_folds_its_own() -> None:
    plain, suited = towers()
    assert plain.state_dict().keys() == suited.state_dict().keys()
    copied = copy.deepcopy(suited)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = suited.eval().encode_image(images)
        for module in copied.modules():
            if isinstance(module, FoldedNorm):
                module.weight.zero_()
        torch.testing.assert_close(suited.encode_image(images), before)
        assert not torch.allclose(copied.eval().encode_image(images), before)


def test_no_gradient_is_copied_because_an_activation_worked_in_place() -> None:
    _, suited = towers()
    embedding = suited.eval().encode_image(torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last))
    seen: set[Any] = set()
    ahead = [embedding.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [following for following, _ in node.next_functions]
    names = {node.name() for node in seen}
    assert any("ReLU6" in name for name in names)
    # The backward pass of an operation in place on a view.
    assert "CopySlices" not in names


def test_the_activation_has_the_gradient_of_relu6_also_where_it_bends() -> None:
    values = torch.tensor([-1.0, 0.0, 1e-6, 3.0, 6.0, 6.5])
    gradients = []
    for activated in (lambda x: _activated(nn.ReLU6(inplace=True), x), nn.functional.relu6):
        x = values.clone().requires_grad_()
        y = activated(x * 1)
        torch.testing.assert_close(y.detach(), values.clamp(0, 6))
        (y * torch.arange(1.0, 7.0)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1])
