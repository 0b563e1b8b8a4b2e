"""Where the README's numbers come from."""
