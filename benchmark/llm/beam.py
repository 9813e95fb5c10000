"""Beam search over a language model: free, or along a trie, for many prompts at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmark.llm.language_model import LanguageModel, State
from benchmark.llm.trie import Trie

NEVER = float("-inf")


@dataclass
class Beams:
    """What a beam search found for B prompts, best first.

    Attributes:
        tokens: (B, K, T) int64, -1 after the closing token; the closing token is included.
        log_prob: (B, K) sum of log P of the tokens, -inf where there are fewer than K.
        node: (B, K) node of the trie that the tokens lead to, -1 where they leave it.
    """

    tokens: Tensor
    log_prob: Tensor
    node: Tensor


def beam_search(
    model: LanguageModel,
    state: State,
    width: int,
    steps: int,
    end: int,
    trie: Trie | None = None,
    allowed: Tensor | None = None,
    follow: Trie | None = None,
) -> Beams:
    """Return the ``width`` most probable continuations of B prompts that a beam search of that width finds.

    A finished continuation keeps its place and its log probability, which only falls for those that go on.

    Args:
        model: reads on.
        state: of B prompts.
        width: K beams.
        steps: most tokens, the closing one included.
        end: the closing token.
        trie: continuations are its paths only; None: any tokens.
        allowed: (B, N) bool, nodes of ``trie`` that may be entered; all by default.
        follow: without ``trie``: note which node of this one the tokens lead to.
    """
    n, device = len(state.logits), state.logits.device
    guide = trie or follow
    score = state.logits.new_full((n, width), NEVER)
    score[:, 0] = 0.0
    node = torch.zeros(n, width, dtype=torch.int64, device=device)
    done = torch.zeros(n, width, dtype=torch.bool, device=device)
    tokens = torch.full((n, width, steps), -1, dtype=torch.int64, device=device)
    first = torch.arange(n, device=device).unsqueeze(1)
    # row of the state that belongs to each beam; before the first step all beams of a prompt share one
    row = first.expand(-1, width)
    for step in range(steps):
        log_p = F.log_softmax(state.logits, dim=-1)
        if trie is not None:
            found = _along(trie, allowed, score, node, done, log_p, row, width)
        else:
            found = _free(score, node, done, log_p, row, width)
        score, beam, token, node = found
        tokens = tokens.gather(1, beam.unsqueeze(2).expand(-1, -1, steps))
        tokens[:, :, step] = token
        if trie is None and guide is not None:
            before = node.view(-1)
            moved = guide.step(before, token.view(-1)).view(n, width)
            node = torch.where(token >= 0, moved, node)
        done = done.gather(1, beam) | (token == end) | (score == NEVER)
        if bool(done.all()) or step == steps - 1:
            break
        going = ~done
        place = torch.nonzero(going.view(-1))[:, 0]
        taken = state.take(row.gather(1, beam).view(-1)[place])
        ids = token.view(-1, 1)[place]
        _, state = model.read_on(taken, ids, torch.ones_like(ids))
        row = (
            torch.zeros(n * width, dtype=torch.int64, device=device)
            .index_put_((place,), torch.arange(len(place), device=device))
            .view(n, width)
        )
    return Beams(tokens, score, node)


def _best(
    owner: Tensor, score: Tensor, beam: Tensor, token: Tensor, node: Tensor, n: int, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for each of n prompts the ``width`` best of flat choices, sorted by ``owner``: all (n, width)."""
    if not len(owner):
        none = torch.zeros(n, width, dtype=torch.int64, device=score.device)
        return score.new_full((n, width), NEVER), none, none - 1, none
    count = torch.bincount(owner, minlength=n)
    offset = torch.cumsum(count, 0) - count
    column = torch.arange(len(owner), device=owner.device) - offset[owner]
    table = score.new_full((n, max(int(count.max()), width)), NEVER)
    table[owner, column] = score
    top, at = table.topk(width, dim=1)
    source = (offset.unsqueeze(1) + at).clamp(max=len(owner) - 1)
    real = top > NEVER
    return (
        top,
        torch.where(real, beam[source], 0),
        torch.where(real, token[source], -1),
        torch.where(real, node[source], 0),
    )


def _along(
    trie: Trie,
    allowed: Tensor | None,
    score: Tensor,
    node: Tensor,
    done: Tensor,
    log_p: Tensor,
    row: Tensor,
    width: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Extend every beam by the children of its node; finished ones stay."""
    n = len(score)
    live = (~done & (score > NEVER)).view(-1).nonzero()[:, 0]
    which, child = trie.children(node.view(-1)[live])
    flat = live[which]
    owner = flat // width
    token = trie.token[child]
    if allowed is not None:
        keep = allowed[owner, child]
        flat, owner, token, child = flat[keep], owner[keep], token[keep], child[keep]
    gained = score.view(-1)[flat] + log_p[row.reshape(-1)[flat], token]
    stay = (done & (score > NEVER)).view(-1).nonzero()[:, 0]
    owner = torch.cat([owner, stay // width])
    order = torch.argsort(owner, stable=True)

    def joined(a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b])[order]

    return _best(
        owner[order],
        joined(gained, score.view(-1)[stay]),
        joined(flat % width, stay % width),
        joined(token, torch.full_like(stay, -1)),
        joined(child, node.view(-1)[stay]),
        n,
        width,
    )


def _free(
    score: Tensor, node: Tensor, done: Tensor, log_p: Tensor, row: Tensor, width: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Extend every beam by its ``width`` best tokens; finished ones stay. The node is still that of the beam."""
    n = len(score)
    best, token = log_p.topk(min(width, log_p.shape[1]), dim=1)
    gained = score.unsqueeze(2) + best[row]
    gained = gained.masked_fill(done.unsqueeze(2), NEVER)
    said = token[row].masked_fill(done.unsqueeze(2), -1)
    # a finished beam has one way on: to stay
    gained[:, :, 0] = torch.where(done, score, gained[:, :, 0])
    top, at = gained.view(n, -1).topk(width, dim=1)
    beam = at // gained.shape[2]
    return top, beam, said.view(n, -1).gather(1, at), node.gather(1, beam)
