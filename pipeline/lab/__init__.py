"""Small honest experiments on what the lectures claim: the rule first, then three seeds, then a verdict."""
