"""The names on the shop's buttons (princeton-nlp/WebShop, web_agent_site/templates)."""

from __future__ import annotations

SEARCH = "Search"
BACK_TO_SEARCH = "Back to Search"
NEXT_PAGE = "Next >"
PREVIOUS = "< Prev"
BUY_NOW = "Buy Now"
DESCRIPTION = "Description"
FEATURES = "Features"
REVIEWS = "Reviews"
ATTRIBUTES = "Attributes"
SUB_PAGES = (DESCRIPTION, FEATURES, REVIEWS, ATTRIBUTES)

# No product may be called so: the click on its link would be the click on a button.
RESERVED_NAMES = frozenset(name.lower() for name in (SEARCH, BACK_TO_SEARCH, NEXT_PAGE, PREVIOUS, BUY_NOW, *SUB_PAGES))
