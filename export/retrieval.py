"""
Teaching the retrieval head: first what the checkpoint's sentence embeddings say, then to find a question's passage.

The head works on the lower encoder's own pass over a passage, so that one pass gives token bits and passage code. A
passage keeps the signs of its code, a question its floats (BPR).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import BertModel

from export.binarizer import SignSTE, rms
from export.data import Passage, batches
from export.reader import PassageEncoder, mean_state, run_layers
from export.recipe import Recipe


class SentenceTeacher:
    """Sentence embeddings of the untouched checkpoint, rotated so that their signs are even."""

    def __init__(self, bert: BertModel, code_bits: int, seed: int) -> None:
        self.bert = bert.eval().requires_grad_(False)
        size = max(bert.config.hidden_size, code_bits)
        gaussian = torch.randn(size, size, generator=torch.Generator().manual_seed(seed))
        self.rotation = torch.linalg.qr(gaussian)[0][: bert.config.hidden_size, :code_bits].to(bert.device)

    @torch.no_grad()
    def embed(self, ids: Tensor) -> Tensor:
        """Texts (B, L) -> mean of the last states, normalised (B, d): what sentence-transformers computes."""
        mask = ids != 0
        h = run_layers(self.bert.encoder.layer, self.bert.embeddings(input_ids=ids), mask)
        return F.normalize(mean_state(h, mask), dim=-1)

    def loss(self, code: Tensor, ids: Tensor) -> Tensor:
        """1 - cosine between codes (B, c) before their signs and the rotated embeddings of texts (B, L)."""
        target = self.embed(ids) @ self.rotation
        return (1 - F.cosine_similarity(code.float(), target.float())).mean()


def train_retrieval(reader: PassageEncoder, train: Sequence[Passage], recipe: Recipe, device: torch.device) -> None:
    """
    Teach the retrieval head alone to find each question's passage among a few hundred others.

    The lower encoder is finished, so each text is encoded once; the loss is cross-entropy over the passages of a batch,
    float question code against signs of the passage code (BPR), as the program will score them.
    """
    reader.to(device).eval()
    config, data = recipe.retrieval, recipe.data
    passages, questions, owner = _States(), _States(), []
    with torch.no_grad():
        for batch in batches(train, 4 * data.pair_tokens, data.seed):
            owner.append(batch.pair_passage + len(passages.rows))
            for ids, kept in ((batch.passage_ids, passages), (batch.question_ids, questions)):
                ids = ids.to(device)
                kept.add(reader.retrieval.level(reader.lower(ids, ids != 0)), ids != 0)
            if len(passages.rows) >= config.passages:
                break
    own, head = torch.cat(owner), reader.retrieval
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(data.seed)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=config.epochs)
    for _ in tqdm(range(config.epochs), unit="epoch", desc="retrieval", disable=None):
        for chosen in torch.randperm(len(own), generator=generator).split(256):
            among, target = torch.unique(own[chosen], return_inverse=True)
            code = head(*passages.padded(among, device))
            signs = SignSTE.apply(code / rms(code))
            asked = F.normalize(head(*questions.padded(chosen, device)), dim=-1)
            loss = F.cross_entropy(asked @ signs.T, target.to(device))  # similarities up to sqrt(c), about 20
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()


class _States:
    """Lower states of many texts, without padding, in half precision: 100 kB a passage."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        """(l, d) each."""

    def add(self, h: Tensor, mask: Tensor) -> None:
        """Keep states (B, L, d) where mask (B, L) is true."""
        self.rows += [states[inside].half().cpu() for states, inside in zip(h, mask, strict=True)]

    def padded(self, chosen: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
        """Of the chosen texts (B,), states (B, L, d) and mask (B, L)."""
        rows = [self.rows[int(index)] for index in chosen]
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(int(lengths.max()))[None] < lengths[:, None]
        return pad_sequence(rows, batch_first=True).float().to(device), mask.to(device)
