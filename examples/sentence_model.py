"""Sentences from a small grammar whose next-word distribution is known exactly, and the GPT-2 that was trained on them.

A sentence is a template filled for one thing (fire, water, ...): what comes before its name decides, more or less surely, what the name
will be. Given the template and the thing, every slot is drawn by itself, so that the distribution of the next word follows by Bayes' rule.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS = Path(__file__).with_name("sentence_model.safetensors")
THINGS = ("fire", "water", "snow", "music", "bread", "gold")
START, PAD = "<s>", "<pad>"

# by thing: who is after it, what tells of it, what is in it (and doing what), what is done with it; a word named twice is twice as likely,
# one named for two things (smith, steam, ...) leaves it open which of them comes
AGENT = {
    "fire": "dragon stoker arsonist scout smith smith smith witch",
    "water": "sailor plumber swimmer gardener fisher witch",
    "snow": "skier sledder hunter bear climber",
    "music": "singer drummer fiddler dancer piper",
    "bread": "baker miller farmer duck cook cook",
    "gold": "miner banker pirate queen smith jeweller cook",
}
SIGN = {
    "fire": "smoke ash sparks heat steam light",
    "water": "waves foam ripples steam steam bubbles mist",
    "snow": "flakes frost ice mist cold",
    "music": "chords tunes drumming song rhythm",
    "bread": "crumbs flour crust dough heat",
    "gold": "coins glitter nuggets light light rings",
}
INSIDE = {
    "fire": "wood log coal letter",
    "water": "fish boat stone frog",
    "snow": "sled fox stone footprint",
    "music": "guest couple crowd violin",
    "bread": "butter honey knife mould",
    "gold": "ruby thief crown letter",
}
DOING = {
    "fire": "burning crackling glowing",
    "water": "swimming sinking drifting",
    "snow": "sliding melting freezing",
    "music": "dancing humming whirling",
    "bread": "spreading melting sticking",
    "gold": "shining glowing sleeping",
}
MAKE = {
    "fire": "light kindle stoke feed",
    "water": "pour drink fetch spill",
    "snow": "shovel clear pack sweep",
    "music": "play hear compose learn",
    "bread": "bake slice butter knead",
    "gold": "mine weigh steal melt",
}
UNDO = (("quench", "fire", "water"), ("smother", "fire", "snow"), ("melt", "snow", "fire"), ("boil", "water", "fire"),
        ("toast", "bread", "fire"), ("buy", "bread", "gold"), ("buy", "water", "gold"), ("drown", "music", "water"),
        ("melt", "gold", "fire"), ("earn", "gold", "music"))  # fmt: skip
SHARED = {
    "adj": "old young hungry tired clever lonely angry happy small famous",
    "place": "village forest castle valley harbour kitchen market garden tower cave",
    "wants": "wants needs loves likes seeks",
    "fears": "fears knows follows admires hates",
    "says": "says thinks hopes believes",
    "brings": "brings finds made saw",
    "rises": "comes rises drifts falls",
    "when": "today tonight now soon later",
    "somebody": "child traveller stranger king soldier",
    "sees": "sees remembers paints forgets",
}
TEMPLATES = """
the {adj} {agent} {wants} the {thing}
the {agent} in the {place} {wants} some {thing}
the {agent} that the {other} {fears} {wants} the {thing}
the {other} {says} that the {agent} {wants} the {thing}
the {other} and the {adj} {agent} met and the {agent} {wants} the {thing}
not the {other} but the {agent} {brings} the {thing}
the {other} is gone and the {agent} is here so {when} we have {thing}
the {agent} is here and the {other} is gone so {when} we have {thing}
without the {agent} there is no {thing}
nobody here {wants} the {different} but the {agent} {wants} the {thing}
{sign} {rises} from the {thing}
in the {place} {sign} {rises} from the {thing}
where there is {sign} there is {thing}
the {place} is full of {sign} because of the {thing}
the {inside} is {doing} in the {thing}
the {adj} {agent} and the {inside} are {doing} by the {thing}
{when} they {make} the {thing}
in the {place} they {make} some {thing}
forget the {different} and {make} the {thing}
the {somebody} {sees} the {thing}
the {adj} {somebody} in the {place} {wants} some {thing}
""".strip().splitlines()
UNDOING = ("we {undo} the {from} with {thing}", "to {undo} the {from} the {somebody} uses the {thing}")
ENDINGS = (".", "{when} .", "in the {place} .")


@dataclass(frozen=True)
class Sentence:
    """The words of a sentence, without start; `place` is the position of the word `thing` that the words before it announce."""

    words: tuple[str, ...]
    place: int

    @property
    def thing(self) -> str:
        """The announced word."""
        return self.words[self.place]

    @property
    def before(self) -> tuple[str, ...]:
        """The words before it."""
        return self.words[: self.place]


@dataclass(frozen=True)
class Frame:
    """A template filled for one thing: the words that may stand in each slot, each as likely as it is often, and the thing's position."""

    slots: tuple[tuple[str, ...], ...]
    place: int
    weight: float


def _slots(template: str, **own: str) -> tuple[tuple[str, ...], ...]:
    given = {**SHARED, **own}
    return tuple(tuple(given[word[1:-1]].split()) if word.startswith("{") else (word,) for word in template.split())


def _frames_of(template: str, own: dict[str, str], weight: float) -> list[Frame]:
    place = template.split().index("{thing}")
    return [Frame(_slots(f"{template} {ending}", **own), place, weight / len(ENDINGS)) for ending in ENDINGS]


@cache
def frames() -> tuple[Frame, ...]:
    """Every template filled for every thing, with its probability."""
    found = []
    for template, thing in product(TEMPLATES, THINGS):
        others = " ".join(AGENT[other] for other in THINGS if other != thing)
        own = {"agent": AGENT[thing], "sign": SIGN[thing], "inside": INSIDE[thing], "doing": DOING[thing], "make": MAKE[thing]}
        rest = {"thing": thing, "other": others, "different": " ".join(t for t in THINGS if t != thing)}
        found += _frames_of(template, {**own, **rest}, 1 / len(THINGS))
    for template, (undo, start, thing) in product(UNDOING, UNDO):
        found += _frames_of(template, {"undo": undo, "from": start, "thing": thing}, 1 / len(UNDO))
    total = sum(frame.weight for frame in found)
    return tuple(Frame(frame.slots, frame.place, frame.weight / total) for frame in found)


@cache
def vocabulary() -> tuple[str, ...]:
    """All tokens: padding, start, and the words in alphabetical order; a token's id is its position."""
    return PAD, START, *sorted({word for frame in frames() for slot in frame.slots for word in slot})


def sentences(count: int, seed: int) -> list[Sentence]:
    """`count` sentences drawn from the grammar, the same for the same seed."""
    rng = random.Random(seed)
    drawn = rng.choices(frames(), [frame.weight for frame in frames()], k=count)
    return [Sentence(tuple(rng.choice(slot) for slot in frame.slots), frame.place) for frame in drawn]


def token_ids(words: tuple[str, ...]) -> list[int]:
    """The ids of start and of the words."""
    ids = _ids()
    return [ids[START], *(ids[word] for word in words)]


@cache
def _ids() -> dict[str, int]:
    return {word: i for i, word in enumerate(vocabulary())}


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """The frames' probabilities, and in every slot those of the words. Shapes: [frame], [frame, position, word]."""
    longest = max(len(frame.slots) for frame in frames())
    table = np.zeros((len(frames()), longest + 1, len(vocabulary())))
    for i, frame in enumerate(frames()):
        for j, slot in enumerate(frame.slots):
            for word in slot:
                table[i, j, _ids()[word]] += 1 / len(slot)
    return np.array([frame.weight for frame in frames()]), table


def next_word(before: tuple[str, ...]) -> np.ndarray:
    """The grammar's own distribution of the word that follows `before`. Shapes: [word]."""
    weights, table = _tables()
    for position, word in enumerate(before):
        weights = weights * table[:, position, _ids()[word]]
    return weights @ table[:, len(before)] / weights.sum()


def surprise(sentence: Sentence) -> np.ndarray:
    """What each word costs one who knows the grammar. Shapes: [position]. Units: nats."""
    weights, table = _tables()
    found = []
    for position, word in enumerate(sentence.words):
        after = weights * table[:, position, _ids()[word]]
        found.append(-np.log(after.sum() / weights.sum()))
        weights = after
    return np.array(found)


def padded(texts: list[Sentence]) -> Tensor:
    """Token ids with start before and padding behind. Shapes: [sentence, position]."""
    rows = [torch.tensor(token_ids(text.words)) for text in texts]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_ids()[PAD])


def new_model() -> Any:
    """An untrained GPT-2 of transformers: three layers, width 64, four heads, tied embeddings."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes: dict[str, Any] = {"vocab_size": len(vocabulary()), "n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 32}
    drops: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    ids: dict[str, Any] = {"bos_token_id": _ids()[START], "eos_token_id": _ids()["."], "pad_token_id": _ids()[PAD]}
    return GPT2LMHeadModel(GPT2Config(**sizes, **drops, **ids, use_cache=False))


def load_sentence_model() -> Any:
    """The trained model that ships beside this file, in eval mode."""
    model = new_model()
    left = model.load_state_dict(load_file(WEIGHTS), strict=False)
    if left.missing_keys != ["lm_head.weight"] or left.unexpected_keys:
        raise ValueError(f"{WEIGHTS.name}: expected the weights of this model, got others ({left}). Run train_sentence_model.py.")
    return model.eval()
