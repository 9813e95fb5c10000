"""Plain texts: short English sentences about nothing that is recommended, always the same ones."""

from __future__ import annotations

import functools
import random
from typing import Literal

N_TEXTS = 256  # of each part
_SEED = 7
_WORDS: dict[str, tuple[str, ...]] = {
    "who": (
        "My sister", "The teacher", "An old farmer", "Our neighbour", "The young doctor", "A tired cook", "The baker",
        "Her brother", "The plumber", "A visitor", "The engineer", "Their aunt", "The night nurse", "A student",
    ),
    "did": (
        "repaired", "painted", "carried", "sold", "lost", "cleaned", "measured", "borrowed", "found", "weighed",
        "wrapped", "polished",
    ),
    "thing": (
        "the wooden chair", "a broken bicycle", "two heavy boxes", "the kitchen table", "an umbrella", "a clay pot",
        "the garden fence", "a bag of flour", "the copper pipe", "an old radio", "the spare key", "a pair of boots",
    ),
    "when": (
        "before breakfast", "on Tuesday", "after the rain", "last winter", "in the afternoon", "at midnight",
        "during the holidays", "early in May", "while it was snowing", "an hour ago",
    ),
    "where": (
        "behind the barn", "near the station", "in the cellar", "by the river", "at the market", "on the third floor",
        "under the bridge", "outside the town hall", "across the valley", "in the waiting room",
    ),
    "matter": (
        "Iron", "Salt", "Dry wood", "Cold water", "Wool", "Fresh bread", "Olive oil", "Wet sand", "Glass", "Paper",
    ),
    "is": (
        "is heavier than it looks", "keeps for several weeks", "costs more than last year", "melts when it is heated",
        "should be stored in a dark place", "can be bought by the kilogram", "dries slowly in this weather",
        "is sold in most shops", "needs to be handled with care", "turns brown after a while",
    ),
    "place": (
        "the hospital", "the post office", "the harbour", "the library", "the airport", "the school", "the museum",
        "the bus stop", "the lake", "the bakery",
    ),
    "how": ("on foot", "by train", "by tram", "by boat", "in a small car", "by bicycle"),
    "number": ("three", "seven", "twelve", "twenty", "forty", "ninety"),
    "dish": (
        "lentil soup", "fried eggs", "rice with beans", "apple cake", "grilled fish", "potato salad", "onion bread",
        "vegetable stew",
    ),
    "job": (
        "check the invoices", "water the plants", "close the windows", "call the office", "sign the contract",
        "count the chairs", "order more paper", "test the alarm", "sort the letters", "charge the battery",
    ),
    "weather": ("heavy rain", "thick fog", "strong wind", "bright sunshine", "light snow", "a late frost"),
}  # fmt: skip
_PATTERNS = (
    "{who} {did} {thing} {where} {when}.",
    "{who} {did} {thing} because nobody else had the time.",
    "{matter} {is}.",
    "It takes {number} minutes to reach {place} {how}.",
    "How far is it from {place} to the next village {how}?",
    "Please {job} and then {job} {when}.",
    "To cook {dish} for {number} people you need a large pan and some patience.",
    "The forecast promises {weather} {when}, so we will stay at home and make {dish}.",
    "{who} asked whether {place} would be open {when}.",
    "There were {number} people {where}, and none of them had seen {thing}.",
    "If you forget to {job}, someone will have to come back {when}.",
    "We met {where} {when} and went to {place} {how}.",
)


def plain_texts(part: Literal["measured", "trained"] = "measured") -> list[str]:
    """Return 256 distinct sentences; those that a model is trained on are others than those it is measured on."""
    every = _sentences()
    return every[:N_TEXTS] if part == "measured" else every[N_TEXTS:]


@functools.cache
def _sentences() -> list[str]:
    rng = random.Random(_SEED)
    found: dict[str, None] = {}
    while len(found) < 2 * N_TEXTS:
        text = _PATTERNS[len(found) % len(_PATTERNS)]
        for slot, words in _WORDS.items():
            while f"{{{slot}}}" in text:
                text = text.replace(f"{{{slot}}}", rng.choice(words), 1)
        found[text] = None
    return list(found)
