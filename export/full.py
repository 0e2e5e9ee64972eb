"""
The full reader in torch: question and passage together through every layer (BTR section 2, the reader to be split).

    [CLS] question [SEP] heading [SEP] body [SEP] --all layers--> start and end logits over the body

It is step 1 of the recipe: what the split reader is initialised from, its teacher, and what it is measured against.
Logits are relative to the passage's null logit ([CLS]), as in the split reader.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from export.reader import Reading, SplitReader, relative_logits, run_layers, strongest
from store.errors import ExportError


class FullReader(nn.Module):
    """An unsplit BERT-family encoder with a span head."""

    def __init__(self, bert: BertModel) -> None:
        super().__init__()
        self.model_config: BertConfig = bert.config
        self.embeddings = bert.embeddings
        self.layers = bert.encoder.layer
        self.span = nn.Linear(bert.config.hidden_size, 2)
        self.embeddings.word_embeddings.weight.requires_grad_(False)  # the base of the bits stays a table of ids

    def forward(
        self, q_ids: Tensor, p_ids: Tensor, body_start: Tensor, body_mask: Tensor, attention: bool = False
    ) -> Reading:
        """
        Questions (N, q), passages (N, L) with heading, positions of the bodies (N,), body masks (N, n) -> Reading.

        With `attention` the reading also says how much the question attends to each body token in the last layer.
        """
        ids, segment, body = join(q_ids, p_ids, body_start, body_mask.shape[1])
        mask = ids != 0
        states = self.embeddings(input_ids=ids, token_type_ids=segment)
        before = run_layers(self.layers[:-1], states, mask)
        after = run_layers(self.layers[-1:], before, mask)
        states = gather(after, body)
        logits = self.span(torch.cat([after[:, :1], states], dim=1))
        start, end = relative_logits(logits, body_mask)
        reading = Reading(start, end, states)
        if attention:
            weights = self._question_attention(before, mask, mask & (segment == 0))
            reading.attention = torch.gather(weights, 1, body) * body_mask
        return reading

    def _question_attention(self, states: Tensor, mask: Tensor, question: Tensor) -> Tensor:
        """Attention of the last layer from question tokens to every token, averaged, (N, T)."""
        attend = self.layers[-1].attention.self
        heads, size = attend.num_attention_heads, attend.attention_head_size
        longest = int(question.sum(1).max())  # questions come first

        def split(x: Tensor) -> Tensor:
            return x.unflatten(-1, (heads, size)).transpose(1, 2)

        q, k = split(attend.query(states[:, :longest])), split(attend.key(states))
        scores = (q @ k.transpose(-1, -2)).float() / size**0.5
        weights = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(-1).mean(1)
        asked = question[:, :longest, None].float()
        return (weights * asked).sum(1) / asked.sum(1)


@torch.no_grad()
def whole(reader: SplitReader, bert: BertModel) -> FullReader:
    """
    The full reader that has the layers of a split one made from the checkpoint `bert`: where its training can start.

    Units that narrower lower layers lack come from the checkpoint and say nothing yet. Uses up `bert`.

    Raises:
        ExportError: If the split reader has not as many layers as the checkpoint.
    """
    layers = [*reader.lower.layers, *reader.upper.layers]
    full = FullReader(bert)
    if len(layers) != len(full.layers):
        raise ExportError(
            f"a split reader of {len(layers)} layers makes no full one of {len(full.layers)}: start from another run"
        )
    full.embeddings.load_state_dict(reader.lower.embeddings.state_dict())
    full.span.load_state_dict(reader.upper.span.state_dict())
    for ours, theirs in zip(full.layers, layers, strict=True):
        into, out = ours.intermediate.dense, ours.output.dense
        trained = theirs.state_dict()
        narrow = theirs.intermediate.dense.out_features
        if narrow < into.out_features:
            kept = strongest(ours, narrow)
            weights = {"intermediate.dense.weight": into.weight, "intermediate.dense.bias": into.bias}
            for name, weight in weights.items():
                wide = weight.clone()
                wide[kept] = trained[name]
                trained[name] = wide
            silent = torch.zeros_like(out.weight)
            silent[:, kept] = trained["output.dense.weight"]
            trained["output.dense.weight"] = silent
        ours.load_state_dict(trained)
    return full


def join(
    q_ids: Tensor, p_ids: Tensor, body_start: Tensor, body_length: int, dropped: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """
    Questions (N, q) and passages (N, L) -> joint ids (N, T) without a gap, segments (N, T), body positions (N, n).

    The first `dropped` tokens of a passage, its [CLS], are: its heading follows the question's [SEP].
    """
    q_length, p_length = (q_ids != 0).sum(1), (p_ids != 0).sum(1) - dropped
    at = torch.arange(int((q_length + p_length).max()), device=q_ids.device)[None]
    segment = (at >= q_length[:, None]).long()
    in_question = at.clamp(max=q_ids.shape[1] - 1).expand(len(q_ids), -1)
    in_passage = (at - q_length[:, None] + dropped).clamp(min=0, max=p_ids.shape[1] - 1)
    ids = torch.where(segment == 0, torch.gather(q_ids, 1, in_question), torch.gather(p_ids, 1, in_passage))
    inside = at < (q_length + p_length)[:, None]
    first = q_length + body_start - dropped
    body = first[:, None] + torch.arange(body_length, device=q_ids.device)[None]
    return ids * inside, segment * inside, body.clamp(max=ids.shape[1] - 1)


def gather(states: Tensor, at: Tensor) -> Tensor:
    """States (B, L, d) at positions (B, n) -> (B, n, d)."""
    return torch.gather(states, 1, at[..., None].expand(-1, -1, states.shape[2]))
