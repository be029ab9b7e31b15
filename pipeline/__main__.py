"""`python -m pipeline` is `ldct`; dvc.yaml calls it: an experiment runs its own snapshot of the code."""

from pipeline.cli import main

main()
