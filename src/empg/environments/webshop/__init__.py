"""WebShop: upstream's shop without its web stack, and a shop of our own that needs no download."""

from empg.environments.webshop.goals import Goal
from empg.environments.webshop.shop import Shop

__all__ = ["Goal", "Shop"]
