"""WebShop: upstream's shop without its web stack, and a shop of our own, see ``docs/webshop.md``. Imports no other
environment.
"""
