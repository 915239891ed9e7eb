"""What the gateway tells about itself: which services it has, what calls cost, whether it is up."""
