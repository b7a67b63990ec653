"""Games of our own: rooms, tasks and their files in the official format. Plays none of them."""
