"""Merging as its definition says, in numpy, in torch and in an exported graph alike."""

import numpy as np
import onnxruntime
import pytest
import torch

from export.merging import REACH, merge_passage, unmerge


def states(rows: int, tokens: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, tokens, 16)).astype(np.float32)


def by_hand(x: np.ndarray, ratio: float) -> list[list[int]]:
    """The tokens of each group in numpy, from the definition, one pair after another."""
    similarity = {
        i: max(
            (round(4096 * float(x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]))), -j)
            for j in range(1, len(x), 2)
            if abs(i - j) <= REACH
        )
        for i in range(0, len(x), 2)
        if len(x) > 1
    }
    closest = sorted(similarity, key=lambda i: -similarity[i][0])[: int(np.floor(np.float32(ratio) * len(x)))]
    groups = {i: [i] for i in range(len(x)) if i not in closest}
    for i in closest:
        groups[-similarity[i][1]].append(i)
    return [sorted(groups[i]) for i in sorted(groups)]


class Merging(torch.nn.Module):
    """What passages go through, one layer between that changes nothing but doubles what it reads."""

    def forward(self, x: torch.Tensor, size: torch.Tensor, position: torch.Tensor, ratio: torch.Tensor) -> tuple:
        y, sizes, positions, group = merge_passage(x, size, position, x[:, :0], ratio, REACH)
        return y, sizes, positions, unmerge(x, y, 2 * y, group, ratio)


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> onnxruntime.InferenceSession:
    """Traced at one length and one ratio, to be run at others."""
    path = tmp_path_factory.mktemp("merging") / "merge.onnx"
    inputs = (torch.randn(2, 12, 16), torch.ones(2, 12), torch.arange(12).expand(2, 12), torch.tensor(0.2))
    names = ["x", "size", "position", "ratio"]
    outputs = ["y", "sizes", "positions", "unmerged"]
    axes = {name: {0: "rows", 1: "tokens"} for name in [*names[:3], *outputs]}
    torch.onnx.export(
        Merging(), inputs, str(path), input_names=names, output_names=outputs,
        dynamic_axes=axes, opset_version=17, dynamo=False,
    )  # fmt: skip
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.35, 0.5])
def test_tokens_that_are_alike_merge_alike_everywhere(graph: onnxruntime.InferenceSession, ratio: float) -> None:
    """Of two tokens that stand there eight times each, in other lengths: a digit more or less decides nothing."""
    rng = np.random.default_rng(5)
    x = states(1, 2, 5)[:, rng.integers(0, 2, 16)] * rng.uniform(1, 3, (1, 16, 1)).astype(np.float32)
    means = [x[0, members].mean(axis=0) for members in by_hand(x[0], ratio)]
    inputs = {"x": x, "size": np.ones((1, 16), np.float32), "position": np.arange(16)[None], "ratio": np.float32(ratio)}
    found, *_ = Merging()(*(torch.tensor(value) for value in inputs.values()))
    exported, *_ = graph.run(None, {name: np.asarray(value) for name, value in inputs.items()})
    assert np.allclose(found[0].numpy(), means, atol=1e-5)
    assert np.allclose(exported[0], means, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("lengths", [(12,), (31, 17, 4), (33, 10, 3, 2), (9, 1), (2,), (1,)])
def test_torch_and_the_graph_merge_as_numpy_does(
    graph: onnxruntime.InferenceSession, lengths: tuple[int, ...], ratio: float
) -> None:
    """Rows of several lengths padded together, each row as it is alone; each token gets what its own group is given."""
    rows, longest = len(lengths), max(lengths)
    x = states(rows, longest, longest)
    size = (np.arange(longest)[None] < np.array(lengths)[:, None]).astype(np.float32)
    position = np.broadcast_to(np.arange(longest) + 7, (rows, longest)).copy()
    inputs = {"x": x, "size": size, "position": position, "ratio": np.float32(ratio)}
    found = [t.numpy() for t in Merging()(*(torch.tensor(value) for value in inputs.values()))]
    exported = graph.run(None, {name: np.asarray(value) for name, value in inputs.items()})
    for ours, theirs in zip(found, exported, strict=True):
        assert np.allclose(ours, theirs, atol=1e-5)
    for row, n in enumerate(lengths):
        groups = by_hand(x[row, :n], ratio)
        means = np.array([x[row, members].mean(axis=0) for members in groups])
        assert np.allclose(found[0][row, : len(means)], means, atol=1e-5)
        assert found[1][row].tolist() == [*map(len, groups), *[0] * (found[1].shape[1] - len(groups))]
        of = {token: number for number, members in enumerate(groups) for token in members}
        added = means[[of[token] for token in range(n)]] if ratio else x[row, :n]
        assert np.allclose(found[3][row, :n], x[row, :n] + added, atol=1e-5)
        places = [members[0] if len(members) == 1 else next(i for i in members if i % 2) for members in groups]
        assert found[2][row, : len(means)].tolist() == [7 + place for place in places]
