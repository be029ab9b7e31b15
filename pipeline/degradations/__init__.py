"""What spoils an image: y = Hx + n."""
