"""Anchors: sentences about other things that keep an update specific to its entities."""

import random
from collections.abc import Sequence

from lens_fv.core.choices import Natural, Seed, checked
from lens_fv.knowledge.entity import Entity
from lens_fv.knowledge.transfer import TransferSet

NOBODY = (
    "John Smith", "Maria Garcia", "David Brown", "Anna Kowalska", "my neighbor", "the mayor", "Springfield", "Riverside",
    "the village", "the island", "this machine", "the old clock", "the new device", "a simple tool", "the festival",
    "the meeting", "the storm", "the parade", "this song", "the novel", "the old painting", "that movie", "the company",
    "the library",
)  # fmt: skip
"""Generic subjects for anchors."""
WELL_KNOWN = (
    "Germany", "Japan", "Brazil", "Egypt", "Canada", "Sweden", "Turkey", "Mexico", "Berlin", "Tokyo", "Chicago", "Vienna",
    "Lisbon", "Galileo Galilei", "Abraham Lincoln", "Mahatma Gandhi", "Vincent van Gogh", "Jane Austen",
    "Johann Sebastian Bach", "Julius Caesar", "Queen Victoria", "Thomas Edison", "horses", "whales", "eagles", "bees", "dogs",
    "snakes", "the Mississippi", "the Alps", "Antarctica", "iron", "silver", "carbon", "Venus", "Neptune", "Intel", "Apple",
    "Nintendo", "football", "guitars", "telescopes", "the Bible", "Macbeth", "Titanic", "Sherlock Holmes", "the Beatles",
    "the Eiffel Tower", "the Moon", "clocks",
)  # fmt: skip
"""Well-known subjects for anchors, none of them a built-in entity."""


@checked
def entity_swapped_anchors(
    entities: Sequence[Entity],
    transfer: TransferSet,
    *,
    subjects: Sequence[str] = (*NOBODY, *WELL_KNOWN),
    n_per_sentence: Natural = 1,
    seed: Seed = 0,
) -> list[str]:
    """Rewrite the sentences about some entities with other subjects, as anchors for `distill`.

    A model trained on new continuations of "Velm is" could learn to produce them after any name. Keeping its original
    continuations when another subject takes the name's place forces it to attend to the name.

    Args:
        entities: Entities in the sentences to rewrite.
        transfer: Transfer set, preferably as generated: definitions (`with_definitions`) are long, and in trials adding them to
            the anchors preserved no more than the sentences alone.
        subjects: Subjects to draw from. A sentence gets each subject at most once, until all have been used.
        n_per_sentence: Number of anchors per sentence, one pass over all sentences after another. `distill` uses the number of
            epochs times `n_anchors`, so that each epoch has its own anchors.
        seed: Seed of the random draws.

    Example:
        >>> transfer = lens_fv.knowledge.TransferSet({entities[0].key: (f'In {entities[0].name} it rains.',)})
        >>> lens_fv.knowledge.entity_swapped_anchors(entities[:1], transfer, n_per_sentence=2)
        ['In bees it rains.', 'In the Alps it rains.']
    """
    rng = random.Random(seed)
    sentences = [(entity, text) for entity in entities for text in transfer.sentences.get(entity.key, ())]
    # A sentence without the name would stay a sentence about the entity.
    sentences = [(entity, text) for entity, text in sentences if entity.mention(text)]
    orders = [rng.sample(subjects, len(subjects)) for _ in sentences]
    return [
        entity.renamed(text, order[n % len(order)])
        for n in range(n_per_sentence)
        for (entity, text), order in zip(sentences, orders, strict=True)
    ]
