"""A live model as theory sees it."""
