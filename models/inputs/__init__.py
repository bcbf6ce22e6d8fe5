"""What target networks take: kinds of input, image files, and pixels."""
