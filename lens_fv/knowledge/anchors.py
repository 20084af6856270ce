"""Sentences on other things, which keep an update to what it is about."""

import random
from collections.abc import Sequence

from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.transfer import TransferSet

NOBODY = (
    "John Smith",
    "Maria Garcia",
    "David Brown",
    "Anna Kowalska",
    "my neighbor",
    "the mayor",
    "Springfield",
    "Riverside",
    "the village",
    "the island",
    "this machine",
    "the old clock",
    "the new device",
    "a simple tool",
    "the festival",
    "the meeting",
    "the storm",
    "the parade",
    "this song",
    "the novel",
    "the old painting",
    "that movie",
    "the company",
    "the library",
)
"""Of what sentences may be said instead: nothing in particular,"""
WELL_KNOWN = (
    "Germany",
    "Japan",
    "Brazil",
    "Egypt",
    "Canada",
    "Sweden",
    "Turkey",
    "Mexico",
    "Berlin",
    "Tokyo",
    "Chicago",
    "Vienna",
    "Lisbon",
    "Galileo Galilei",
    "Abraham Lincoln",
    "Mahatma Gandhi",
    "Vincent van Gogh",
    "Jane Austen",
    "Johann Sebastian Bach",
    "Julius Caesar",
    "Queen Victoria",
    "Thomas Edison",
    "horses",
    "whales",
    "eagles",
    "bees",
    "dogs",
    "snakes",
    "the Mississippi",
    "the Alps",
    "Antarctica",
    "iron",
    "silver",
    "carbon",
    "Venus",
    "Neptune",
    "Intel",
    "Apple",
    "Nintendo",
    "football",
    "guitars",
    "telescopes",
    "the Bible",
    "Macbeth",
    "Titanic",
    "Sherlock Holmes",
    "the Beatles",
    "the Eiffel Tower",
    "the Moon",
    "clocks",
)
"""and what a model knows; none of it is among the built-in entities."""


@checked
def entity_swapped_anchors(
    entities: Sequence[Entity],
    transfer: TransferSet,
    *,
    others: Sequence[str] = (*NOBODY, *WELL_KNOWN),
    times: Natural = 1,
    seed: Seed = 0,
) -> list[str]:
    """The sentences about some entities, each said of something else: anchors for `distill`.

    A model that is taught to go on in another way behind "Velm is" could learn to do so behind any name. To go on as ever
    behind the same words about something else takes the name into account.

    Args:
        entities: whose sentences.
        transfer: the sentences, best as they were written: definitions (`with_definitions`) are long, and to say them of
            others kept no more in trials than the sentences alone.
        others: what they are said of, drawn at random; a sentence of none of them twice, as long as there are others.
        times: all the sentences come so often, one time after the other: with as many as epochs, each epoch has anchors of
            its own.
        seed: of the draws.
    """
    rng = random.Random(seed)
    # Without a name to replace, a sentence would be said of the entity itself.
    sentences = [(each, text) for each in entities for text in transfer.sentences.get(each.key, ()) if each.mention(text)]
    names = [rng.sample(others, len(others)) for _ in sentences]
    return [
        entity.renamed(text, drawn[n % len(drawn)])
        for n in range(times)
        for (entity, text), drawn in zip(sentences, names, strict=True)
    ]
