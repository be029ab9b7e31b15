"""One module per stage: settings to objects, call, write."""
