"""What theory says the first step will show."""
