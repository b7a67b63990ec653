"""A catalogue and goals of our own, in upstream's file format. Plays none of them."""
