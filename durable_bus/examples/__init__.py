"""Apps and programs written as a user would write them, with the public names only."""
