"""What `fire_direction.py` measures on: a GPT-2, which tokens say a word, and texts whose next word is known.

For the sentence model the texts are drawn from its grammar. For any other GPT-2 (a name on a hub, or a folder) they are the ones below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.extras import needed
from examples.sentence_model import THINGS, load_sentence_model, sentences, token_ids, vocabulary
from rewrite import TautomerError

WORDS = ("fire", "water", "snow", "music", "bread")
NATURAL = """
The firefighters arrived quickly and put out the | fire
They sat around the camp and warmed their hands by the | fire
He struck a match and threw it on the wood to start the | fire
Smoke filled the hall, and everyone ran out because the house was on | fire
The arsonist confessed that he had set the barn on | fire
She put another log on the | fire
There is no smoke without | fire
The dragon opened its jaws and breathed | fire
The forest burned for a week before the crews could contain the | fire
To keep the wolves away at night, the hunters lit a | fire
The old barn burned to the ground in the | fire
The insurance company paid for the damage caused by the | fire
An alarm went off in the building, and we thought it was a | fire
He blew on the embers until he had a roaring | fire
The soldiers were ordered not to open | fire
The kitchen was destroyed when the oil in the pan caught | fire
She was thirsty, so she drank a glass of | water
The boat sank slowly into the | water
Fish cannot live long out of | water
He turned on the tap and filled the bucket with | water
The swimmer took a deep breath and dived into the | water
Boil the pasta in a large pot of salted | water
After the storm the cellar was flooded with | water
The plants died because nobody gave them any | water
In winter the mountains are covered with | snow
The children built a man out of | snow
The road was closed because of ice and | snow
He shovelled the driveway after a night of heavy | snow
The skiers were happy, for there was plenty of fresh | snow
The sled glided silently over the | snow
The fox left its tracks in the | snow
The band started to play, and we danced to the | music
The orchestra performed a beautiful piece of | music
She turned on the radio and listened to the | music
He studied piano and composition, for he loved classical | music
They could not sleep because the neighbours played loud | music
The singer wrote both the words and the | music
The dancers moved in time with the | music
The baker took a fresh loaf out of the oven and sliced the | bread
She spread butter and jam on a slice of | bread
He made a sandwich with cheese and two slices of | bread
The prisoners were given nothing but water and | bread
The smell of the bakery was the smell of freshly baked | bread
The ducks in the park came to be fed with | bread
Flour, yeast, salt and water are all that you need to bake | bread
""".strip().splitlines()


@dataclass(frozen=True)
class Text:
    """The tokens before a word, and the word."""

    ids: tuple[int, ...]
    word: str


@dataclass(frozen=True)
class Language:
    """A model, the tokens that say each word (the first is the one under study), texts to measure on, and texts to take means over."""

    name: str
    model: Any
    forms: dict[str, list[int]]
    texts: Sequence[Text]
    reference: Sequence[Text]
    note: str

    @property
    def word(self) -> str:
        """The word under study."""
        return next(iter(self.forms))


def language(model: str | None, count: int, seed: int) -> Language:
    """The sentence model, with `count` texts for the first word and half as many for each other; or the model of that name, with all texts.

    Raises: TautomerError if the model is no GPT-2, or a word is not one of its tokens.
    """
    return of_grammar(count, seed) if model is None else of_hub(model)


def of_grammar(count: int, seed: int) -> Language:
    """The sentence model and texts from its grammar."""
    left, texts, drawn = {thing: count if thing == THINGS[0] else max(1, count // 2) for thing in THINGS}, [], 0
    while any(left.values()):
        for sentence in sentences(50 * count, seed * 1_000 + drawn):
            if left[sentence.thing]:
                left[sentence.thing] -= 1
                texts.append(Text(tuple(token_ids(sentence.before)), sentence.thing))
        drawn += 1
    reference = [Text(tuple(token_ids(one.before)), one.thing) for one in sentences(2 * count, seed * 1_000 + 999)]
    forms = {thing: [vocabulary().index(thing)] for thing in THINGS}
    note = f"texts drawn from the grammar with seed {seed}; means over {len(reference)} others"
    return Language("the sentence model", load_sentence_model(), forms, texts, reference, note)


def of_hub(name: str) -> Language:
    """The GPT-2 of that name or folder, and the natural texts."""
    transformers = needed("transformers")
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(name), transformers.AutoModelForCausalLM.from_pretrained(name)
    if model.config.model_type != "gpt2":
        raise TautomerError(f"fire_direction: expected a GPT-2, got {model.config.model_type} in {name!r}. Name one, such as gpt2.")
    texts = []
    for before, word in (line.split(" | ") for line in NATURAL):
        start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        texts.append(Text((*start, *tokenizer(before, add_special_tokens=False)["input_ids"]), word))
    note = "texts of examples/fire/language.py; means over the same"
    return Language(name, model.float().eval(), {word: spellings(tokenizer, word) for word in WORDS}, texts, texts, note)


def spellings(tokenizer: Any, word: str) -> list[int]:
    """The tokens that are the word with or without a space or capital.

    Raises: TautomerError if there is none.
    """
    tried = (f" {word}", word, f" {word.capitalize()}", word.capitalize())
    found = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in tried]
    forms = list(dict.fromkeys(ids[0] for ids in found if len(ids) == 1 and ids[0] != tokenizer.unk_token_id))
    if not forms:
        raise TautomerError(f"fire_direction: expected {word!r} to be one token, got several. Use another model.")
    return forms
