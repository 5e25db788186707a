"""The models room: image and text towers, the two-tower model, and the bundle."""
