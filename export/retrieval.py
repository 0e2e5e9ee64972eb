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
    pooled_p, pooled_q, owner = [], [], []
    seen = 0
    with torch.no_grad():
        for batch in batches(train, 4 * data.pair_tokens, data.seed):
            for ids, pooled in ((batch.passage_ids, pooled_p), (batch.question_ids, pooled_q)):
                ids = ids.to(device)
                pooled.append(reader.retrieval.pool(reader.lower(ids, ids != 0), ids != 0))
            owner.append(batch.pair_passage.to(device) + seen)
            seen += len(batch.passage_ids)
            if seen >= config.passages:
                break
    p, q, own = torch.cat(pooled_p), torch.cat(pooled_q), torch.cat(owner)
    head = reader.retrieval.dense
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(data.seed)
    for _ in tqdm(range(config.epochs), unit="epoch", desc="retrieval", disable=None):
        for chosen in torch.randperm(len(q), generator=generator).split(256):
            chosen = chosen.to(device)
            passages, target = torch.unique(own[chosen], return_inverse=True)
            code = head(p[passages])
            signs = SignSTE.apply(code / rms(code))
            similarity = F.normalize(head(q[chosen]), dim=-1) @ signs.T  # up to sqrt(c), about 20
            loss = F.cross_entropy(similarity, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
