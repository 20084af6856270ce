"""Can it be taught facts that spread?"""

from lens_fv.knowledge.entity import Entity, EntityProbe
from lens_fv.knowledge.readers import read_entities

__all__ = ["Entity", "EntityProbe", "read_entities"]
