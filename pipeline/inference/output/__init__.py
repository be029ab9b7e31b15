"""What lies in an output folder: a record per series, views made from them, locks, and names of nobody."""
