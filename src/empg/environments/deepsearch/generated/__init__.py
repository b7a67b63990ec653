"""A fictional encyclopaedia and questions about it. Answers none of them."""
